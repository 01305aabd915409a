"""``safe/Hallway{Walls,Poles,Humanoids}{Point,Doggo}-v0``: see through a depth camera, run forward, touch nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from safe_envs.core.env import Outcome
from safe_envs.core.geometry import FloatArray
from safe_envs.hallway.camera import Camera, DepthCamera
from safe_envs.hallway.clips import ClipLibrary, PathLike
from safe_envs.hallway.hall import Hall, ObstacleKind, check_kind
from safe_envs.hallway.humanoids import HumanoidPhysics, Humanoids
from safe_envs.hallway.obstacles import Obstacles, StaticObstacles, body_name
from safe_envs.hallway.robots import FRAME_SKIP, find_robot
from safe_envs.hallway.scene import END_WALL, FLOOR, SIDE_WALL, hallway_xml
from safe_envs.sim.mujoco_env import MujocoEnv

Vision = Literal["depth", "rgb"]
Clips = ClipLibrary | PathLike | Sequence[PathLike] | None
DEPTH, RGB, PROPRIOCEPTION = "depth", "rgb", "proprioception"
"""Entries of the observation."""

CLEARANCE = 0.05
"""Free space in m that a hall must leave beside the robot."""

# What a geom counts as, so that the sum over a contact's pair says who touches whom: ``i + 1`` is the robot with
# obstacle i, SIDE the robot with a side wall, 0 the robot with itself; anything with the floor is far below.
ROBOT, SIDE, GROUND = 0, -1_000_000, -1_000_000_000


class HallwayEnv(MujocoEnv):
    """The hallway of "Safe transfer" (section 3): run through a long cluttered hall and touch no obstacle.

    Observation: a ``Dict`` of ``depth`` ``[50, 50, 1]`` in [0, 1] (planar depth over the camera's far clip; row 0 is
    the top) or ``rgb`` ``[50, 50, 3]`` uint8 from the head camera, which does not see its own robot, and
    ``proprioception`` (accelerometer, velocimeter, gyro, magnetometer; Doggo also 8 touch sensors, 12 joint angles, 12
    joint velocities): ``[12]`` for Point, ``[44]`` for Doggo. Action in [-1, 1]: ``[2]`` push and turn for Point,
    ``[12]`` joint torques for Doggo. Ten physics steps of 0.002 s (Point) or 0.01 s (Doggo) per action; the time limit
    is 1000 steps.

    Reward: 50 for each metre towards the finish line, 1000 for the whole hall. The finish line ends the episode with
    ``is_success``. Cost ``cost_obstacles``: 1 for each step in which the robot touches a wall or a pole in any physics
    step; of humanoids, the number touched for the first time in this episode. Side walls block the way and cost
    nothing, or ``cost_side_walls`` 1 for each step in contact.

    Sizes, places and rewards are those of ``Hall``; the paper does not give them.

    Args:
        robot: ``"point"`` or ``"doggo"``.
        obstacles: ``"walls"``, ``"poles"`` or ``"humanoids"``.
        hall: sizes, numbers and ranges.
        vision: ``"depth"`` or ``"rgb"``.
        camera: resolution and far clip of the head camera; its field of view is the robot's.
        clips: motion of the humanoids: a ``ClipLibrary``, or what ``ClipLibrary.load`` reads; None: the shipped clips.
            For humanoids only.
        humanoid_physics: ``"kinematic"``, or ``"welded"`` for simulated bodies, which is several times slower; see
            ``Humanoids``.
        side_wall_cost: whether touching the side walls costs.
        terminate_at_finish: whether the finish line ends the episode.
        render_mode: see ``SafeEnv``; needs OpenGL, the observation does not.
        view: what ``render`` shows: the robot from behind (``"follow"``), or what is before its head (``"head"``).

    Raises:
        ValueError: for an unknown robot, kind of obstacles, vision or view, a ``hall`` or ``camera`` of another type,
            or a hall too short or too narrow for its obstacles.
    """

    cost_names: tuple[str, ...] = ("obstacles",)

    def __init__(
        self,
        robot: str = "point",
        obstacles: ObstacleKind = "walls",
        hall: Hall | None = None,
        vision: Vision = "depth",
        camera: Camera | None = None,
        clips: Clips = None,
        humanoid_physics: HumanoidPhysics = "kinematic",
        side_wall_cost: bool = False,
        terminate_at_finish: bool = True,
        render_mode: str | None = None,
        view: Literal["follow", "head"] = "follow",
    ) -> None:
        _check_choice("vision", vision, get_args(Vision))
        _check_choice("view", view, ("follow", "head"))
        _check_type("hall", hall, Hall)
        _check_type("camera", camera, Camera)
        self.robot, self.hall = find_robot(robot), hall or Hall()
        self.obstacles = _make_obstacles(check_kind(obstacles), self.hall, self.robot.radius, clips, humanoid_physics)
        self._side_wall_cost, self._terminate_at_finish = side_wall_cost, terminate_at_finish
        if side_wall_cost:
            self.cost_names = ("obstacles", "side_walls")
        self.action_space = spaces.Box(-1.0, 1.0, (self.robot.n_actuators,), np.float32)
        self.observation_space = _observation_space(vision, (camera or Camera()).shape, self.robot.n_sensors)
        xml = hallway_xml(self.robot, self.hall, self.obstacles)
        super().__init__(xml, FRAME_SKIP, render_mode, camera=view)
        self._body: int = self.model.body("robot").id
        self._counts_as = self._roles()
        visible = np.flatnonzero(self._counts_as != ROBOT)
        self._vision: Vision = vision
        self._eye = DepthCamera(self.model, "head", visible, camera)
        self._touching = np.zeros(self.obstacles.n, dtype=bool)
        self._counted = np.zeros(self.obstacles.n, dtype=bool)
        self._touches_side, self._newly_touched, self._progress = False, 0, 0.0
        self._is_close = True

    # ------------------------------------------------------------------ what drivers and tests may know

    @property
    def position(self) -> tuple[float, float]:
        """Where the robot is, x and y in m."""
        x, y, _ = self.data.xpos[self._body].tolist()
        return x, y

    @property
    def velocity(self) -> FloatArray:
        """Velocity ``[2]`` of the robot's body along and across the hall in m/s."""
        velocity: FloatArray = self.data.qvel[:2]
        return velocity

    @property
    def heading(self) -> float:
        """Angle of the robot's nose to the hall in rad."""
        rotation = self.data.xmat[self._body]
        return math.atan2(rotation[3], rotation[0])

    @property
    def touched_obstacles(self) -> NDArray[np.bool_]:
        """Which obstacles ``[n]`` the robot touched in the last step."""
        return self._touching.copy()

    # ------------------------------------------------------------------ physics

    def _start(self) -> tuple[FloatArray, FloatArray]:
        self.obstacles.start(self.np_random, self.data)
        x, y, yaw = self.hall.draw_start(self.np_random)
        position = self.data.qpos.copy()
        position[:2] = x, y
        if self.robot.name == "point":
            position[2] = yaw
        else:
            position[3:7] = math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)
        return position, np.zeros(self.model.nv)

    def _reset_state(self, options: Mapping[str, Any]) -> None:
        self._counted[:] = self._touching[:] = False
        self._is_close = False
        super()._reset_state(options)

    def _simulate(self, action: FloatArray) -> None:
        before = self.position[0]
        self._touching[:] = self._touches_side = False
        self._is_close = self._anything_within_reach()
        super()._simulate(action)
        finish = self.hall.length
        self._progress = min(self.position[0], finish) - min(before, finish)
        self._newly_touched = int(np.count_nonzero(self._touching & ~self._counted))
        self._counted |= self._touching
        self.obstacles.touched(self._touching, self.data)

    def _move_bodies(self) -> None:
        self.obstacles.move(self.data)

    def _anything_within_reach(self) -> bool:
        """Whether the robot might touch something in one step: reading contacts takes as long as Point's physics."""
        x, y = self.position
        margin = self.robot.radius + self.robot.fastest * self.model.opt.timestep * self.frame_skip
        if self._side_wall_cost and abs(y) > self.hall.width / 2 - margin:
            return True
        places, reach = self.obstacles.places, self.obstacles.reach + margin
        near = (np.abs(places[:, 0] - x) < reach[:, 0]) & (np.abs(places[:, 1] - y) < reach[:, 1])
        return bool(near.any())

    def _in_contact(self) -> bool:
        if not self._is_close or not self.data.ncon:
            return False
        pairs = self._counts_as[self.data.contact.geom].sum(axis=1)
        obstacles = pairs[pairs > 0]
        self._touching[obstacles - 1] = True
        self._touches_side = self._touches_side or bool((pairs == SIDE).any())
        return bool(len(obstacles))

    def _roles(self) -> NDArray[np.int64]:
        """What each geom counts as, ``[G]``; see ROBOT."""
        roles = np.full(self.model.ngeom, ROBOT)
        owners = {body_name(i): i + 1 for i in range(self.obstacles.n)}
        for i in range(self.model.ngeom):
            geom = self.model.geom(i)
            if geom.name.startswith((FLOOR, END_WALL)):
                roles[i] = GROUND
            elif geom.name.startswith(SIDE_WALL):
                roles[i] = SIDE
            else:
                prefix = self.model.body(geom.bodyid[0]).name.partition(":")[0] + ":"
                roles[i] = owners.get(prefix, ROBOT)
        return roles

    # ------------------------------------------------------------------ what a step is worth

    def _cost_terms(self) -> dict[str, float]:
        touched = self._newly_touched if self.obstacles.counts_once else self._touching.any()
        terms = {"obstacles": float(touched)}
        if self._side_wall_cost:
            terms["side_walls"] = float(self._touches_side)
        return terms

    def _outcome(self, violation: bool) -> Outcome:
        finished = self.position[0] >= self.hall.length
        return Outcome(self.hall.reward_per_metre * self._progress, finished and self._terminate_at_finish, finished)

    def _observation(self) -> dict[str, NDArray[Any]]:
        if self._vision == RGB:
            image: NDArray[Any] = self._eye.colour(self.data)
        else:
            image = self._eye.depth(self.data)[..., None]
            image /= self._eye.camera.far
        return {self._vision: image, PROPRIOCEPTION: self._sense().astype(np.float32)}


