"""``MujocoEnv``: what every MuJoCo environment shares; substeps, contacts, broken physics, pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from safe_envs.core.env import SafeEnv, SimulationError
from safe_envs.core.geometry import FloatArray

try:
    import mujoco
except ImportError as error:
    raise DependencyNotInstalled('this environment needs MuJoCo: pip install "sb3-safe[mujoco]"') from error

PICTURE_SIZE = (320, 480)
"""Height and width in pixels."""
MAX_SPEED = 1e6
"""Norm of the joint velocities above which physics counts as unstable."""

Contact = tuple[str, str]
"""Names of two geoms."""

SENSORS = int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
STATE = ("qpos", "qvel", "mocap_pos", "mocap_quat")
"""Fields of ``MjData`` that a failed step leaves as they were."""


class MujocoEnv(SafeEnv):
    """A ``SafeEnv`` with a MuJoCo model of its own; ``model`` and ``data`` are MuJoCo's.

    After every step ``data`` holds positions, centres of mass and contacts of the *new* state (``mj_step`` alone leaves
    those of the state before it). Contacts are looked at in every substep, so none is missed at a larger frame skip.

    Args:
        xml: MJCF text.
        frame_skip: physics steps per environment step, >= 1.
        render_mode: see ``SafeEnv``; needs OpenGL, e.g. ``MUJOCO_GL=egl``, at the first ``render()``.
        watched: geoms whose contact with each other is noticed (``touched``); None: no contacts are looked at.
        camera: name of the camera that pictures are taken with.

    Raises:
        ValueError: if ``frame_skip`` is no positive integer.
    """

    def __init__(
        self,
        xml: str,
        frame_skip: int,
        render_mode: str | None = None,
        watched: Contact | None = None,
        camera: str = "track",
    ) -> None:
        if isinstance(frame_skip, bool) or not isinstance(frame_skip, int | np.integer) or frame_skip < 1:
            raise ValueError(f"frame_skip must be an integer >= 1, got {frame_skip!r}")
        super().__init__(render_mode)
        model = mujoco.MjModel.from_xml_string(xml)
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET  # MuJoCo would start anew without a word
        model.opt.disableflags |= SENSORS  # see _sense
        self.data = mujoco.MjData(model)
        self.metadata = {**self.metadata, "render_fps": round(1.0 / (model.opt.timestep * frame_skip))}
        self.frame_skip = frame_skip
        self._splits = model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4
        self._watched = None if watched is None else frozenset(model.geom(name).id for name in watched)
        self._camera = camera
        self._ctrl = np.zeros(model.nu)
        self.touched = False
        """Whether the watched geoms touched each other in the last step."""

    @property
    def model(self) -> Any:
        """The ``mujoco.MjModel``; it belongs to this environment."""
        return self.data.model

    @abstractmethod
    def _start(self) -> tuple[FloatArray, FloatArray]:
        """Joint positions and velocities of a new episode."""

    def _control(self, action: FloatArray) -> FloatArray:
        """What the actuators receive for a clipped action."""
        return action

    def _reset_state(self, options: Mapping[str, Any]) -> None:
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = self._start()
        mujoco.mj_forward(self.model, self.data)
        self.touched = self._in_contact()

    def _simulate(self, action: FloatArray) -> None:
        data, last_valid = self.data, [getattr(self.data, name).copy() for name in STATE]
        self._ctrl = self._control(action)
        data.ctrl[:] = self._ctrl
        self.touched = False
        for _ in range(self.frame_skip):
            self._substep()
            self.touched = self._in_contact() or self.touched
        if not data.qvel @ data.qvel < MAX_SPEED**2:  # false for NaN, too
            mujoco.mj_resetData(self.model, data)
            for name, value in zip(STATE, last_valid, strict=True):
                getattr(data, name)[:] = value
            mujoco.mj_forward(self.model, data)
            self.touched = False
            raise SimulationError(f"the joints are faster than {MAX_SPEED:g}, or their speed is no number any more")

    def _substep(self) -> None:
        model, data = self.model, self.data
        if self._splits:
            mujoco.mj_step2(model, data)
            self._move_bodies()
            mujoco.mj_step1(model, data)
        else:
            mujoco.mj_step(model, data)  # RK4 cannot be split
            mujoco.mj_kinematics(model, data)
            if self._watched is not None:
                mujoco.mj_comPos(model, data)
                mujoco.mj_comVel(model, data)
                mujoco.mj_collision(model, data)

    def _move_bodies(self) -> None:
        """Write where mocap bodies are at ``data.time``; not called with an RK4 integrator."""

    def _sense(self) -> FloatArray:
        """The model's sensors ``[S]`` in the current state; nothing else computes them, to save it in the substeps."""
        model, data = self.model, self.data
        model.opt.disableflags &= ~SENSORS
        mujoco.mj_sensorPos(model, data)
        mujoco.mj_sensorVel(model, data)
        mujoco.mj_forwardSkip(model, data, mujoco.mjtStage.mjSTAGE_VEL, 0)
        model.opt.disableflags |= SENSORS
        values: FloatArray = data.sensordata
        return values

    def _in_contact(self) -> bool:
        if self._watched is None:
            return False
        return any(self._watched == frozenset(pair) for pair in self.data.contact.geom.tolist())

    def _mean_velocity(self, body: int) -> FloatArray:
        """Velocity ``[3]`` of the centre of mass of a body and what hangs on it."""
        mujoco.mj_subtreeVel(self.model, self.data)
        velocity: FloatArray = self.data.subtree_linvel[body]
        return velocity

    def _create_renderer(self) -> Any:
        try:
            return mujoco.Renderer(self.model, *PICTURE_SIZE)
        except Exception as error:  # each OpenGL back end raises its own
            raise DependencyNotInstalled(
                f"rendering needs OpenGL, which MuJoCo could not open ({error}): set MUJOCO_GL=egl or MUJOCO_GL=osmesa"
            ) from error

    def _draw(self) -> NDArray[np.uint8]:
        self._renderer.update_scene(self.data, self._camera)
        frame: NDArray[np.uint8] = self._renderer.render()
        return frame

    def close(self) -> None:
        """Free the renderer and close the window; calling it again does nothing."""
        if self._renderer is not None:
            self._renderer.close()
        super().close()


def gymnasium_model(name: str) -> str:
    """MJCF text of a model that Gymnasium ships, e.g. ``"ant.xml"``."""
    import gymnasium.envs

    return (Path(gymnasium.envs.__file__).parent / "mujoco" / "assets" / name).read_text()
