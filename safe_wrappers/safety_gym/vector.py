"""Safety-Gymnasium's two vector environments, whose ``step`` returns six arrays, over Gymnasium's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from safe_wrappers.dialects import FromSixTuple
from safe_wrappers.info import COST

SixArrays = tuple[Any, Any, Any, Any, Any, dict[str, Any]]


def _five_values(env_fn: Callable[[], gym.Env]) -> gym.Env:
    return FromSixTuple(env_fn())


def _six_arrays(step: tuple[Any, ...]) -> SixArrays:
    """Take the cost out of the infos; where an episode ended, they are those of the next one's reset."""
    observations, rewards, terminated, truncated, infos = step
    costs = np.array(infos.pop(COST, np.zeros(len(rewards))), dtype=np.float64)
    infos.pop(f"_{COST}", None)
    if "final_info" in infos:
        ended = infos["_final_info"]
        costs[ended] = infos["final_info"][COST][ended]
    return observations, rewards, costs, terminated, truncated, infos


# Safety-Gymnasium's wrappers accept vector environments, and are Gymnasium wrappers, which accept only `gym.Env`.
class SafetySyncVectorEnv(SyncVectorEnv, gym.Env):  # type: ignore[misc]
    """Environments of six values, stepped one after the other; an episode's end and the reset share one step.

    Args:
        env_fns: functions that make one environment each.
        copy: as in ``gymnasium.vector.SyncVectorEnv``.
    """

    is_vector_env = True

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]], copy: bool = True) -> None:
        env_fns = [partial(_five_values, env_fn) for env_fn in env_fns]
        super().__init__(env_fns, copy=copy, autoreset_mode=AutoresetMode.SAME_STEP)

    def step(self, actions: Any) -> SixArrays:  # type: ignore[override]  # six values are this dialect
        """Step all environments: ``(observations, rewards, costs, terminated, truncated, infos)``."""
        return _six_arrays(super().step(actions))


class SafetyAsyncVectorEnv(AsyncVectorEnv, gym.Env):  # type: ignore[misc]
    """Environments of six values in one process each; an episode's end and the reset share one step.

    Args:
        env_fns: functions that make one environment each.
        **kwargs: arguments of ``gymnasium.vector.AsyncVectorEnv``.
    """

    is_vector_env = True

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]], **kwargs: Any) -> None:
        env_fns = [partial(_five_values, env_fn) for env_fn in env_fns]
        super().__init__(env_fns, autoreset_mode=AutoresetMode.SAME_STEP, **kwargs)

    def step_wait(self, timeout: float | None = None) -> SixArrays:  # type: ignore[override]
        """The second half of ``step``: ``(observations, rewards, costs, terminated, truncated, infos)``."""
        return _six_arrays(super().step_wait(timeout))
