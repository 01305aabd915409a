"""DrunkSpider (SQRL): a narrow bridge between lava pits, and a longer way around."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import numpy as np
from gymnasium import spaces

from safe_envs.core.batched import BatchedTask, Outcomes, TaskEnv
from safe_envs.core.geometry import BoolArray, FloatArray, Point, Scene
from safe_envs.core.vector import TaskVectorEnv
from safe_envs.navigation.layouts import SPIDER_MAPS, GridMap

RewardKind: TypeAlias = Literal["plain", "released"]

SUBSTEPS = 10
SUBSTEP_LENGTH = 0.1
ACTION_NOISE = 0.1
HORIZON = 30
GOAL_RADIUS = 1.0
SUCCESS_REWARD = 30.0
TIME_OUT_REWARD = -30.0

_FALLEN, _TIME = 2, 3
"""Columns of the state array after the position."""

_BORDER = 2
"""Cells of nothing around the map. One step is at most one cell long; the second guards against rounding."""


def _path_offsets() -> FloatArray:
    """Share of the action done after each half of each substep, ``[2 * SUBSTEPS, 2]``; x moves first."""
    done = SUBSTEP_LENGTH * np.arange(SUBSTEPS + 1)
    return np.stack([np.repeat(done[1:], 2), np.repeat(done, 2)[1:-1]], axis=1)


_PATH_OFFSETS = _path_offsets()


class DrunkSpiderTask(BatchedTask):
    """A point on a grid of floor and lava, whose actions are disturbed.

    A step is 10 substeps of 0.1; in each the agent moves along x, then along y, and falls where it is on lava
    or has left the map. A fallen agent stops moving, and the episode ends.

    Args:
        layout: ``"short"`` (8x7 cells), ``"long"`` (10x7 cells) or a map of one's own.
        action_noise: width >= 0 of the uniform noise, centred at 0, that is added to the action before
            clipping. The paper uses 0.1, and 0.2 for its study of thresholds.
        start: (x, y) on the floor, in place of the map's.
        goal: (x, y) on the floor, in place of the map's; SQRL fine-tunes with ``SPIDER_FINE_TUNE_GOAL``.
        reward: ``"plain"`` or ``"released"``; see ``DrunkSpiderEnv``.
        horizon: number of steps that ``"released"`` rewards count with; set it to the time limit.

    Raises:
        ValueError: if an argument does not fit the description above.
    """

    state_size = 4
    cost_names = ("fall",)

    def __init__(
        self,
        layout: GridMap | str = "short",
        action_noise: float = ACTION_NOISE,
        start: Point | None = None,
        goal: Point | None = None,
        reward: RewardKind = "plain",
        horizon: int = HORIZON,
    ) -> None:
        if not (np.isfinite(action_noise) and action_noise >= 0.0):
            raise ValueError(f"action_noise must be finite and >= 0, got {action_noise}")
        if reward not in get_args(RewardKind):
            raise ValueError(f"reward must be one of {get_args(RewardKind)}, got {reward!r}")
        if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:
            raise ValueError(f"horizon must be an integer >= 1, got {horizon!r}")
        base = layout if isinstance(layout, GridMap) else _named_map(layout)
        self.map = replace(base, start=base.start if start is None else start, goal=base.goal if goal is None else goal)
        extent = self.map.extent
        obstacles = (*self.map.pits, *self.map.rim)
        self.scene = Scene(self.map.extent_with_rim, obstacles, self.map.start, self.map.goal, GOAL_RADIUS)
        self._noise_width, self._reward, self._horizon = action_noise, reward, horizon
        self._deadly = np.pad(self.map.lava, _BORDER, constant_values=True)
        self._diagonal = float(np.hypot(extent.width, extent.height))
        # A fall out of the map happens at most one step beyond its edge.
        high = np.array([extent.x_max + 1.0, extent.y_max + 1.0], dtype=np.float32)
        self.observation_space = spaces.Box(np.full(2, -1.0, dtype=np.float32), high)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def initial_states(self, rng: np.random.Generator, n: int) -> FloatArray:
        """States at the start of the map; nothing is drawn."""
        states = np.zeros((n, self.state_size))
        states[:, :_FALLEN] = self.map.start
        return states

    def states_at(self, positions: FloatArray) -> FloatArray:
        """Standing states at time 0, ``[n, 4]``.

        Raises:
            ValueError: if a position is not on the floor of the map.
        """
        if not all(self.map.is_floor((x, y)) for x, y in positions.tolist()):
            raise ValueError(f"an episode must start on the floor of the map, got {positions.tolist()}")
        return np.hstack([positions, np.zeros((len(positions), 2))])

    def simulate(self, rng: np.random.Generator, states: FloatArray, actions: FloatArray) -> FloatArray:
        """One step of ten substeps; see the class. All points of the way are tested at once."""
        noise = self._noise_width * (rng.random(actions.shape) - 0.5)
        moves = np.minimum(np.maximum(actions + noise, -1.0), 1.0)
        standing = 1.0 - states[:, _FALLEN]
        ways = states[:, None, :_FALLEN] + _PATH_OFFSETS * (moves * standing[:, None])[:, None, :]
        falls = self._is_deadly(ways)
        # The last point of the way, or the first one that it falls at.
        ends = np.where(falls.any(axis=1), falls.argmax(axis=1), falls.shape[1] - 1)
        rows = np.arange(len(states))
        next_states = np.empty_like(states)
        next_states[:, :_FALLEN] = ways[rows, ends]
        next_states[:, _FALLEN] = falls[rows, ends]
        next_states[:, _TIME] = states[:, _TIME] + 1.0
        return next_states

    def cost_terms(self, states: FloatArray) -> dict[str, FloatArray]:
        """1 where the agent has fallen."""
        return {"fall": states[:, _FALLEN].copy()}

    def outcomes(self, states: FloatArray, next_states: FloatArray, violations: BoolArray) -> Outcomes:
        """Rewards and successes of the new positions; see ``DrunkSpiderEnv``."""
        goal_x, goal_y = self.scene.goal
        distances = np.hypot(next_states[:, 0] - goal_x, next_states[:, 1] - goal_y)
        successes: BoolArray = (distances < GOAL_RADIUS) & ~violations
        rewards = distances / -self._diagonal
        rewards[successes] = SUCCESS_REWARD
        rewards[violations] = 0.0
        if self._reward == "released":
            remaining = self._horizon - next_states[:, _TIME]
            rewards += successes * remaining - violations * (remaining + 1.0)
            rewards += TIME_OUT_REWARD * ((remaining == 0.0) & ~successes & ~violations)
        return Outcomes(rewards, successes | violations, successes)

    def _is_deadly(self, ways: FloatArray) -> BoolArray:
        cells = np.floor(ways).astype(np.intp)
        cells += _BORDER
        deadly: BoolArray = self._deadly[cells[..., 0], cells[..., 1]]
        return deadly


class DrunkSpiderEnv(TaskEnv):
    """DrunkSpider of SQRL (Srinivasan et al., 2020, section 5 and appendix) and its released code.

    The observation is the position (x, y), where x is the row and y the column of the map; the action moves
    by up to 1 per axis. Costs are 1 on a fall and 0 otherwise; ``reset(options={"state": [x, y]})`` sets the
    start.

    From the paper: the task (reach the goal over the bridge or around it), the disturbed actions with width
    0.1, the bounds of the actions, and that a fall ends the episode. The paper prints no reward formula. From
    the released code: map, start, goals, substeps, success radius, the horizon of 30 steps, and both rewards.

    ``reward="plain"`` (default) is the task's own: minus the distance to the goal over the map's diagonal,
    +30 in its place on success, 0 on a fall. ``reward="released"`` adds what the released time-limit wrapper
    adds: with ``r`` steps remaining, ``r`` on success, ``-(r + 1)`` on a fall, and -30 on the last step where
    neither happened. It then depends on the time, which the observation does not show, and on the time limit: with
    another than 30, pass ``max_episode_steps`` and the same ``horizon``, or the -30 come in mid-episode or never.

    Args:
        render_mode: ``None``, ``"rgb_array"`` or ``"human"``.
        **task_kwargs: arguments of ``DrunkSpiderTask``.
    """

    task_type = DrunkSpiderTask


class DrunkSpiderVectorEnv(TaskVectorEnv):
    """Many copies of ``DrunkSpiderEnv``; see ``TaskVectorEnv``."""

    task_type = DrunkSpiderTask


def _named_map(name: str) -> GridMap:
    if not isinstance(name, str) or name not in SPIDER_MAPS:
        raise ValueError(f"layout must be a GridMap or one of {sorted(SPIDER_MAPS)}, got {name!r}")
    return SPIDER_MAPS[name]
