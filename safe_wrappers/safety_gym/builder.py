"""The class behind all navigation and vision IDs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from safe_wrappers.safety_gym.combined import combine
from safe_wrappers.safety_gym.fast import FastTask

# They follow `fast`, which loads Safety-Gymnasium.
import safety_gymnasium  # isort: skip
from safety_gymnasium import tasks  # isort: skip
from safety_gymnasium.builder import Builder  # isort: skip
from safety_gymnasium.utils.task_utils import get_task_class_name  # isort: skip

VILLAGE_FLOOR = Path(safety_gymnasium.__file__).parent / "assets" / "textures" / "village_floor.PNG"


class SafetyBuilder(Builder):
    """Safety-Gymnasium's environment of six-tuples, with the fast tasks, and copies that go on as the original.

    Args:
        task_id: as in ``Builder``.
        config: as in ``Builder``.
        fast: ``False`` for Safety-Gymnasium's own tasks, which do the same more slowly.
        **kwargs: ``render_mode``, ``width``, ``height``, ``camera_id``, ``camera_name``.

    Raises:
        FileNotFoundError: for the Race tasks, whose floor is missing in every release of Safety-Gymnasium.
    """

    def __init__(self, task_id: str, config: dict[str, Any], *, fast: bool = True, **kwargs: Any) -> None:
        if config.get("floor_conf.type") == "village" and not VILLAGE_FLOOR.exists():
            raise FileNotFoundError(
                f"{task_id} cannot be built: Safety-Gymnasium was released without {VILLAGE_FLOOR.name}, the floor of "
                "the Race tasks; take a Circle, Goal, Button, Push, Run or Fading task"
            )
        self.fast = fast
        self._cost_terms: list[str] = []  # of the last step
        super().__init__(task_id, config, **kwargs)

    def _get_task(self) -> Any:
        if not self.fast:
            return super()._get_task()
        task = combine(FastTask, getattr(tasks, get_task_class_name(self.task_id)))(config=self.config)
        task.build_observation_space()
        return task

    def set_seed(self, seed: int | None = None) -> None:
        """Seed the task; without a seed from this environment's generator, where the original takes NumPy's."""
        super().set_seed(int(self.np_random.integers(2**32)) if seed is None else seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Build a new layout."""
        gym.Env.reset(self, seed=seed)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, ...]:
        """Step: ``(observation, reward, cost, terminated, truncated, info)``."""
        try:
            result: tuple[Any, ...] = super().step(np.asarray(action, dtype=np.float64))
        except UnboundLocalError:  # the original has no cost to return where the physics failed
            reward = self.task.reward_conf.reward_exception
            info = {**dict.fromkeys(self._cost_terms, 0.0), "cost_exception": 1.0}
            return self.task.obs(), reward, 0.0, self.terminated, self.truncated, info
        self._cost_terms = [key for key in result[-1] if key.startswith("cost_")]
        return result

    def close(self) -> None:
        """Close the viewers."""
        while self.task._viewers:
            self.task._viewers.popitem()[1].close()
        self.task.viewer = None

    def __getstate__(self) -> dict[str, Any]:
        task = copy.copy(self.task)
        task.viewer, task._viewers = None, {}  # graphics contexts belong to the original
        return {**self.__dict__, "task": task}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