def _observation_space(vision: Vision, shape: tuple[int, int], n_sensors: int) -> spaces.Dict:
    image = (
        spaces.Box(0.0, 1.0, (*shape, 1), np.float32) if vision == DEPTH else spaces.Box(0, 255, (*shape, 3), np.uint8)
    )
    return spaces.Dict({vision: image, PROPRIOCEPTION: spaces.Box(-np.inf, np.inf, (n_sensors,), np.float32)})


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def _check_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind | None):
        raise ValueError(f"{name} must be a safe_envs.{kind.__name__} or None, got {value!r}")


def _make_obstacles(kind: ObstacleKind, hall: Hall, radius: float, clips: Clips, physics: HumanoidPhysics) -> Obstacles:
    _check_choice("humanoid_physics", physics, get_args(HumanoidPhysics))
    hall.check_start(radius)
    if kind == "humanoids":
        library = ClipLibrary.default() if clips is None else clips
        library = library if isinstance(library, ClipLibrary) else ClipLibrary.load(library)
        return Humanoids(hall, library, physics, radius, CLEARANCE)
    if clips is not None:
        raise ValueError(f"clips are for obstacles='humanoids', got them with {kind!r}")
    hall.check_room(kind, 2.0 * radius + CLEARANCE)
    return StaticObstacles(hall, kind)
