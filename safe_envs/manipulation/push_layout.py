"""Where cube, target and obstacle of the push stand, as data, and how they are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from safe_envs.core.geometry import FloatArray

EDGE = 0.04
"""Edge of cube and obstacle in m."""
TABLE_LENGTH, TABLE_X = 1.1, -0.3
"""Length of the table along x, and its middle."""


class PushStart(NamedTuple):
    """Centres at the start of an episode, each ``[3]`` in m."""

    cube: FloatArray
    goal: FloatArray
    obstacle: FloatArray


@dataclass(frozen=True)
class PushLayout:
    """The table, and the square in which cube and target are drawn.

    Attributes:
        xy_range: x and y of both are uniform in [-xy_range, xy_range], in m.
        min_distance: both are drawn again until they are at least so far apart, in m.
        table_width: along y, in m.
        table_friction: lateral and spinning; ``None`` leaves PyBullet's values.

    Raises:
        ValueError: if the square is too small for the distance, or hangs over the table.
    """

    xy_range: float
    min_distance: float
    table_width: float
    table_friction: float | None

    def __post_init__(self) -> None:
        diagonal = 2 * math.sqrt(2) * self.xy_range
        if not 0.0 <= self.min_distance <= 0.9 * diagonal:
            raise ValueError(f"min_distance must be in [0, {0.9 * diagonal:.3f}] in this square, got {self}")
        if not self.table_width > 2 * self.xy_range + EDGE:
            raise ValueError(f"table_width must be > {2 * self.xy_range + EDGE:.3f}, got {self}")
        end = TABLE_X + TABLE_LENGTH / 2 - EDGE / 2
        if not self.xy_range < end:
            raise ValueError(f"xy_range must be < {end:.3f}, where the table ends along x, got {self}")

    @property
    def has_room_for_obstacle(self) -> bool:
        """Whether an obstacle at the midpoint never overlaps the cube."""
        return self.min_distance >= 2 * math.sqrt(2) * EDGE

    @property
    def max_lateral_offset(self) -> float:
        """How far aside of the midpoint the obstacle is on the table wherever that is, in m."""
        edge = min(TABLE_X + TABLE_LENGTH / 2, self.table_width / 2)
        return round(max(edge - self.xy_range - EDGE / 2, 0.0), 6)

    def sample(self, rng: np.random.Generator, lateral_offset: float) -> PushStart:
        """Draw a start; the obstacle lies up to ``lateral_offset`` beside the midpoint of cube and target."""
        # Three numbers each and the target first, as in panda-gym: the same seed gives the same scene there.
        high = np.array([self.xy_range, self.xy_range, 0.0])
        middle = np.array([0.0, 0.0, EDGE / 2])
        while True:
            goal, cube = middle + rng.uniform(-high, high), middle + rng.uniform(-high, high)
            if np.hypot(*(goal - cube)[:2]) >= self.min_distance:
                break
        return PushStart(cube, goal, self._obstacle(rng, cube, goal, lateral_offset))

    @staticmethod
    def _obstacle(rng: np.random.Generator, cube: FloatArray, goal: FloatArray, lateral_offset: float) -> FloatArray:
        midpoint: FloatArray = (cube + goal) / 2
        if lateral_offset == 0.0:
            return midpoint
        x, y, _ = goal - cube
        sideways = np.array([-y, x, 0.0]) / max(math.hypot(x, y), 1e-9)
        return midpoint + rng.uniform(-lateral_offset, lateral_offset) * sideways


LAYOUTS = {
    "reachable": PushLayout(xy_range=0.12, min_distance=0.2, table_width=0.7, table_friction=None),
    "authors": PushLayout(xy_range=0.2, min_distance=0.25, table_width=0.9, table_friction=0.7),
    "panda-gym": PushLayout(xy_range=0.15, min_distance=0.0, table_width=0.7, table_friction=None),
}
"""``panda-gym``: PandaPush-v3 of panda-gym 3.0.7. ``authors``: code of the dual-agent paper's authors; there the
upright gripper, which reaches 0.8 m, often cannot get behind a cube at the far side. ``reachable``: panda-gym's table,
and a square in which it nearly always can."""
