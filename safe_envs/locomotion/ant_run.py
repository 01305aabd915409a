"""``safe/AntRun-v0``: an ant that runs along x, between two lines and below a speed limit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from safe_envs.core.env import CostAggregate, Outcome
from safe_envs.core.geometry import FloatArray
from safe_envs.locomotion.ant_model import FEET, MOTORS, TIME_STEP, Ant, AntState
from safe_envs.sim.bullet_env import BulletEnv
from safe_envs.sim.bullet_sim import BulletSim, Camera

BOUNDARY = 2.0
VELOCITY_LIMIT = 1.5
MIN_HEIGHT = 0.26
TARGET = (1000.0, 0.0)
START_NOISE_JOINTS, START_NOISE_XY = 0.1, 0.01

PROGRESS_WEIGHT = 1 / TIME_STEP
"""Makes the progress of a step a speed in m/s."""
ELECTRICITY_WEIGHT, STALL_WEIGHT, JOINT_LIMIT_WEIGHT = 2.0, 0.1, 0.1
JOINT_SPEED_SCALE = 0.1
NEAR_JOINT_LIMIT = 0.99

POSITION_SCALE, VELOCITY_SCALE, ANGULAR_VELOCITY_SCALE, JOINT_SCALE = 0.1, 0.3, 0.15, 0.5

CAMERA = Camera(distance=5.2, yaw=-62.0, pitch=-32.0)
GROUND_COLOUR = (0.93, 0.93, 0.9, 1.0)
LINE_HALF_EXTENTS, LINE_COLOUR = (12.0, 0.05, 0.01), (0.85, 0.15, 0.12, 1.0)
FAR_AWAY = 1000.0
MARK_SPACING, N_MARKS, MARK_COLOUR = 2.0, 9, (0.72, 0.72, 0.7, 1.0)
SAFE_COLOUR, UNSAFE_COLOUR = (0.25, 0.45, 0.75, 1.0), (0.9, 0.1, 0.1, 1.0)


class AntRunEnv(BulletEnv):
    """The safe ant run of Bullet-Safety-Gym (Gronauer, 2022), with the time step and horizon of the dual-agent paper.

    The source is ``SafetyAntRun-v0``, in which a step is 1/60 s here, as in the authors' code, and the horizon 500.

    Action ``[8]`` in [-1, 1]: torques of hips and ankles in units of 250 Nm. Observation ``[33]``: 0.1 torso
    position (3), 0.3 its velocity (3), its quaternion x, y, z, w (4), 0.15 its angular velocity (3), 0.5 times
    (joint position between its limits, 0.1 joint velocity) for each joint (16), feet on the ground (4).

    Reward: progress towards a far point on the x axis in m/s, plus 1, minus the effort: 2 mean |0.1 action x joint
    velocity| + 0.1 mean action^2 + 0.1 for each joint at a limit. The episode ends, with -1 instead of the 1, when
    the torso is at or below 0.26 m. As in the source, a reset makes one physics step without torques, whose progress
    counts in the first reward. There is no goal: ``is_success`` is always false.

    Costs, each 0 or 1: ``boundary`` where the torso's |y| > 2 m, ``velocity`` where its speed in the plane is above
    1.5 m/s; ``cost`` is 1 where either is. A violation does not end the episode.

    Args:
        render_mode: ``None``, ``"rgb_array"`` or ``"human"``; the torso is red in states with a cost.
        boundary: limit of |y| in m, > 0.
        velocity_limit: in m/s, > 0.

    Raises:
        ValueError: if a limit is not positive.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": round(1 / TIME_STEP)}  # noqa: RUF012
    cost_names = ("boundary", "velocity")
    cost_aggregate: CostAggregate = "any"

    def __init__(
        self, render_mode: str | None = None, boundary: float = BOUNDARY, velocity_limit: float = VELOCITY_LIMIT
    ) -> None:
        EzPickle.__init__(self, render_mode, boundary, velocity_limit)
        for name, limit in (("boundary", boundary), ("velocity_limit", velocity_limit)):
            if not limit > 0.0:
                raise ValueError(f"{name} must be > 0 (math.inf switches it off), got {limit}")
        self._boundary, self._velocity_limit = boundary, velocity_limit
        n_observations = 13 + 2 * len(MOTORS) + len(FEET)
        self.observation_space = spaces.Box(-np.inf, np.inf, (n_observations,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (len(MOTORS),), np.float32)
        super().__init__(render_mode)
        self._ant: Ant
        self._state: AntState
        self._lines: tuple[int, ...] = ()
        self._marks: tuple[int, ...] = ()
        self._action = np.zeros(len(MOTORS))
        self._distance = self._progress = 0.0

    @property
    def state(self) -> AntState:
        """The current state, in SI units."""
        return self._state

    def _build(self, sim: BulletSim) -> None:
        self._ant = Ant(sim)
        if self.render_mode is not None:
            self._build_lines(sim)

    def _build_lines(self, sim: BulletSim) -> None:
        """The limits on the ground, and marks across, so that speed is seen."""
        sim.changeVisualShape(self._ant.ground, -1, rgbaColor=GROUND_COLOUR)
        mark = (0.02, min(self._boundary, LINE_HALF_EXTENTS[0]), 0.005)
        self._lines = tuple(sim.add_ghost(LINE_HALF_EXTENTS, LINE_COLOUR) for _ in range(2))
        self._marks = tuple(sim.add_ghost(mark, MARK_COLOUR) for _ in range(N_MARKS))

    def _start_episode(self, sim: BulletSim) -> None:
        joint_offsets = self.np_random.uniform(-START_NOISE_JOINTS, START_NOISE_JOINTS, len(MOTORS))
        xy = self.np_random.uniform(-START_NOISE_XY, START_NOISE_XY, 2)
        self._ant.place(joint_offsets, xy)
        self._distance = _distance_to_target(xy)
        sim.stepSimulation()
        self._state = self._ant.read()

    def _advance(self, sim: BulletSim, action: FloatArray) -> None:
        self._ant.drive(action)
        self._state, self._action = self._ant.read(), action
        distance = _distance_to_target(self._state.position)
        self._progress, self._distance = self._distance - distance, distance

    def _cost_terms(self) -> dict[str, float]:
        speed = math.hypot(self._state.velocity[0], self._state.velocity[1])
        return {
            "boundary": float(abs(self._state.position[1]) > self._boundary),
            "velocity": float(speed > self._velocity_limit),
        }

    def _outcome(self, violation: bool) -> Outcome:
        fell = bool(self._state.position[2] <= MIN_HEIGHT)
        alive = -1.0 if fell else 1.0
        return Outcome(PROGRESS_WEIGHT * self._progress + alive - self._effort(), fell, False)

    def _effort(self) -> float:
        action, state = self._action, self._state
        n = len(MOTORS)
        power = np.abs(action * state.joint_velocities).sum() * (JOINT_SPEED_SCALE / n)
        at_limit = np.count_nonzero(np.abs(state.joints) > NEAR_JOINT_LIMIT)
        stall = (action @ action) / n
        return float(ELECTRICITY_WEIGHT * power + STALL_WEIGHT * stall + JOINT_LIMIT_WEIGHT * at_limit)

    def _observation(self) -> NDArray[np.float32]:
        state = self._state
        observation = np.empty(self.observation_space.shape or (), np.float32)
        observation[0:3] = POSITION_SCALE * state.position
        observation[3:6] = VELOCITY_SCALE * state.velocity
        observation[6:10] = state.quaternion
        observation[10:13] = ANGULAR_VELOCITY_SCALE * state.angular_velocity
        observation[13:29:2] = JOINT_SCALE * state.joints
        observation[14:29:2] = JOINT_SCALE * JOINT_SPEED_SCALE * state.joint_velocities
        observation[29:] = state.feet
        return observation

    def _create_renderer(self) -> Any:
        return CAMERA

    def _draw(self) -> NDArray[np.uint8]:
        # Lines and marks go with the camera: long ones would leave its view on both sides, which it draws badly.
        x, y, _ = self._state.position.tolist()
        for line, side in zip(self._lines, (-self._boundary, self._boundary), strict=True):
            self.sim.move(line, (x, side if math.isfinite(side) else FAR_AWAY, 0.0))
        first = MARK_SPACING * (round(x / MARK_SPACING) - N_MARKS // 2)
        for i, mark in enumerate(self._marks):
            self.sim.move(mark, (first + i * MARK_SPACING, 0.0, 0.0))
        colour = UNSAFE_COLOUR if any(self._cost_terms().values()) else SAFE_COLOUR
        self.sim.changeVisualShape(self._ant.body, -1, rgbaColor=colour)
        return self.sim.picture(replace(self._renderer, target=(x, y / 2, 0.3)))


def _distance_to_target(xy: FloatArray) -> float:
    return math.hypot(xy[0] - TARGET[0], xy[1] - TARGET[1])
