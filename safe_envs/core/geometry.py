"""Planar geometry as data: rectangles, and scenes made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Rectangle:
    """The closed rectangle ``[x_min, x_max] x [y_min, y_max]``.

    Raises:
        ValueError: if a bound is not finite, or a side has no positive length.
    """

    x_min: float
    x_max: float
    y_min: float
    y_max: float

    def __post_init__(self) -> None:
        bounds = (self.x_min, self.x_max, self.y_min, self.y_max)
        if not all(math.isfinite(bound) for bound in bounds):
            raise ValueError(f"the bounds of a rectangle must be finite, got {self}")
        if not (self.x_min < self.x_max and self.y_min < self.y_max):
            raise ValueError(f"expected x_min < x_max and y_min < y_max, got {self}")

    @property
    def width(self) -> float:
        """Length along x."""
        return self.x_max - self.x_min

    @property
    def height(self) -> float:
        """Length along y."""
        return self.y_max - self.y_min

    def contains(self, points: ArrayLike) -> BoolArray:
        """Which of the points ``[N, 2]`` lie in the rectangle or on its border, ``[N]``."""
        x, y = _coordinates(points)
        return (x >= self.x_min) & (x <= self.x_max) & (y >= self.y_min) & (y <= self.y_max)


@dataclass(frozen=True)
class Scene:
    """A planar world: where to start, where to go, what to avoid.

    Attributes:
        extent: the part of the plane that is drawn.
        obstacles: closed rectangles; they may reach beyond ``extent``.
        start: (x, y), the nominal start.
        goal: (x, y), centre of the goal disc.
        goal_radius: radius of the goal disc, > 0.

    Raises:
        ValueError: if the radius is not positive and finite, start or goal lie outside the extent, or an obstacle is no
            ``Rectangle``.
    """

    extent: Rectangle
    obstacles: tuple[Rectangle, ...]
    start: Point
    goal: Point
    goal_radius: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.goal_radius) and self.goal_radius > 0):
            raise ValueError(f"goal_radius must be positive and finite, got {self.goal_radius}")
        for name, point in (("start", self.start), ("goal", self.goal)):
            if not (np.shape(point) == (2,) and self.extent.contains(np.asarray([point], dtype=np.float64)).all()):
                raise ValueError(f"{name} must be an (x, y) inside {self.extent}, got {point}")
        for obstacle in self.obstacles:
            if not isinstance(obstacle, Rectangle):
                raise ValueError(f"obstacles must be safe_envs.Rectangle, got {obstacle!r}")

    def inside_obstacle(self, points: ArrayLike) -> BoolArray:
        """Which of the points ``[N, 2]`` lie in an obstacle or on its border, ``[N]``."""
        x, y = _coordinates(points)
        x_min, x_max, y_min, y_max = self._obstacle_bounds
        x, y = x[:, None], y[:, None]
        inside: BoolArray = ((x >= x_min) & (x <= x_max) & (y >= y_min) & (y <= y_max)).any(axis=1)
        return inside

    @cached_property
    def _obstacle_bounds(self) -> FloatArray:
        rows = [(o.x_min, o.x_max, o.y_min, o.y_max) for o in self.obstacles]
        return np.array(rows, dtype=np.float64).reshape(-1, 4).T


def _coordinates(points: ArrayLike) -> tuple[FloatArray, FloatArray]:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"points must have shape [N, 2], got {list(array.shape)}")
    return array[:, 0], array[:, 1]
