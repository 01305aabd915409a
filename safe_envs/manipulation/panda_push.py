"""``safe/PandaPush-v0`` and ``safe/PandaPushGoal-v0``: push a cube to a target, past an obstacle."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle
from numpy.typing import ArrayLike, NDArray

from safe_envs.core.env import Outcome
from safe_envs.core.geometry import FloatArray
from safe_envs.manipulation.push_layout import LAYOUTS, PushLayout, PushStart
from safe_envs.manipulation.push_scene import PushScene, PushState
from safe_envs.sim.bullet_env import BulletEnv
from safe_envs.sim.bullet_sim import BulletSim, Camera
from safe_envs.sim.panda_sim import N_SUBSTEPS, TIME_STEP

Observed = Literal["obstacle", "angular_velocity"]

SUCCESS_DISTANCE = 0.05
CAMERA = Camera(distance=0.8, yaw=65.0, pitch=-42.0, target=(-0.03, 0.0, 0.05))


class PandaPushEnv(BulletEnv):
    """The push of the dual-agent paper (section V-B): a Panda arm, a cube, a target, and an obstacle in the way.

    Arm and simulation are those of panda-gym 3.0.7 (Gallouedec et al., 2021); what the paper leaves open follows its
    authors' code, but for the collision test, which that does not hold, and for the square of starts (``layout``).

    Action ``[3]`` in [-1, 1]: displacement of the gripper in units of 0.05 m; a step is 0.04 s in 20 substeps. The
    observation ``[21]`` is gripper position and velocity, cube position, Euler angles and velocity, then the
    position of the obstacle or the cube's angular velocity, then the target's position: three numbers each, in SI
    units.

    Reward: 0 where the cube is within 0.05 m of the target, else -1. The cost is 1 on a step with a substep in which
    arm or cube touches the obstacle. The episode never ends before its time limit of 50 steps; ``is_success``:
    the cube is at the target, and the obstacle was never touched in this episode.

    Args:
        render_mode: ``None``, ``"rgb_array"`` or ``"human"``.
        obstacle: whether there is one; without it the cost is 0, and so are its entries of the observation (the
            midpoint would tell where the target is, whatever target an episode is relabelled with).
        lateral_offset: the obstacle stands at the midpoint of cube and target, up to this many metres aside.
        observe: what the sixth triple is: ``"obstacle"`` (as the authors' environment), or ``"angular_velocity"``
            (panda-gym's own 18 numbers and the target; the paper's text fits both).
        layout: ``"reachable"``, ``"authors"``, ``"panda-gym"`` (see ``push_layout.LAYOUTS``) or one of your own.
        resting_contact: whether it costs, too, that the cube has come to rest against the obstacle, whatever the agent
            does then; False: their contact costs while the obstacle moves, that of the arm always.

    Raises:
        ValueError: if an argument does not fit the description above, or the layout leaves no room for the obstacle.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": round(1 / (N_SUBSTEPS * TIME_STEP))}  # noqa: RUF012
    cost_names = ("contact",)

    def __init__(
        self,
        render_mode: str | None = None,
        obstacle: bool = True,
        lateral_offset: float = 0.0,
        observe: Observed = "obstacle",
        layout: PushLayout | str = "reachable",
        resting_contact: bool = True,
    ) -> None:
        EzPickle.__init__(self, render_mode, obstacle, lateral_offset, observe, layout, resting_contact)
        if observe not in get_args(Observed):
            raise ValueError(f"observe must be one of {get_args(Observed)}, got {observe!r}")
        self._layout = _named_layout(layout)
        if not 0.0 <= lateral_offset <= self._layout.max_lateral_offset:
            raise ValueError(f"lateral_offset must be in [0, {self._layout.max_lateral_offset}], where the obstacle "
                             f"stays on the table, got {lateral_offset}")  # fmt: skip
        if obstacle and not self._layout.has_room_for_obstacle:
            raise ValueError(f"the layout must keep cube and target apart, e.g. min_distance=0.12, got {self._layout}")
        self._has_obstacle, self._lateral_offset, self._observe = obstacle, lateral_offset, observe
        self._resting_contact = resting_contact
        self.observation_space = self._make_observation_space()
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        super().__init__(render_mode)
        self._scene: PushScene
        self._start: PushStart
        self._state: PushState
        self._is_touched = self._was_touched = False

    @property
    def state(self) -> PushState:
        """The current state, in SI units."""
        return self._state

    @property
    def start(self) -> PushStart:
        """Where cube, target and obstacle stood at the start of the episode."""
        return self._start

    def _build(self, sim: BulletSim) -> None:
        self._scene = PushScene(sim, self._layout, self._has_obstacle, self._resting_contact)

    def _start_episode(self, sim: BulletSim) -> None:
        self._start = self._layout.sample(self.np_random, self._lateral_offset)
        self._scene.place(self._start)
        self._is_touched = self._was_touched = False
        self._state = self._scene.read()

    def _advance(self, sim: BulletSim, action: FloatArray) -> None:
        is_touched = self._scene.advance(action)
        self._state = self._scene.read()
        self._is_touched, self._was_touched = is_touched, self._was_touched or is_touched

    def _cost_terms(self) -> dict[str, float]:
        return {"contact": float(self._is_touched)}

    def _outcome(self, violation: bool) -> Outcome:
        # In float32, as observed: what HER computes again from the observation must be the same.
        cube, goal = self._goals()
        is_there = bool(_distance(cube, goal) < SUCCESS_DISTANCE)
        return Outcome(float(_reward(cube, goal)), False, is_there and not self._was_touched)

    def _observation(self) -> Any:
        return np.concatenate([self._features(), self._goals()[1]])

    def _features(self) -> NDArray[np.float32]:
        state = self._state
        last = state.obstacle if self._observe == "obstacle" else state.cube_angular_velocity
        return np.concatenate([*state[:5], last], dtype=np.float32)

    def _goals(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._state.cube.astype(np.float32), self._start.goal.astype(np.float32)

    def _make_observation_space(self) -> spaces.Space[Any]:
        return _unbounded(21)

    def _create_renderer(self) -> Any:
        return CAMERA

    def _draw(self) -> NDArray[np.uint8]:
        return self.sim.picture(self._renderer)


class PandaPushGoalEnv(PandaPushEnv):
    """``PandaPushEnv`` in goal-conditioned form, for hindsight experience replay.

    The observation is a dict: ``observation`` ``[18]`` is that of ``PandaPushEnv`` without the target,
    ``achieved_goal`` ``[3]`` the cube's position, ``desired_goal`` ``[3]`` the target's. Relabelled rewards come from
    ``compute_reward``; costs do not depend on the goal.

    With ``obstacle=False, observe="angular_velocity", layout="panda-gym"`` this is panda-gym's PandaPush-v3, but for
    the end of the episode, and for resets that leave nothing behind of the episodes before.

    Args:
        render_mode: see ``PandaPushEnv``.
        **kwargs: see ``PandaPushEnv``.
    """

    def compute_reward(self, achieved_goal: ArrayLike, desired_goal: ArrayLike, info: Any = None) -> Any:
        """Rewards ``[...]`` of cube positions ``[..., 3]`` for targets ``[..., 3]``; ``info`` is not used."""
        return _reward(achieved_goal, desired_goal)

    def _make_observation_space(self) -> spaces.Space[Any]:
        return spaces.Dict(
            {"observation": _unbounded(18), "achieved_goal": _unbounded(3), "desired_goal": _unbounded(3)}
        )

    def _observation(self) -> Any:
        cube, goal = self._goals()
        return {"observation": self._features(), "achieved_goal": cube, "desired_goal": goal}


def as_goal_observation(observations: NDArray[Any], obstacle: bool = True) -> dict[str, NDArray[Any]]:
    """What ``PandaPushGoalEnv`` observes where ``PandaPushEnv`` observes ``[..., 21]``: agents can act in both.

    Args:
        observations: with ``observe="obstacle"``, or both with ``"angular_velocity"``.
        obstacle: False for an agent that learned without the obstacle: its entries are 0 (``observe="obstacle"`` only,
            with ``"angular_velocity"`` the cube's stand there).
    """
    features = observations[..., :18]
    if not obstacle:
        features = features.copy()
        features[..., 15:] = 0.0
    return {
        "observation": features,
        "achieved_goal": observations[..., 6:9],
        "desired_goal": observations[..., 18:],
    }


def _reward(cubes: ArrayLike, goals: ArrayLike) -> Any:
    return np.where(_distance(cubes, goals) > SUCCESS_DISTANCE, -1.0, 0.0)


def _distance(points: ArrayLike, others: ArrayLike) -> Any:
    return np.linalg.norm(np.asarray(points) - np.asarray(others), axis=-1)


def _unbounded(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def _named_layout(layout: PushLayout | str) -> PushLayout:
    if isinstance(layout, PushLayout):
        return layout
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be a PushLayout or one of {sorted(LAYOUTS)}, got {layout!r}")
    return LAYOUTS[layout]
