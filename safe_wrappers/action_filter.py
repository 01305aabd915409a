"""What ``RecoveryFilter`` and ``SafetyLayer`` share: an action is decided on before the environment executes it."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
from numpy.typing import NDArray

from safe_wrappers.actions import check_proposed, clip_to_box
from safe_wrappers.info import EXECUTED_ACTION, INTERVENED, PROPOSED_ACTION
from safe_wrappers.observations import batch_of_one

Decision = tuple[NDArray[Any], bool, dict[str, Any]]
"""The action to execute ``[1, ...]``, whether the filter intervened, and what else ``info`` gets."""


class ActionFilter(gym.Wrapper):
    """Wrapper that executes what ``_decide`` makes of an action, and says so in ``info``; a base class.

    An action beyond its bounds is clipped first, so that the decision is about what would be executed.
    """

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
        executed, intervened, extra = self._decide(clip_to_box(proposed, self.action_space))
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
        """What becomes of a checked and clipped action ``[1, ...]`` at the observation ``self._observation``."""
        raise NotImplementedError
