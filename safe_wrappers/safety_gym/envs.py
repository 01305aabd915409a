"""What the registered IDs build: five-tuples out of Safety-Gymnasium, six-tuples out of Gymnasium."""

from __future__ import annotations

import copy
import math
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.registration import load_env_creator

from safe_wrappers.cost import Step
from safe_wrappers.dialects import FromSixTuple, ToSixTuple
from safe_wrappers.info import SIMULATION_ERROR

UNSTABLE = {
    int(mujoco.mjtWarning.mjWARN_BADQPOS): "position",
    int(mujoco.mjtWarning.mjWARN_BADQVEL): "velocity",
    int(mujoco.mjtWarning.mjWARN_BADQACC): "acceleration",
}
"""Warnings after which MuJoCo silently starts again from the initial state."""


class SafetyGymEnv(FromSixTuple):
    """A Safety-Gymnasium environment as SB3 and this package expect one.

    ``info`` has ``cost``, ``constraint_violation`` and Safety-Gymnasium's ``cost_<term>``; where the physics became
    unstable the step truncates the episode and says so in ``info["simulation_error"]``.

    Args:
        env: environment of six-tuples.

    Raises:
        ValueError: in ``step``, if the action has another shape than the action space or is not finite.
    """

    def step(self, action: Any) -> Step:
        """Step the environment."""
        observation, reward, terminated, truncated, info = super().step(self._checked(action))
        info.pop("cost_sum", None)  # the same as the cost
        error = self._simulation_error(info)
        if error is not None:
            truncated, info[SIMULATION_ERROR] = True, error
        return observation, float(reward), bool(terminated), bool(truncated), info

    def _checked(self, action: Any) -> Any:
        action = np.asarray(action)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action must be finite and of shape {self.action_space.shape}, got {action}")
        return action

    def _simulation_error(self, info: dict[str, Any]) -> str | None:
        if info.pop("cost_exception", None) is not None:
            return "MuJoCo raised an exception"
        env: Any = self.unwrapped
        data = getattr(getattr(env, "task", env), "data", None)
        for warning, quantity in UNSTABLE.items():
            if data is not None and data.warning[warning].number:
                return f"the physics became unstable: MuJoCo met an infinite or very large {quantity}"
        return None


def make_five_tuple(env_id: str, **kwargs: Any) -> gym.Env:
    """Entry point of the five-tuple IDs; time limit and checks are left to ``gymnasium.make``."""
    spec = gym.registry[env_id]
    creator: Any = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    env = SafetyGymEnv(creator(**{**copy.deepcopy(spec.kwargs), **kwargs}))
    task: Any = getattr(env.unwrapped, "task", None)
    if spec.max_episode_steps is not None and hasattr(task, "num_steps"):
        task.num_steps = math.inf  # a second time limit, which no `max_episode_steps` could raise
    return env


def make_six_tuple(env_id: str, **kwargs: Any) -> gym.Env:
    """Entry point of the six-tuple IDs; the time limit is left to Safety-Gymnasium's ``make``."""
    return ToSixTuple(gym.make(env_id, max_episode_steps=-1, disable_env_checker=True, **kwargs))
