"""``BulletSim``: one PyBullet world that belongs to one environment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from safe_envs.core.geometry import FloatArray

BULLET_REMEDY = (
    'this environment needs PyBullet: pip install "sb3-safe[bullet]" (PyBullet 3.2.7 has wheels up to Python 3.11)'
)

try:
    import pybullet
    import pybullet_data
except ImportError as error:
    raise DependencyNotInstalled(BULLET_REMEDY) from error

BulletError: type[Exception] = pybullet.error
"""What PyBullet raises, e.g. when the physics server is gone."""

Vector3 = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """Where a picture is taken from; lengths in m, angles in degrees, sizes in pixels."""

    distance: float
    yaw: float
    pitch: float
    target: Vector3 = (0.0, 0.0, 0.0)
    width: int = 480
    height: int = 320
    field_of_view: float = 50.0
    near: float = 0.1
    far: float = 30.0


class BulletSim:
    """A PyBullet world inside this process, closed exactly once.

    PyBullet hands out the number of a closed world to the next one, so a handle that outlives its world would
    silently move somebody else's robot; ``pybullet_utils.BulletClient`` even closes it when it is collected. This
    handle forgets its number when it closes.

    Every function of ``pybullet`` is an attribute, bound to this world: ``sim.stepSimulation()``.
    """

    def __init__(self) -> None:
        self._client = -1
        self._client = pybullet.connect(pybullet.DIRECT)
        if self._client < 0:
            raise BulletError("no physics server could be started: are too many worlds open?")
        self.setAdditionalSearchPath(pybullet_data.getDataPath())

    @property
    def client_id(self) -> int:
        """PyBullet's number of this world; -1 once it is closed."""
        return self._client

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._client < 0:
            raise BulletError("the physics server was closed")
        attribute = getattr(pybullet, name)
        if callable(attribute):
            attribute = partial(attribute, physicsClientId=self._client)
            self.__dict__[name] = attribute  # looked up once, the step is short
        return attribute

    def close(self) -> None:
        """Free the world; calling it again does nothing."""
        client, self._client = self._client, -1
        for name in [name for name in self.__dict__ if not name.startswith("_")]:
            del self.__dict__[name]
        if client >= 0 and pybullet.isConnected(physicsClientId=client):
            pybullet.disconnect(physicsClientId=client)

    def __del__(self) -> None:
        # At interpreter exit the module may be gone already.
        if pybullet is not None:
            self.close()

    def is_touching(self, body: int, other: int) -> bool:
        """Whether two bodies touched in the last physics step."""
        # Bullet remembers contact points for a while after the surfaces have parted.
        return any(contact[8] <= 0.0 for contact in self.getContactPoints(body, other))

    def picture(self, camera: Camera) -> NDArray[np.uint8]:
        """What a camera sees, ``[H, W, 3]``, drawn on the CPU."""
        view = self.computeViewMatrixFromYawPitchRoll(
            camera.target, camera.distance, camera.yaw, camera.pitch, roll=0.0, upAxisIndex=2
        )
        aspect = camera.width / camera.height
        projection = self.computeProjectionMatrixFOV(camera.field_of_view, aspect, camera.near, camera.far)
        *_, rgba, _, _ = self.getCameraImage(
            camera.width, camera.height, view, projection, renderer=pybullet.ER_TINY_RENDERER
        )
        pixels = np.asarray(rgba, dtype=np.uint8).reshape(camera.height, camera.width, 4)
        return np.ascontiguousarray(pixels[..., :3])

    def add_ghost(self, half_extents: Vector3, rgba: tuple[float, float, float, float]) -> int:
        """A box that is seen and touches nothing."""
        shape = self.createVisualShape(pybullet.GEOM_BOX, halfExtents=half_extents, rgbaColor=rgba)
        body: int = self.createMultiBody(baseMass=0.0, baseVisualShapeIndex=shape)
        return body

    def move(self, body: int, position: FloatArray | Vector3) -> None:
        """Put a body somewhere, upright and at rest."""
        self.resetBasePositionAndOrientation(body, position, (0.0, 0.0, 0.0, 1.0))
        self.resetBaseVelocity(body, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
