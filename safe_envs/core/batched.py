"""``BatchedTask``: dynamics on arrays, written once; ``TaskEnv``: the single environment that runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import ArrayLike, NDArray

from safe_envs.core.env import CostAggregate, Outcome, SafeEnv
from safe_envs.core.geometry import BoolArray, FloatArray, Scene

STATE_OPTION = "state"
"""Key of ``reset(options=...)`` that sets the start position."""


class Outcomes(NamedTuple):
    """``Outcome`` for ``n`` environments; each ``[n]``."""

    rewards: FloatArray
    terminations: BoolArray
    successes: BoolArray


class BatchedTask(ABC):
    """A planar task whose dynamics run on ``n`` independent copies at once.

    A state is one row of a float64 array ``[n, k]`` whose first two columns are the position. The methods
    keep nothing between calls, so one task serves a single environment, a vector environment and a data
    collector.

    Attributes:
        scene: what is drawn, and what the task is about.
        observation_space: of one copy.
        action_space: of one copy.
        state_size: ``k``.
        cost_names: names of the cost terms.
        cost_aggregate: how the terms make up the cost.
    """

    scene: Scene
    observation_space: spaces.Box
    action_space: spaces.Box
    state_size: int
    cost_names: tuple[str, ...]
    cost_aggregate: CostAggregate = "sum"

    @abstractmethod
    def initial_states(self, rng: np.random.Generator, n: int) -> FloatArray:
        """States of ``n`` new episodes, ``[n, k]``."""

    @abstractmethod
    def states_at(self, positions: FloatArray) -> FloatArray:
        """States of episodes that start at given positions ``[n, 2]``, as ``[n, k]``.

        Raises:
            ValueError: if an episode cannot start at one of them.
        """

    @abstractmethod
    def simulate(self, rng: np.random.Generator, states: FloatArray, actions: FloatArray) -> FloatArray:
        """Next states ``[n, k]`` after clipped actions ``[n, a]``, a new array."""

    @abstractmethod
    def cost_terms(self, states: FloatArray) -> dict[str, FloatArray]:
        """Cost terms of the states, each ``[n]`` and >= 0."""

    @abstractmethod
    def outcomes(self, states: FloatArray, next_states: FloatArray, violations: BoolArray) -> Outcomes:
        """Rewards, terminations and successes, each ``[n]``, of the steps between the states."""

    def observe(self, states: FloatArray) -> NDArray[np.float32]:
        """Observations ``[n, ...]``, a new array; by default the position."""
        return self.positions(states).astype(np.float32)

    def positions(self, states: FloatArray) -> FloatArray:
        """Positions ``[n, 2]`` of the states."""
        return states[:, :2]

    def total_costs(self, terms: Mapping[str, FloatArray]) -> FloatArray:
        """The declared aggregate of the cost terms, ``[n]``, a new array."""
        total: FloatArray = np.add.reduce(list(terms.values()))
        return np.minimum(total, 1.0) if self.cost_aggregate == "any" else total

    def start_states(self, rng: np.random.Generator, n: int, options: Mapping[str, Any]) -> FloatArray:
        """States of new episodes ``[n, k]``, at ``options["state"]`` (``[2]`` or ``[n, 2]``) where given.

        Raises:
            ValueError: if that option is no finite position, or one where an episode cannot start.
        """
        if STATE_OPTION not in options:
            return self.initial_states(rng, n)
        return self.states_at(_as_positions(options[STATE_OPTION], n))


class TaskEnv(SafeEnv):
    """The single environment of a batched task: its dynamics with ``n = 1``.

    Args:
        render_mode: see ``SafeEnv``.
        **task_kwargs: arguments of the task (``task_type``).
    """

    task_type: ClassVar[Callable[..., BatchedTask]]
    reset_options = (STATE_OPTION,)

    def __init__(self, render_mode: str | None = None, **task_kwargs: Any) -> None:
        self.task = self.task_type(**task_kwargs)
        self.observation_space = self.task.observation_space
        self.action_space = self.task.action_space
        self.cost_names, self.cost_aggregate = self.task.cost_names, self.task.cost_aggregate
        super().__init__(render_mode)
        self._previous = self._states = np.zeros((1, self.task.state_size))
        self._path: list[FloatArray] = []

    @property
    def scene(self) -> Scene:
        """The scene that the agent moves in."""
        return self.task.scene

    @property
    def state(self) -> FloatArray:
        """A copy of the current state, ``[k]``."""
        row: FloatArray = self._states[0].copy()
        return row

    def _reset_state(self, options: Mapping[str, Any]) -> None:
        self._states = self.task.start_states(self.np_random, 1, options)
        self._path = [self._states]

    def _simulate(self, action: FloatArray) -> None:
        self._previous = self._states
        self._states = self.task.simulate(self.np_random, self._states, action[None])
        if self.render_mode is not None:
            self._path.append(self._states)

    def _cost_terms(self) -> dict[str, float]:
        return {name: float(term[0]) for name, term in self.task.cost_terms(self._states).items()}

    def _outcome(self, violation: bool) -> Outcome:
        rewards, terminations, successes = self.task.outcomes(self._previous, self._states, np.array([violation]))
        return Outcome(float(rewards[0]), bool(terminations[0]), bool(successes[0]))

    def _observation(self) -> NDArray[np.float32]:
        observation: NDArray[np.float32] = self.task.observe(self._states)[0]
        return observation

    def _create_renderer(self) -> Any:
        from safe_envs.core.rendering import SceneRenderer

        return SceneRenderer(self.scene)

    def _draw(self) -> NDArray[np.uint8]:
        if not self._is_ready:
            raise ResetNeeded("call reset() before render()")
        frame: NDArray[np.uint8] = self._renderer.draw(self.task.positions(np.concatenate(self._path)))
        return frame


def _as_positions(value: ArrayLike, n: int) -> FloatArray:
    problem = f"options['{STATE_OPTION}'] must be a finite (x, y), or {n} of them, got {value!r}"
    try:
        positions = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(problem) from None
    if positions.shape not in ((2,), (n, 2)) or not np.isfinite(positions).all():
        raise ValueError(problem)
    return np.broadcast_to(positions, (n, 2))
