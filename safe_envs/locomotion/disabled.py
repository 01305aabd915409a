"""``safe/HalfCheetahDisabled-v0`` and ``safe/AntDisabled-v0``: runners with a joint or a leg that lost its power."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from safe_envs.core.env import Outcome
from safe_envs.core.geometry import FloatArray
from safe_envs.sim.mujoco_env import MujocoEnv, gymnasium_model

POSITION_NOISE, VELOCITY_NOISE = 0.01, 0.1
"""Standard deviations at the start of an episode."""

CHEETAH_JOINTS = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
CHEETAH_TEST_JOINT = 5
CHEETAH_EFFORT = 0.05

ANT_LEGS = ((2, 3), (4, 5), (6, 7), (0, 1))
"""Actuators (hip, ankle) of the legs as MESA numbers them: 0 to 2 for training, 3 for testing."""
ANT_TEST_LEG = 3
ANT_EFFORT, ANT_BONUS = 0.005, 0.05
ANT_SHRINKAGE = 0.5

DEAD_COLOUR = (0.35, 0.35, 0.38, 1.0)
"""Of the parts whose actuators have no power, in pictures."""


class DisabledRunner(MujocoEnv):
    """What the two runners share: power per actuator, a reward for speed, and a part that must not hit the floor.

    Args:
        model: name of the model among Gymnasium's.
        fragile: geom that violates the constraint when it touches the floor.
        power: ``[A]`` scale of each actuator.
        effort: weight of the squared actions (after scaling) in the reward.
        bonus: reward of every step.
        frame_skip: physics steps of 0.01 s per action.
        terminate_on_violation: whether a violation ends the episode.
        render_mode: see ``SafeEnv``.
    """

    cost_names = ("floor",)

    def __init__(
        self,
        model: str,
        fragile: str,
        power: FloatArray,
        effort: float,
        bonus: float,
        frame_skip: int,
        terminate_on_violation: bool,
        render_mode: str | None,
    ) -> None:
        self.power = power
        self._effort, self._bonus = effort, bonus
        self._terminate_on_violation = terminate_on_violation
        self.action_space = spaces.Box(-1.0, 1.0, power.shape, np.float32)
        super().__init__(gymnasium_model(model), frame_skip, render_mode, (fragile, "floor"))
        self._torso: int = self.model.body("torso").id
        self._speed = 0.0
        for actuator in np.flatnonzero(power == 0.0).tolist():
            self.model.geom_rgba[self._geom_moved_by(actuator)] = DEAD_COLOUR

    def _geom_moved_by(self, actuator: int) -> int:
        """The geom of the body that an actuator's joint moves."""
        body = self.model.jnt_bodyid[self.model.actuator_trnid[actuator, 0]]
        return int(self.model.body_geomadr[body])

    def _initial_position(self) -> FloatArray:
        position: FloatArray = self.model.qpos0
        return position

    def _start(self) -> tuple[FloatArray, FloatArray]:
        self._speed = 0.0
        position = self._initial_position()
        velocity = VELOCITY_NOISE * self.np_random.standard_normal(self.model.nv)
        return position + POSITION_NOISE * self.np_random.standard_normal(len(position)), velocity

    def _control(self, action: FloatArray) -> FloatArray:
        return action * self.power

    def _cost_terms(self) -> dict[str, float]:
        return {"floor": float(self.touched)}

    def _outcome(self, violation: bool) -> Outcome:
        self._speed = float(self._mean_velocity(self._torso)[0])
        reward = self._speed - self._effort * float(self._ctrl @ self._ctrl) + self._bonus
        return Outcome(reward, violation and self._terminate_on_violation, False)


