"""The ant of ``pybullet_data/mjcf/ant.xml``: how it is loaded, driven and read."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from safe_envs.core.geometry import FloatArray
from safe_envs.sim.bullet_env import check_finite
from safe_envs.sim.bullet_sim import BulletSim

TIME_STEP = 1 / 60
PHYSICS = {
    "fixedTimeStep": TIME_STEP,
    "numSubSteps": 4,
    "numSolverIterations": 5,
    "deterministicOverlappingPairs": 1,
}
GRAVITY = -9.81
CONTACT_ERP = 0.9
GROUND_HALF_EXTENTS = (250.0, 250.0, 1.0)
GROUND_FRICTION, GROUND_RESTITUTION = 0.8, 0.5

MOTORS = (1, 3, 6, 8, 11, 13, 16, 18)
"""Joints hip_1, ankle_1, ..., hip_4, ankle_4."""
FEET = (4, 9, 14, 19)
MAX_TORQUE = 250.0
START_HEIGHT = 0.75
START_JOINTS = np.array([0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0]) * (math.pi / 2)
START_SIGNS = np.where(START_JOINTS < 0.0, -1.0, 1.0)


class AntState(NamedTuple):
    """One state; lengths in m, angles in rad, times in s."""

    position: FloatArray
    """Torso, ``[3]``."""
    velocity: FloatArray
    """Torso, ``[3]``."""
    quaternion: FloatArray
    """Torso, (x, y, z, w)."""
    angular_velocity: FloatArray
    """Torso, ``[3]``."""
    joints: FloatArray
    """Joint positions scaled to -1 and 1 at the joint's limits, ``[8]``."""
    joint_velocities: FloatArray
    """``[8]``."""
    feet: FloatArray
    """1.0 for each foot on the ground, ``[4]``."""


class Ant:
    """The ant on its ground, as in Bullet-Safety-Gym (Gronauer, 2022), in a new world.

    Args:
        sim: an empty world.
    """

    def __init__(self, sim: BulletSim) -> None:
        sim.setGravity(0.0, 0.0, GRAVITY)
        sim.setDefaultContactERP(CONTACT_ERP)
        sim.setPhysicsEngineParameter(**PHYSICS)
        self._sim = sim
        self.ground = self._load_ground()
        flags = sim.URDF_USE_SELF_COLLISION | sim.URDF_USE_SELF_COLLISION_EXCLUDE_ALL_PARENTS
        (self.body,) = sim.loadMJCF("mjcf/ant.xml", flags=flags)
        sim.setJointMotorControlArray(self.body, MOTORS, sim.VELOCITY_CONTROL, forces=[0.0] * len(MOTORS))
        limits = np.array([sim.getJointInfo(self.body, joint)[8:10] for joint in MOTORS])
        self._middles, self._half_ranges = limits.mean(axis=1), (limits[:, 1] - limits[:, 0]) / 2

    def _load_ground(self) -> int:
        # A box shifted inside its body: a body shifted in the world gives other contacts, and other trajectories
        # than the recorded ones.
        sim = self._sim
        shape = sim.createCollisionShape(
            sim.GEOM_BOX,
            halfExtents=GROUND_HALF_EXTENTS,
            collisionFramePosition=[0.0, 0.0, -GROUND_HALF_EXTENTS[2]],
        )
        ground: int = sim.createMultiBody(0, shape)
        sim.changeDynamics(ground, -1, lateralFriction=GROUND_FRICTION, restitution=GROUND_RESTITUTION)
        return ground

    def place(self, joint_offsets: FloatArray, xy: FloatArray) -> None:
        """Put it at its start pose, at rest.

        Args:
            joint_offsets: added to how far each joint is bent, ``[8]``.
            xy: of the torso, ``[2]``.
        """
        joints = START_JOINTS + START_SIGNS * joint_offsets
        for joint, angle in zip(MOTORS, joints.tolist(), strict=True):
            self._sim.resetJointState(self.body, joint, angle, 0.0)
        self._sim.move(self.body, (float(xy[0]), float(xy[1]), START_HEIGHT))

    def drive(self, action: FloatArray) -> None:
        """One step with torques of ``action`` times 250 Nm."""
        torques = (MAX_TORQUE * action).tolist()
        self._sim.setJointMotorControlArray(self.body, MOTORS, self._sim.TORQUE_CONTROL, forces=torques)
        self._sim.stepSimulation()

    def read(self) -> AntState:
        """The current state.

        Raises:
            SimulationError: if it is not finite.
        """
        sim, body = self._sim, self.body
        position, quaternion = sim.getBasePositionAndOrientation(body)
        velocity, angular_velocity = sim.getBaseVelocity(body)
        joints = [joint[:2] for joint in sim.getJointStates(body, MOTORS)]
        numbers: Any = (*position, *velocity, *quaternion, *angular_velocity, *(x for joint in joints for x in joint))
        values = check_finite("the ant's state", np.array(numbers, dtype=np.float64))
        angles, speeds = values[13::2], values[14::2]
        return AntState(
            values[0:3], values[3:6], values[6:10], values[10:13],
            (angles - self._middles) / self._half_ranges, speeds, self._feet_on_ground(),
        )  # fmt: skip

    def _feet_on_ground(self) -> FloatArray:
        touching = {contact[3] for contact in self._sim.getContactPoints(self.body, self.ground)}
        return np.array([float(foot in touching) for foot in FEET])
