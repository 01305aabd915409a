"""What ``RecoveryFilter`` and ``SafetyLayer`` share: an action is decided on before the environment executes it."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from safe_wrappers.info import EXECUTED_ACTION, INTERVENED, PROPOSED_ACTION
from safe_wrappers.observations import batch_of_one

Decision = tuple[NDArray[Any], bool, dict[str, Any]]
"""The action to execute ``[1, ...]``, whether the filter intervened, and what else ``info`` gets."""


class ActionFilter(gym.Wrapper):
    """Wrapper that executes what ``_decide`` makes of an action, and says so in ``info``; a base class."""

    _observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and remember the observation for the first decision."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._observation = batch_of_one(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Execute the proposed action, or what replaces it."""
        if self._observation is None:
            raise gym.error.ResetNeeded("call reset() before step(): the decision is about the last observation")
        proposed = check_proposed(action, self.action_space.shape)[None]
        executed, intervened, extra = self._decide(proposed)
        observation, reward, terminated, truncated, info = self.env.step(executed[0].copy())
        self._observation = batch_of_one(observation)
        info = {
            **info,
            PROPOSED_ACTION: proposed[0],
            EXECUTED_ACTION: info.get(EXECUTED_ACTION, executed[0]),
            INTERVENED: intervened or bool(info.get(INTERVENED, False)),
            **extra,
        }
        return observation, reward, terminated, truncated, info

    def _decide(self, proposed: NDArray[Any]) -> Decision:
        """What becomes of a checked action ``[1, ...]`` at the observation ``self._observation``."""
        raise NotImplementedError


def check_proposed(action: Any, shape: tuple[int, ...] | None) -> NDArray[Any]:
    """The proposed action (or batch of them) as a finite array of its own; ``shape`` None: any.

    An action beyond the bounds passes: what to do with it is the environment's own rule (most clip).
    """
    proposed = np.array(action)
    if shape is not None and proposed.shape != shape:
        raise ValueError(f"expected an action of shape {shape}, got {action!r} of shape {proposed.shape}")
    if proposed.dtype.kind not in "biuf" or not np.isfinite(proposed).all():
        raise ValueError(f"expected a finite action, got {action!r}; the environment has not been stepped")
    return proposed