class HalfCheetahDisabledEnv(DisabledRunner):
    """HalfCheetah-Disabled of MESA (thesis, section 7.1; constants of its released code, of CARL's and GrBAL's).

    Gymnasium's half cheetah with a physics step of 0.01 s. Observation ``[19]``: joint positions without x (8), joint
    velocities (9), depth and height of the centre of mass, y and z (2); nothing in it tells which joint is disabled.
    Action ``[6]`` in [-1, 1]. Reward: forward velocity of the centre of mass in m/s minus 0.05 times the sum of the
    squared applied actions. The time limit is 1000 steps. A violation is the head on the floor (``cost_floor``).
    There is no goal: ``is_success`` is always false.

    Args:
        disabled: actuator without power, 0 to 5 (back thigh, shin, foot, front thigh, shin, foot), or its name; None:
            none; ``"test"``: 5, with which MESA tests (it trains on 1 to 4), or none where ``power`` is given.
        power: scale of each of the 6 actuators, in [0, 1], for partial failure; None: 1.
        frame_skip: 1 in the paper's code; 5 in Gymnasium's ``HalfCheetah-v5``.
        terminate_on_violation: as in the paper; its data were collected without.
        render_mode: ``None``, ``"rgb_array"`` or ``"human"``.

    Raises:
        ValueError: if there is no such actuator, or the power is out of range.
    """

    def __init__(
        self,
        disabled: int | str | None = "test",
        power: ArrayLike | None = None,
        frame_skip: int = 1,
        terminate_on_violation: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if disabled == "test":
            disabled = CHEETAH_TEST_JOINT if power is None else None
        if isinstance(disabled, str):
            disabled = _index_of(disabled, CHEETAH_JOINTS)
        scales = _scales(power, len(CHEETAH_JOINTS))
        if disabled is not None:
            scales[_checked_index(disabled, len(CHEETAH_JOINTS), "an actuator")] = 0.0
        self.observation_space = spaces.Box(-np.inf, np.inf, (19,), np.float32)
        super().__init__(
            "half_cheetah.xml", "head", scales, CHEETAH_EFFORT, 0.0, frame_skip, terminate_on_violation, render_mode
        )

    def _observation(self) -> NDArray[np.float32]:
        data, observation = self.data, np.empty(19, np.float32)
        observation[:8], observation[8:17] = data.qpos[1:], data.qvel
        observation[17:] = data.subtree_com[self._torso, 1:]
        return observation


class AntDisabledEnv(DisabledRunner):
    """Ant-Disabled of MESA (thesis, section 7.1; constants of its released code and of GrBAL's).

    Gymnasium's ant with a physics step of 0.01 s. Observation ``[41]``: joint positions (15), joint velocities (14),
    rotation matrix of the torso (9), centre of mass (3). Action ``[8]`` in [-1, 1]. Reward: forward velocity of the
    centre of mass in m/s minus 0.005 times the sum of the squared applied actions plus 0.05. The time limit is 1000
    steps. A violation is the torso on the floor (``cost_floor``). There is no goal: ``is_success`` is always false.

    Args:
        disabled: leg without power, 0 to 3 (front left, front right, back left, back right in the model's names); None:
            none; ``"test"``: 3, with which MESA tests (it trains on 0 to 2), or none where ``power`` is given.
        power: scale of each of the 8 actuators, in [0, 1], for partial failure; None: 1.
        shrink_disabled: draw the disabled leg in, as in the released code: half the size, the shank inside the thigh
            (masses stay).
        leaky_observation: ``[43]``, as in the released code: also the reward without effort, and whether the constraint
            is violated, which the paper says the agent does not see.
        frame_skip: 1 in the paper's code; 5 in Gymnasium's ``Ant-v5``.
        terminate_on_violation: as in the paper; its data were collected without.
        render_mode: ``None``, ``"rgb_array"`` or ``"human"``.

    Raises:
        ValueError: if there is no such leg, or the power is out of range.
    """

    def __init__(
        self,
        disabled: int | Literal["test"] | None = "test",
        power: ArrayLike | None = None,
        shrink_disabled: bool = True,
        leaky_observation: bool = False,
        frame_skip: int = 1,
        terminate_on_violation: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if disabled == "test":
            disabled = ANT_TEST_LEG if power is None else None
        scales = _scales(power, 2 * len(ANT_LEGS))
        if disabled is not None:
            scales[list(ANT_LEGS[_checked_index(disabled, len(ANT_LEGS), "a leg")])] = 0.0
        self._leaks = leaky_observation
        self.observation_space = spaces.Box(-np.inf, np.inf, (43 if leaky_observation else 41,), np.float32)
        super().__init__(
            "ant.xml", "torso_geom", scales, ANT_EFFORT, ANT_BONUS, frame_skip, terminate_on_violation, render_mode
        )
        if disabled is not None and shrink_disabled:
            self._shrink(ANT_LEGS[disabled])

    def _initial_position(self) -> FloatArray:
        position: FloatArray = self.model.numeric("init_qpos").data
        return position

    def _shrink(self, leg: Sequence[int]) -> None:
        thigh, shank = (self._geom_moved_by(actuator) for actuator in leg)
        self.model.geom_size[[thigh, shank]] *= ANT_SHRINKAGE
        self.model.geom_pos[shank] = self.model.geom_pos[thigh]

    def _observation(self) -> NDArray[np.float32]:
        data, observation = self.data, np.empty(self.observation_space.shape or (), np.float32)
        observation[:15], observation[15:29] = data.qpos, data.qvel
        observation[29:38] = data.xmat[self._torso]
        observation[38:41] = data.subtree_com[self._torso]
        if self._leaks:
            observation[41], observation[42] = self._speed + self._bonus, self.touched
        return observation


def _scales(power: ArrayLike | None, n: int) -> FloatArray:
    scales = np.ones(n) if power is None else np.array(power, dtype=np.float64)
    if scales.shape != (n,) or not ((scales >= 0.0) & (scales <= 1.0)).all():
        raise ValueError(f"power must be {n} numbers in [0, 1], one for each actuator, got {power!r}")
    return scales


def _checked_index(value: Any, n: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < n:
        raise ValueError(f"disabled must be {what} from 0 to {n - 1}, or None for none, got {value!r}")
    return int(value)


def _index_of(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise ValueError(f"disabled must be one of {list(names)} or its index, got {name!r}")
    return names.index(name)
