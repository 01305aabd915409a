"""What stands in the hall: walls and poles, which stay where an episode puts them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from numpy.typing import NDArray

from safe_envs.core.geometry import FloatArray
from safe_envs.hallway.hall import Hall, ObstacleKind

WALL_COLOUR, POLE_COLOUR = "0.85 0.55 0.25 1", "0.35 0.6 0.35 1"


class Obstacles(ABC):
    """The obstacles of one hallway: their bodies, where they stand, how they move.

    Attributes:
        n: how many there are.
        places: ``[n, 3]`` x, y (m) and yaw (rad) in this episode.
        reach: ``[n, 2]`` half sizes along and across the hall in m of the box that an obstacle never leaves.
        counts_once: whether only the first touch of each obstacle in an episode costs (else every step in contact).
    """

    counts_once = False

    def __init__(self, n: int) -> None:
        self.n = n
        self.places = np.zeros((n, 3))
        self.reach = np.zeros((n, 2))

    @abstractmethod
    def add_to(self, model: Element) -> None:
        """Add the bodies to an MJCF tree; every body of obstacle ``i`` has a name that ``body_name(i)`` begins."""

    @abstractmethod
    def start(self, rng: np.random.Generator, data: Any) -> None:
        """Draw places for a new episode and write them to MuJoCo's ``data``, whose ``qpos`` is the model's."""

    def move(self, data: Any) -> None:  # noqa: B027 - what stands still does nothing
        """Write where everything is at ``data.time``; called in every physics step."""

    def touched(self, which: NDArray[np.bool_], data: Any) -> None:  # noqa: B027 - what stands fast does nothing
        """Told after every step which ones ``[n]`` the robot has touched in it."""

    def bounds(self, data: Any) -> tuple[FloatArray, FloatArray]:
        """Corners ``[n, 2]``: lowest and highest x and y (m) of what each obstacle fills at ``data.time``."""
        return self.places[:, :2] - self.reach, self.places[:, :2] + self.reach


def body_name(index: int) -> str:
    """How the names of the bodies of an obstacle begin."""
    return f"obstacle{index}:"


class StaticObstacles(Obstacles):
    """Walls or poles.

    Args:
        hall: how many, how large, and where.
        kind: ``"walls"`` or ``"poles"``.
    """

    def __init__(self, hall: Hall, kind: ObstacleKind) -> None:
        super().__init__(hall.n_obstacles)
        self._hall, self._kind = hall, kind
        if kind == "walls":
            width, depth, height = hall.wall_size
            self._geom = {"type": "box", "size": f"{depth / 2} {width / 2} {height / 2}", "rgba": WALL_COLOUR}
            self.reach[:] = depth / 2, width / 2
        else:
            radius, height = hall.pole_size
            self._geom = {"type": "cylinder", "size": f"{radius} {height / 2}", "rgba": POLE_COLOUR}
            self.reach[:] = radius
        self._half_height = height / 2

    def add_to(self, model: Element) -> None:
        """See ``Obstacles``."""
        world = model.find("worldbody")
        assert world is not None
        for i in range(self.n):
            body = SubElement(world, "body", name=body_name(i), mocap="true", pos=f"{i} 0 {self._half_height}")
            SubElement(body, "geom", self._geom)

    def start(self, rng: np.random.Generator, data: Any) -> None:
        """See ``Obstacles``."""
        self.places = self._hall.draw_places(rng, self._kind)
        data.mocap_pos[:, :2] = self.places[:, :2]
