"""Images by MuJoCo's own rays, where numba is not installed; the same as those of ``safe_envs/hallway/raycast.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from safe_envs.core.geometry import FloatArray

if TYPE_CHECKING:
    from safe_envs.hallway.camera import View

try:
    import mujoco
except ImportError as error:
    raise DependencyNotInstalled('rays by MuJoCo need it: pip install "sb3-safe[mujoco]"') from error

SHOWN, HIDDEN = 0, 1
"""Groups that the geoms are in while rays are cast."""
CUTOFF = 1e10
"""Beyond any distance: ``far`` is a planar depth, MuJoCo's limit is one along the ray."""


class MujocoRays:
    """Casts the rays of a view with ``mj_multiRay``.

    MuJoCo leaves geoms out by their group, so for the time of a call the model's groups say which are visible: no other
    thread may use the model meanwhile.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        (height, width), (x_slope, y_slope) = view.shape, view.slopes
        x = x_slope * ((2.0 * np.arange(width) + 1.0) / width - 1.0)
        y = y_slope * (1.0 - (2.0 * np.arange(height) + 1.0) / height)
        self._directions: FloatArray = np.stack(np.broadcast_arrays(x, y[:, None], -1.0), axis=-1).reshape(-1, 3)

    def depth(self, data: Any, out: NDArray[np.float32]) -> None:
        """See ``safe_envs.hallway.camera.Rays``."""
        distance, _ = self._cast(data, self._turned(data))
        np.copyto(out, self._clipped(distance).reshape(out.shape), casting="same_kind")

    def surfaces(self, data: Any) -> tuple[NDArray[np.int32], FloatArray]:
        """See ``safe_envs.hallway.camera.Rays``."""
        rays = self._turned(data)
        normals = np.zeros_like(rays)
        distance, geoms = self._cast(data, rays, normals)
        geoms[self._clipped(distance) >= self._view.far] = -1
        squarely = np.abs((normals * rays).sum(axis=1)) / np.linalg.norm(rays, axis=1)
        return geoms.reshape(self._view.shape), squarely.reshape(self._view.shape)

    def _turned(self, data: Any) -> FloatArray:
        """Directions ``[H W, 3]`` of the rays in the world, as long as one metre of depth."""
        rays: FloatArray = self._directions @ data.cam_xmat[self._view.camera].reshape(3, 3).T
        return rays

    def _clipped(self, distance: FloatArray) -> FloatArray:
        """MuJoCo's distance of a ray without a hit is -1."""
        far = self._view.far
        return np.where(distance < 0.0, far, np.minimum(distance, far))

    def _cast(
        self, data: Any, rays: FloatArray, normals: FloatArray | None = None
    ) -> tuple[FloatArray, NDArray[np.int32]]:
        """Depths and geoms, ``[H W]``."""
        distance, geoms = np.empty(len(rays)), np.empty(len(rays), np.int32)
        groups = data.model.geom_group
        before = groups.copy()
        groups[:] = HIDDEN
        groups[self._view.visible] = SHOWN
        shown = np.zeros(mujoco.mjNGROUP, np.uint8)
        shown[SHOWN] = 1
        try:
            mujoco.mj_multiRay(
                m=data.model, d=data, pnt=data.cam_xpos[self._view.camera], vec=rays.ravel(),
                geomgroup=shown, flg_static=True, bodyexclude=-1, geomid=geoms, dist=distance,
                normal=None if normals is None else normals.reshape(-1), nray=len(rays), cutoff=CUTOFF,
            )  # fmt: skip
        finally:
            groups[:] = before
        return distance, geoms
