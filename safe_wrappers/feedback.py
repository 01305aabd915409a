"""``PreviousFeedback``: the last reward and cost become part of the observation."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from safe_wrappers.info import check_missing_cost, read_cost

OBSERVATION = "observation"
"""Entry that holds what was a Box observation."""
PREVIOUS_REWARD = "previous_reward"
PREVIOUS_COST = "previous_cost"
FEEDBACK = (PREVIOUS_REWARD, PREVIOUS_COST)


class PreviousFeedback(gym.Wrapper, RecordConstructorArgs):
    """Adds ``previous_reward`` and ``previous_cost``, ``[1]`` float32 each, to the observation; 0 after a reset.

    A recurrent agent then feels at once when it touches something, and can step back (safe transfer, section 2.1). A
    Dict observation gets two more entries; any other becomes a Dict with itself as ``observation``.

    Args:
        env: environment whose steps carry ``info["cost"]``.
        reward_scale: the reward is shown multiplied by this.
        cost_scale: the cost is shown multiplied by this.
        missing_cost: what a step without a cost means: ``"raise"``, or ``"zero"`` for safe.

    Raises:
        ValueError: if a scale is not finite and positive, or the observation has an entry of these names already.
        MissingCostError: in ``step``, if the step has no cost and ``missing_cost="raise"``.

    Example:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), lambda obs, action, next_obs, info: 0.5)
        >>> env = PreviousFeedback(env, cost_scale=10.0)
        >>> obs, _ = env.reset(seed=0)
        >>> sorted(obs), obs["previous_cost"]
        (['observation', 'previous_cost', 'previous_reward'], array([0.], dtype=float32))
        >>> env.step([1.0])[0]["previous_cost"]
        array([5.], dtype=float32)
    """

    def __init__(
        self, env: gym.Env, reward_scale: float = 1.0, cost_scale: float = 1.0, missing_cost: str = "raise"
    ) -> None:
        for name, scale in (("reward_scale", reward_scale), ("cost_scale", cost_scale)):
            if not (math.isfinite(scale) and scale > 0.0):
                raise ValueError(f"{name} must be finite and > 0, got {scale}")
        RecordConstructorArgs.__init__(
            self, reward_scale=reward_scale, cost_scale=cost_scale, missing_cost=missing_cost
        )
        gym.Wrapper.__init__(self, env)
        self.reward_scale, self.cost_scale = float(reward_scale), float(cost_scale)
        self.missing_cost = check_missing_cost(missing_cost)
        self.observation_space = spaces.Dict({**_entries(env.observation_space), **_feedback_space()})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; nothing has been received yet."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._shown(observation, 0.0, 0.0), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and show what it gave."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        cost = read_cost(info, self.missing_cost)
        shown = self._shown(observation, self.reward_scale * float(reward), self.cost_scale * cost)
        return shown, reward, terminated, truncated, info

    def _shown(self, observation: Any, reward: float, cost: float) -> dict[str, Any]:
        entries = observation if isinstance(self.env.observation_space, spaces.Dict) else {OBSERVATION: observation}
        return {**entries, PREVIOUS_REWARD: _number(reward), PREVIOUS_COST: _number(cost)}


def _entries(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    entries = dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
    taken = [name for name in FEEDBACK if name in entries]
    if taken:
        raise ValueError(f"the observation has {taken} already: wrap an environment in PreviousFeedback only once")
    return entries


def _feedback_space() -> dict[str, spaces.Space[Any]]:
    return {
        PREVIOUS_REWARD: spaces.Box(-np.inf, np.inf, (1,), np.float32),
        PREVIOUS_COST: spaces.Box(0.0, np.inf, (1,), np.float32),
    }


def _number(value: float) -> NDArray[np.float32]:
    return np.array([value], dtype=np.float32)
