"""panda-gym's arm in a ``BulletSim``."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled

from safe_envs.sim.bullet_sim import BULLET_REMEDY, BulletSim

try:
    from panda_gym.envs.robots.panda import Panda
    from panda_gym.pybullet import PyBullet
except ImportError as error:
    raise DependencyNotInstalled(BULLET_REMEDY) from error

TIME_STEP, N_SUBSTEPS = 1 / 500, 20
GRAVITY = -9.81
BASE_POSITION = (-0.6, 0.0, 0.0)


class PandaSim(PyBullet):
    """panda-gym's simulation around a world of ours.

    Its own constructor connects to a server of its own, with options that PyBullet repeats on standard output.

    Args:
        sim: an empty world.
    """

    def __init__(self, sim: BulletSim) -> None:
        self.physics_client = sim
        self.render_mode = "rgb_array"
        self.n_substeps, self.timestep = N_SUBSTEPS, TIME_STEP
        sim.setTimeStep(TIME_STEP)
        sim.setGravity(0.0, 0.0, GRAVITY)
        self._bodies_idx: dict[str, int] = {}

    def body(self, name: str) -> int:
        """PyBullet's number of a body."""
        return self._bodies_idx[name]

    def add_cube(self, name: str, edge: float, mass: float, rgba: tuple[float, ...]) -> int:
        """A cube at the origin."""
        half, colour = np.full(3, edge / 2), np.array(rgba)
        self.create_box(name, half, mass, np.zeros(3), rgba_color=colour)
        return self.body(name)


def add_arm(sim: PandaSim) -> Any:
    """panda-gym's Panda with a closed gripper, driven by displacements of the gripper."""
    return Panda(sim, block_gripper=True, base_position=np.array(BASE_POSITION), control_type="ee")
