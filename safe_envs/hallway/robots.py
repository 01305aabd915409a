"""The robots that run through the hallway: Point, which slides and turns, and Doggo, which has to walk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

ASSETS = Path(__file__).parent / "assets"
FRAME_SKIP = 10
"""Physics steps per action, as in Safety-Gym."""


@dataclass(frozen=True)
class Robot:
    """What the hallway needs to know of a robot; its model is ``assets/<name>.xml``.

    The model has a body ``robot`` with a camera ``head``; all its sensors together are the proprioception.

    Attributes:
        name: of the model's file.
        radius: of a vertical cylinder around the robot in m, wherever it turns.
        n_actuators: size of an action.
        n_sensors: numbers of the proprioception.
        fastest: speed in m/s that it reaches hardly ever, thrown by a humanoid; see ``HallwayEnv``.
    """

    name: str
    radius: float
    n_actuators: int
    n_sensors: int
    fastest: float

    @property
    def xml(self) -> str:
        """The robot's MJCF."""
        return (ASSETS / f"{self.name}.xml").read_text()


ROBOTS: Mapping[str, Robot] = MappingProxyType(
    {robot.name: robot for robot in (Robot("point", 0.16, 2, 12, 5.0), Robot("doggo", 0.27, 12, 44, 2.0))}
)


def find_robot(name: str) -> Robot:
    """The robot of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in ROBOTS:
        raise ValueError(f"robot must be one of {sorted(ROBOTS)}, got {name!r}")
    return ROBOTS[name]
