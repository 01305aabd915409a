"""The scenes of the navigation tasks, and the maps of the spider, as data.

Sources: Recovery RL (Thananjeyan et al., 2021, section V) and its released code for Navigation; SQRL
(Srinivasan et al., 2020, section 5) and its released code for DrunkSpider.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from safe_envs.core.geometry import BoolArray, Point, Rectangle

NAVIGATION_START: Point = (-50.0, 0.0)
NAVIGATION_GOAL: Point = (0.0, 0.0)

NAVIGATION_OBSTACLES = {
    # A corridor |y| < 5 that is closed on the left.
    "navigation1": (
        Rectangle(-100.0, 150.0, 5.0, 10.0),
        Rectangle(-100.0, -80.0, -10.0, 10.0),
        Rectangle(-100.0, 150.0, -10.0, -5.0),
    ),
    # One block between start and goal.
    "navigation2": (Rectangle(-30.0, -20.0, -7.5, 7.5),),
}
NAVIGATION_EXTENTS = {
    "navigation1": Rectangle(-60.0, 10.0, -10.0, 10.0),
    "navigation2": Rectangle(-60.0, 10.0, -30.0, 30.0),
}

LAVA = "#"
FLOOR = "."
RIM_WIDTH = 0.25
"""Width of the frame that stands for the deadly outside of a map, in cells."""


@dataclass(frozen=True)
class GridMap:
    """A map of unit cells, drawn as text: line ``i``, character ``j`` is the cell ``[i, i+1) x [j, j+1)``.

    So x grows down the lines, as in SQRL's code, where a state is (row, column).

    Attributes:
        rows: lines of ``.`` (floor) and ``#`` (lava), all of one length.
        start: (x, y) where episodes start.
        goal: (x, y) of the goal.

    Raises:
        ValueError: if the lines differ in length or hold other characters, or start or goal are not on the
            floor.
    """

    rows: tuple[str, ...]
    start: Point
    goal: Point

    def __post_init__(self) -> None:
        if not self.rows or len(set(map(len, self.rows))) != 1 or set("".join(self.rows)) - {LAVA, FLOOR}:
            raise ValueError(f"a map must be lines of {FLOOR!r} and {LAVA!r} of one length, got {self.rows!r}")
        for name, point in (("start", self.start), ("goal", self.goal)):
            if np.shape(point) != (2,) or not self.is_floor(point):
                raise ValueError(f"{name} must be an (x, y) on the floor of the map, got {point}")

    def is_floor(self, point: Point) -> bool:
        """Whether the point is inside the map and not on lava."""
        x, y = np.floor(point).astype(int)
        return 0 <= x < self.lava.shape[0] and 0 <= y < self.lava.shape[1] and not self.lava[x, y]

    @cached_property
    def lava(self) -> BoolArray:
        """Which cells are lava, ``[rows, columns]``."""
        return np.array([[cell == LAVA for cell in row] for row in self.rows])

    @property
    def extent(self) -> Rectangle:
        """The whole map."""
        return Rectangle(0.0, float(self.lava.shape[0]), 0.0, float(self.lava.shape[1]))

    @property
    def rim(self) -> tuple[Rectangle, ...]:
        """The deadly surroundings of the map as rectangles, ``RIM_WIDTH`` wide."""
        inner, outer = self.extent, self.extent_with_rim
        return (
            Rectangle(outer.x_min, inner.x_min, outer.y_min, outer.y_max),
            Rectangle(inner.x_max, outer.x_max, outer.y_min, outer.y_max),
            Rectangle(inner.x_min, inner.x_max, outer.y_min, inner.y_min),
            Rectangle(inner.x_min, inner.x_max, inner.y_max, outer.y_max),
        )

    @property
    def extent_with_rim(self) -> Rectangle:
        """The whole map and its surroundings."""
        inner = self.extent
        return Rectangle(
            inner.x_min - RIM_WIDTH, inner.x_max + RIM_WIDTH, inner.y_min - RIM_WIDTH, inner.y_max + RIM_WIDTH
        )

    @property
    def pits(self) -> tuple[Rectangle, ...]:
        """The lava as rectangles: per column, one for each run of cells."""
        found = []
        for column in range(self.lava.shape[1]):
            edges = np.diff(self.lava[:, column].astype(int), prepend=0, append=0)
            for begin, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
                found.append(Rectangle(float(begin), float(end), float(column), column + 1.0))
        return tuple(found)


_SPIDER_FREE, _SPIDER_BRIDGE = ".......", "..#.#.."

SPIDER_MAPS = {
    # "DrunkSpiderShort": two pits beside a bridge one cell wide and four long.
    "short": GridMap(
        (*[_SPIDER_FREE] * 2, *[_SPIDER_BRIDGE] * 4, *[_SPIDER_FREE] * 2), start=(0.5, 3.5), goal=(7.5, 3.5)
    ),
    # The bridge is six cells long; the goal is moved to the last row, as in the short map.
    "long": GridMap(
        (*[_SPIDER_FREE] * 2, *[_SPIDER_BRIDGE] * 6, *[_SPIDER_FREE] * 2), start=(0.5, 3.5), goal=(9.5, 3.5)
    ),
}

SPIDER_FINE_TUNE_GOAL: Point = (6.5, 3.5)
"""Goal of SQRL's fine-tuning task on the short map."""
