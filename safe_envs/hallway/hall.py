"""The hall: its size, its obstacles' sizes, and where they may stand; all of it data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from safe_envs.core.geometry import FloatArray

ObstacleKind = Literal["walls", "poles", "humanoids"]
"""What stands in the way."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Hall:
    """A hall along the x axis: the start line lies at x = 0, the finish line at x = ``length``, the middle at y = 0.

    Obstacle ``i`` belongs to the middle of slot ``i`` of equally long slots between ``free_start`` and ``length``,
    alternately left and right of the middle, and is moved at random each episode. The paper (Safe transfer, section 3)
    gives none of these numbers; they were fixed before any training, so that a robot that runs straight ahead is
    stopped by walls and poles, and one that sees them all passes.

    Attributes:
        length: from start line to finish line, in m.
        width: between the side walls, in m.
        n_obstacles: how many stand in the hall.
        free_start: length after the start line without obstacles, in m.
        margin: length of the hall before the start line and behind the finish line, in m.
        wall_size: width (across the hall), depth (along it) and height of an obstacle wall, in m.
        pole_size: radius and height of a pole, in m.
        wall_offset: distance of a wall's middle from the middle of the hall before it is moved, in m.
        pole_offset: the same for poles.
        humanoid_offset: the same for humanoids; nearer to the middle where the area that their clip sweeps needs it.
        jitter: obstacles are moved by up to this along and across the hall, uniformly, in m.
        start_x: range of the robot's start along the hall, in m.
        start_y: range of its start across the hall, in m.
        start_yaw: range of its heading at the start, in rad.
        reward_per_metre: reward for each metre forward.

    Raises:
        ValueError: if a number is out of range. ``HallwayEnv`` says whether the obstacles leave its robot room.
    """

    length: float = 20.0
    width: float = 4.0
    n_obstacles: int = 12
    free_start: float = 2.0
    margin: float = 2.0
    wall_size: tuple[float, float, float] = (1.0, 0.1, 0.8)
    pole_size: tuple[float, float] = (0.15, 1.2)
    wall_offset: float = 0.5
    pole_offset: float = 0.2
    humanoid_offset: float = 0.35
    jitter: tuple[float, float] = (0.3, 0.3)
    start_x: Span = (-0.2, 0.2)
    start_y: Span = (-0.3, 0.3)
    start_yaw: Span = (-0.3, 0.3)
    reward_per_metre: float = 50.0

    def __post_init__(self) -> None:
        n = self.n_obstacles
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise ValueError(f"n_obstacles must be an integer >= 0, got {n!r}")
        for field in fields(self):
            _check_numbers(field.name, getattr(self, field.name), np.shape(getattr(Hall, field.name)))
        for name in ("length", "width", "margin", "reward_per_metre", "wall_size", "pole_size"):
            if not np.all(np.greater(getattr(self, name), 0.0)):
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)!r}")
        for name in ("jitter", "wall_offset", "pole_offset", "humanoid_offset", "free_start"):
            if not np.all(np.greater_equal(getattr(self, name), 0.0)):
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)!r}")
        for name in ("start_x", "start_y", "start_yaw"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} must be a range (low, high) with low <= high, got {getattr(self, name)!r}")

    @property
    def slot(self) -> float:
        """Length of the slot of one obstacle in m."""
        return (self.length - self.free_start) / max(self.n_obstacles, 1)

    def check_slots(self, kind: ObstacleKind, needed: float) -> None:
        """Raise ``ValueError`` if the slots are too short for obstacles that need so much of the hall's length (m)."""
        needed += 2.0 * self.jitter[0]
        if self.n_obstacles and self.slot < needed:
            raise ValueError(
                f"the hall is too short: {self.n_obstacles} {kind} in {self.length} m have {self.slot:.2f} m each and "
                f"need {needed:.2f} m; make length larger, or n_obstacles or jitter smaller"
            )

    def check_gap(self, kind: ObstacleKind, gap: float, clearance: float) -> None:
        """Raise ``ValueError`` if less than ``clearance`` (m) of the hall's width is free beside an obstacle."""
        if gap < clearance:
            raise ValueError(
                f"the hall is too narrow: {kind} leave {gap:.2f} m of its {self.width} m free and the robot needs "
                f"{clearance:.2f} m; make width larger"
            )

    def check_room(self, kind: ObstacleKind, clearance: float) -> None:
        """Raise ``ValueError`` if walls or poles leave less than ``clearance`` (m) free, or do not fit in the hall."""
        along, across = self._footprint(kind)
        self.check_slots(kind, along + clearance)
        offset, reach = self._offset(kind), self.jitter[1] + across / 2.0
        self.check_gap(kind, self.width / 2.0 + max(offset - self.jitter[1], 0.0) - across / 2.0, clearance)
        if offset + reach > self.width / 2.0:
            raise ValueError(
                f"{kind} reach {offset + reach:.2f} m from the middle of a hall that is {self.width} m wide; make "
                "width larger, or offset, jitter or the obstacles smaller"
            )

    def check_start(self, radius: float) -> None:
        """Raise ``ValueError`` if a robot of that radius (m) may start outside the hall, or among the obstacles."""
        first = self.free_start if self.n_obstacles else self.length
        low, high = self.start_x
        if low - radius < -self.margin or high + radius > first:
            raise ValueError(
                f"start_x must leave the robot ({radius} m) between {-self.margin} and {first} m, got {self.start_x}"
            )
        if max(np.abs(self.start_y)) + radius > self.width / 2.0:
            raise ValueError(
                f"start_y must leave the robot ({radius} m) in {self.width} m of width, got {self.start_y}"
            )

    def draw_places(self, rng: np.random.Generator, kind: ObstacleKind) -> FloatArray:
        """Places ``[n_obstacles, 3]`` of walls or poles: x, y (m) and yaw (rad, 0)."""
        offset = self._offset(kind)
        places = np.zeros((self.n_obstacles, 3))
        places[:, 0] = self.slot_middles
        places[:, 1] = np.where(np.arange(self.n_obstacles) % 2 == rng.integers(2), offset, -offset)
        places[:, :2] += rng.uniform(-1.0, 1.0, (self.n_obstacles, 2)) * self.jitter
        return places

    @property
    def slot_middles(self) -> FloatArray:
        """Where along the hall the obstacles belong, ``[n_obstacles]``."""
        return np.asarray(self.free_start + self.slot * (np.arange(self.n_obstacles) + 0.5), dtype=np.float64)

    def draw_start(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """Place x, y (m) and heading (rad) of the robot at the start of an episode."""
        return rng.uniform(*self.start_x), rng.uniform(*self.start_y), rng.uniform(*self.start_yaw)

    def _footprint(self, kind: ObstacleKind) -> Span:
        """Sizes of a wall or pole along and across the hall in m."""
        diameter = 2.0 * self.pole_size[0]
        return (self.wall_size[1], self.wall_size[0]) if kind == "walls" else (diameter, diameter)

    def _offset(self, kind: ObstacleKind) -> float:
        return self.wall_offset if kind == "walls" else self.pole_offset


def _check_numbers(name: str, value: Any, shape: tuple[int, ...]) -> None:
    try:
        fits = np.shape(value) == shape and bool(np.isfinite(value).all())
    except (TypeError, ValueError):  # no numbers, or ragged ones
        fits = False
    if not fits:
        expected = f"{shape[0]} finite numbers" if shape else "a finite number"
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def check_kind(kind: str) -> ObstacleKind:
    """Return ``kind``.

    Raises:
        ValueError: if there are no such obstacles.
    """
    for known in get_args(ObstacleKind):
        if kind == known:
            return known
    raise ValueError(f"obstacles must be one of {list(get_args(ObstacleKind))}, got {kind!r}")
