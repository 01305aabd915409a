"""``safe/CartPoleLength-v0``: a cart-pole whose pole has a length that the agent does not see."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from safe_envs.core.env import Outcome
from safe_envs.core.geometry import FloatArray
from safe_envs.sim.mujoco_env import MujocoEnv

ASSET = Path(__file__).parent / "assets" / "cart_pole.xml"
LENGTH_MARK = "POLE_LENGTH"
FRAME_SKIP = 2
ACTION_SCALE = 3.0
"""Control of the motor, whose gear is 100, for an action of 1: 300 N."""
MAX_ANGLE, MAX_POSITION = math.pi / 2, 2.4
START_NOISE = 0.01
SUCCESS_RETURN = 160.0


class CartPoleLengthEnv(MujocoEnv):
    """Cartpole-Length of MESA (thesis, section 7.1; constants of its released code and of CARL's).

    Observation ``[4]``: position of the cart in m, angle of the pole in rad, their velocities; the length is hidden.
    Action ``[1]`` in [-1, 1]: force on the cart in units of 300 N, for 0.04 s. Reward: ``exp(-d^2 / length^2)`` with
    the distance ``d`` of the pole's tip to its upright place over the middle of the rail. The time limit is 200 steps.

    A violation is a pole below the rail (``|angle| > pi / 2``) or a cart that leaves it (``|position| >= 2.4``): cost
    terms ``fall`` and ``off_rail``. ``is_success`` says whether the rewards of the episode exceed 160 by now.

    Args:
        length: of the pole in m, > 0. MESA trains on U(0.4, 0.8) and tests on 1.0.
        frame_skip: physics steps of 0.02 s per action.
        terminate_on_violation: as in the paper; its data were collected without.
        render_mode: ``None``, ``"rgb_array"`` or ``"human"``.

    Raises:
        ValueError: if the length is not positive.
    """

    cost_names = ("fall", "off_rail")

    def __init__(
        self,
        length: float = 1.0,
        frame_skip: int = FRAME_SKIP,
        terminate_on_violation: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if not (isinstance(length, int | float | np.number) and math.isfinite(length) and length > 0.0):
            raise ValueError(f"length must be > 0 (m), got {length!r}")
        self.length = float(length)
        self._terminate_on_violation = terminate_on_violation
        self._return = 0.0
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        super().__init__(ASSET.read_text().replace(LENGTH_MARK, repr(self.length)), frame_skip, render_mode)

    def _start(self) -> tuple[FloatArray, FloatArray]:
        self._return = 0.0
        position, velocity = self.np_random.uniform(-START_NOISE, START_NOISE, (2, 2))
        return position, velocity

    def _control(self, action: FloatArray) -> FloatArray:
        return ACTION_SCALE * action

    def _cost_terms(self) -> dict[str, float]:
        position, angle = self.data.qpos.tolist()
        return {"fall": float(abs(angle) > MAX_ANGLE), "off_rail": float(abs(position) >= MAX_POSITION)}

    def _outcome(self, violation: bool) -> Outcome:
        position, angle = self.data.qpos.tolist()
        across, below = position / self.length + math.sin(angle), 1.0 - math.cos(angle)
        reward = math.exp(-(across**2) - below**2)
        self._return += reward
        return Outcome(reward, violation and self._terminate_on_violation, self._return > SUCCESS_RETURN)

    def _observation(self) -> NDArray[np.float32]:
        observation = np.empty(4, np.float32)
        observation[:2], observation[2:] = self.data.qpos, self.data.qvel
        return observation
