"""The push in PyBullet: arm, table, cube, target and obstacle; how they are placed, moved and read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from safe_envs.core.geometry import FloatArray
from safe_envs.manipulation.push_layout import EDGE, TABLE_LENGTH, TABLE_X, PushLayout, PushStart
from safe_envs.sim.bullet_env import check_finite
from safe_envs.sim.bullet_sim import BulletSim
from safe_envs.sim.panda_sim import N_SUBSTEPS, PandaSim, add_arm

CUBE_MASS = OBSTACLE_MASS = 1.0
FLOOR_HEIGHT = -0.4
RESTING_SPEED = 1e-3
"""In m/s: bodies at rest stay below a tenth of it, and what is pushed is ten times as fast."""
IN_THE_AIR = (2.0, 0.0, 2.0)
TARGET_HALF_EXTENTS = (EDGE / 2, EDGE / 2, 0.001)
CUBE_COLOUR, OBSTACLE_COLOUR, TARGET_COLOUR = (0.1, 0.7, 0.25, 1.0), (0.85, 0.15, 0.12, 1.0), (0.95, 0.8, 0.1, 1.0)


class PushState(NamedTuple):
    """One state, each ``[3]``, in SI units."""

    gripper: FloatArray
    gripper_velocity: FloatArray
    cube: FloatArray
    cube_angles: FloatArray
    """Euler angles."""
    cube_velocity: FloatArray
    cube_angular_velocity: FloatArray
    obstacle: FloatArray
    """Where the obstacle is; 0 if there is none."""


class PushScene:
    """The bodies of the push in a new world.

    Args:
        sim: an empty world.
        layout: of the table.
        has_obstacle: whether there is an obstacle.
        resting_contact: whether the cube touches the obstacle, too, while it rests against it.
    """

    def __init__(self, sim: BulletSim, layout: PushLayout, has_obstacle: bool, resting_contact: bool) -> None:
        self._sim, self._resting_contact = sim, resting_contact
        panda = PandaSim(sim)
        # In panda-gym's order: Bullet solves contacts in the order of bodies, and the trajectories show it.
        self._arm = add_arm(panda)
        panda.create_plane(z_offset=FLOOR_HEIGHT)
        panda.create_table(
            TABLE_LENGTH, layout.table_width, -FLOOR_HEIGHT, TABLE_X, layout.table_friction, layout.table_friction
        )
        self._robot = panda.body("panda")
        self._cube = panda.add_cube("object", EDGE, CUBE_MASS, CUBE_COLOUR)
        self._target = sim.add_ghost(TARGET_HALF_EXTENTS, TARGET_COLOUR)
        self._obstacle: int | None = None
        if has_obstacle:
            self._obstacle = panda.add_cube("obstacle", EDGE, OBSTACLE_MASS, OBSTACLE_COLOUR)

    def place(self, start: PushStart) -> None:
        """Put the arm in its neutral pose, and the bodies where ``start`` says."""
        self._arm.reset()
        self._forget_contacts()
        self._sim.move(self._target, (start.goal[0], start.goal[1], 0.0))
        self._sim.move(self._cube, start.cube)
        if self._obstacle is not None:
            self._sim.move(self._obstacle, start.obstacle)

    def _forget_contacts(self) -> None:
        # Bullet starts the next episode from the contacts that it remembers of the last one, whatever state is
        # restored; in the air there is nothing to remember.
        for i, body in enumerate(filter(None, (self._cube, self._obstacle))):
            self._sim.move(body, (IN_THE_AIR[0], IN_THE_AIR[1] + i, IN_THE_AIR[2]))
        self._sim.performCollisionDetection()

    def advance(self, action: FloatArray) -> bool:
        """Simulate one step; whether arm or cube touched the obstacle in any substep."""
        self._arm.set_action(action)
        touched = False
        for _ in range(N_SUBSTEPS):
            self._sim.stepSimulation()
            touched = touched or self.is_obstacle_touched()
        return touched

    def is_obstacle_touched(self) -> bool:
        """Whether arm or cube touched the obstacle in the last substep."""
        if self._obstacle is None:
            return False
        if self._sim.is_touching(self._obstacle, self._robot):
            return True
        counts = self._resting_contact or self._is_obstacle_moving(self._obstacle)
        return counts and self._sim.is_touching(self._obstacle, self._cube)

    def _is_obstacle_moving(self, obstacle: int) -> bool:
        velocity, _ = self._sim.getBaseVelocity(obstacle)
        return float(np.linalg.norm(velocity)) > RESTING_SPEED

    def read(self) -> PushState:
        """The current state.

        Raises:
            SimulationError: if it is not finite.
        """
        sim, cube = self._sim, self._cube
        link = sim.getLinkState(self._robot, self._arm.ee_link, computeLinkVelocity=True)
        position, quaternion = sim.getBasePositionAndOrientation(cube)
        velocity, angular_velocity = sim.getBaseVelocity(cube)
        obstacle = (0.0, 0.0, 0.0)
        if self._obstacle is not None:
            obstacle = sim.getBasePositionAndOrientation(self._obstacle)[0]
        angles = sim.getEulerFromQuaternion(quaternion)
        rows = (link[0], link[6], position, angles, velocity, angular_velocity, obstacle)
        return PushState(*check_finite("the state of arm and cubes", np.array(rows, dtype=np.float64)))
