"""``TaskDistribution``: environments that differ in their arguments, some to learn from and one to be tested in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np

Task: TypeAlias = dict[str, Any]
"""Arguments of the environment."""
Draw: TypeAlias = Callable[[np.random.Generator], Mapping[str, Any]]

_TRAIN, _TEST = 0, 1


@dataclass(frozen=True)
class TaskDistribution:
    """Environments of one ID whose dynamics differ, as in MESA (section 6.1).

    Training and test tasks come from streams of their own, so that the number of training tasks does not change the
    test task of a seed.

    Attributes:
        env_id: environment that all tasks are made of.
        train: arguments of the training tasks: a list of all there are, or a function that draws them.
        test: arguments of the test task, or a function that draws them.
        common: arguments that all tasks share.

    Example:
        >>> tasks = TaskDistribution("Pendulum-v1", train=lambda rng: {"g": rng.uniform(5, 9)}, test={"g": 10.0})
        >>> [round(task["g"], 2) for task in tasks.training_tasks(2, seed=0)], tasks.test_task(seed=0)
        ([8.77, 6.27], {'g': 10.0})
        >>> tasks.make(tasks.test_task(seed=0)).unwrapped.g
        10.0
    """

    env_id: str
    train: Sequence[Mapping[str, Any]] | Draw
    test: Mapping[str, Any] | Draw
    common: Mapping[str, Any] = field(default_factory=dict)

    def training_tasks(self, n: int | None = None, seed: int = 0) -> list[Task]:
        """``n`` training tasks; None: all, where they are a list.

        Raises:
            ValueError: if ``n`` is missing, below 1, or more than there are.
        """
        if callable(self.train):
            if n is None or n < 1:
                raise ValueError(f"the training tasks of {self.env_id} are drawn: say how many (n >= 1), got {n}")
            rng = _stream(seed, _TRAIN)
            return [{**self.common, **self.train(rng)} for _ in range(n)]
        known = len(self.train)
        n = known if n is None else n
        if not 1 <= n <= known:
            raise ValueError(f"{self.env_id} has {known} training tasks, got n={n}")
        return [{**self.common, **task} for task in self.train[:n]]

    def test_task(self, seed: int = 0) -> Task:
        """The test task of a seed."""
        test = self.test(_stream(seed, _TEST)) if callable(self.test) else self.test
        return {**self.common, **test}

    def make(self, task: Mapping[str, Any], **kwargs: Any) -> gym.Env[Any, Any]:
        """The environment of a task; further arguments as for ``gym.make``."""
        return gym.make(self.env_id, **{**task, **kwargs})


def _stream(seed: int, which: int) -> np.random.Generator:
    """Of its own: not that of ``default_rng(seed)`` either, with which environments of that seed begin."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(which,)))
