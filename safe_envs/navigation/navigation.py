"""Navigation 1 and 2 (Recovery RL): a noisy linear point mass, and obstacles that it must not touch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike

from safe_envs.core.batched import BatchedTask, Outcomes, TaskEnv
from safe_envs.core.geometry import BoolArray, FloatArray, Rectangle, Scene
from safe_envs.core.vector import TaskVectorEnv
from safe_envs.navigation.layouts import (
    NAVIGATION_EXTENTS,
    NAVIGATION_GOAL,
    NAVIGATION_OBSTACLES,
    NAVIGATION_START,
)

IDENTITY = ((1.0, 0.0), (0.0, 1.0))
NOISE_STD = 0.05
START_STD = 1.0
SUCCESS_RADIUS = 4.0

_IN_OBSTACLE = 2
"""Column of the state array that holds 1.0 where the position lies in an obstacle."""


class NavigationTask(BatchedTask):
    """Linear-Gaussian dynamics ``s' = A s + B a + w`` with ``w ~ N(0, noise_std^2 I)``.

    A position inside an obstacle is frozen: ``s' = s``. The constraint is violated where ``s'`` lies in an
    obstacle (closed rectangles). The reward is minus the distance of the *pre-step* position to the goal, and
    success is a pre-step distance below ``success_radius``, so success lags one step behind arriving, as in
    the released code.

    Args:
        scene: ``"navigation1"``, ``"navigation2"`` or a scene of one's own.
        obstacles: rectangles that replace the scene's.
        A: 2x2 matrix of the state.
        B: 2x2 matrix of the action; MESA draws its diagonal from U(0.5, 1.5).
        noise_std: standard deviation of the noise per axis, >= 0.
        start_std: standard deviation of the start position per axis, >= 0.
        success_radius: distance below which the goal is reached, > 0; None: the scene's ``goal_radius``, in the
            named scenes 4 as in the released code, of which older versions ended the episode at 1.
        terminate_on_violation: whether a violation ends the episode, as in the paper.

    Raises:
        ValueError: if an argument does not fit the description above.
    """

    state_size = 3
    cost_names = ("obstacle",)

    def __init__(
        self,
        scene: Scene | str = "navigation1",
        obstacles: Sequence[Rectangle] | None = None,
        A: ArrayLike = IDENTITY,  # noqa: N803 - the paper's symbols
        B: ArrayLike = IDENTITY,  # noqa: N803
        noise_std: float = NOISE_STD,
        start_std: float = START_STD,
        success_radius: float | None = None,
        terminate_on_violation: bool = True,
    ) -> None:
        if success_radius is not None and not 0.0 < success_radius < np.inf:
            raise ValueError(f"success_radius must be finite and > 0, or None, got {success_radius}")
        base = scene if isinstance(scene, Scene) else _named_scene(scene)
        chosen = base.obstacles if obstacles is None else tuple(obstacles)
        radius = base.goal_radius if success_radius is None else success_radius
        self.scene = Scene(base.extent, chosen, base.start, base.goal, radius)
        # Transposed once: rows of states are multiplied from the left.
        self._state_matrix, self._action_matrix = _matrix("A", A).T, _matrix("B", B).T
        self._noise_std = _non_negative("noise_std", noise_std)
        self._start_std = _non_negative("start_std", start_std)
        self._terminate_on_violation = terminate_on_violation
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def initial_states(self, rng: np.random.Generator, n: int) -> FloatArray:
        """States at ``start + N(0, start_std^2 I)``."""
        return self.states_at(np.asarray(self.scene.start) + self._start_std * rng.standard_normal((n, 2)))

    def states_at(self, positions: FloatArray) -> FloatArray:
        """Position and whether it lies in an obstacle, ``[n, 3]``."""
        states = np.empty((len(positions), self.state_size))
        states[:, :_IN_OBSTACLE] = positions
        states[:, _IN_OBSTACLE] = self.scene.inside_obstacle(positions)
        return states

    def simulate(self, rng: np.random.Generator, states: FloatArray, actions: FloatArray) -> FloatArray:
        """One step of the dynamics; see the class."""
        positions = states[:, :_IN_OBSTACLE] @ self._state_matrix
        positions += actions @ self._action_matrix
        positions += self._noise_std * rng.standard_normal(positions.shape)
        frozen = states[:, _IN_OBSTACLE] > 0.0
        if frozen.any():
            positions[frozen] = states[frozen, :_IN_OBSTACLE]
        return self.states_at(positions)

    def cost_terms(self, states: FloatArray) -> dict[str, FloatArray]:
        """1 where the position lies in an obstacle."""
        return {"obstacle": states[:, _IN_OBSTACLE].copy()}

    def outcomes(self, states: FloatArray, next_states: FloatArray, violations: BoolArray) -> Outcomes:
        """Rewards and successes of the pre-step positions; see the class."""
        goal_x, goal_y = self.scene.goal
        distances: FloatArray = np.hypot(states[:, 0] - goal_x, states[:, 1] - goal_y)
        successes = distances < self.scene.goal_radius
        terminations = successes | violations if self._terminate_on_violation else successes.copy()
        return Outcomes(-distances, terminations, successes)


class NavigationEnv(TaskEnv):
    """Navigation 1 and 2 of Recovery RL (Thananjeyan et al., 2021, section V-A and the released code).

    The observation is the position (x, y), unbounded; the action moves the agent by up to 1 per axis.
    Episodes start near (-50, 0), the goal is (0, 0), and the time limit is 100 steps. Navigation 1 is a
    corridor ``|y| < 5``, Navigation 2 has one block in the way. Costs are 0 or 1; ``reset(options={"state":
    [x, y]})`` sets the start.

    The papers' text counts leaving the workspace as a violation; the released code, which this follows, has
    no such boundary.

    Args:
        render_mode: ``None``, ``"rgb_array"`` or ``"human"``.
        **task_kwargs: arguments of ``NavigationTask``.
    """

    task_type = NavigationTask


class NavigationVectorEnv(TaskVectorEnv):
    """Many copies of ``NavigationEnv``; see ``TaskVectorEnv``."""

    task_type = NavigationTask


def _named_scene(name: str) -> Scene:
    if not isinstance(name, str) or name not in NAVIGATION_OBSTACLES:
        raise ValueError(f"scene must be a Scene or one of {sorted(NAVIGATION_OBSTACLES)}, got {name!r}")
    extent, obstacles = NAVIGATION_EXTENTS[name], NAVIGATION_OBSTACLES[name]
    return Scene(extent, obstacles, NAVIGATION_START, NAVIGATION_GOAL, SUCCESS_RADIUS)


def _matrix(name: str, value: ArrayLike) -> FloatArray:
    matrix = np.array(value, dtype=np.float64)
    if matrix.shape != (2, 2) or not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be a finite 2x2 matrix, got {value!r}")
    return matrix


def _non_negative(name: str, value: float) -> float:
    if not (np.isfinite(value) and value >= 0.0):
        raise ValueError(f"{name} must be finite and >= 0, got {value}")
    return float(value)
