"""The robot's eye: images of planar depth, or in colour, by casting rays; no OpenGL, no textures, no shadows.

numba does it (``raycast.py``); where it is not installed, MuJoCo's own rays do (``sim/mujoco_rays.py``), with the same
images, 20 (walls) to 90 times (12 humanoids) as slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, get_args

import gymnasium as gym
import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from safe_envs.core.geometry import FloatArray

Caster = Literal["auto", "numba", "mujoco"]
"""What casts the rays; ``"auto"``: numba where it is installed, else MuJoCo."""
INSTALL = 'pip install "sb3-safe[hallway]"'

SHAPES = {0: "plane", 2: "sphere", 3: "capsule", 5: "cylinder", 6: "box"}
"""MuJoCo's codes of the shapes that can be seen."""

AMBIENT = 0.3
"""Brightness of a surface seen along itself; one seen at right angles has 1."""
BACKGROUND = (190, 210, 235)
"""Colour where nothing is seen."""


@dataclass(frozen=True)
class Camera:
    """Resolution, field of view and range of a camera.

    Attributes:
        height: of the image in pixels.
        width: of the image in pixels; pixels are square.
        fovy: vertical field of view in degrees; None: that of the model's camera.
        far: depth in m that a pixel without anything has; nothing farther is seen.

    Raises:
        ValueError: if a size is no positive integer, the field of view not in (0, 180), or the range not positive.
    """

    height: int = 50
    width: int = 50
    fovy: float | None = None
    far: float = 10.0

    def __post_init__(self) -> None:
        for name, size in (("height", self.height), ("width", self.width)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise ValueError(f"{name} must be an integer >= 1 in pixels, got {size!r}")
        if self.fovy is not None and not 0.0 < self.fovy < 180.0:
            raise ValueError(f"fovy must be in (0, 180) degrees, got {self.fovy!r}")
        if not 0.0 < self.far < math.inf:
            raise ValueError(f"far must be a positive distance in m, got {self.far!r}")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


@dataclass(frozen=True, eq=False)
class View:
    """A camera in a model: everything that the two ray casters need to know.

    Attributes:
        camera: index of the model's camera.
        visible: ``[V]`` indices of the geoms that it may see.
        shape: height and width in pixels.
        slopes: of the rays at the right and at the upper border, over the depth.
        far: as in ``Camera``.
    """

    camera: int
    visible: NDArray[np.int64]
    shape: tuple[int, int]
    slopes: tuple[float, float]
    far: float


class Rays(Protocol):
    """What casts the rays of a view."""

    def depth(self, data: Any, out: NDArray[np.float32]) -> None:
        """Write planar depth ``[H, W]`` in m."""

    def surfaces(self, data: Any) -> tuple[NDArray[np.int32], FloatArray]:
        """The geom ``[H, W]`` in each pixel (-1: none), and how squarely ``[H, W]`` its surface is seen, in [0, 1]."""


class DepthCamera:
    """A camera of a MuJoCo model; it sees planes, spheres, capsules, cylinders and boxes.

    An image shows the positions that ``data`` holds: after ``mj_step`` they are a substep old until ``mj_kinematics``
    and ``mj_camlight`` (or ``mj_forward``) are called. Sizes are read each time; whoever changes ``geom_size`` changes
    ``geom_rbound`` and ``geom_aabb``, too. The camera keeps nothing of ``data``, so copies of an environment may share
    it, and it can be pickled.

    From within a shape its inside is seen, as by MuJoCo's rays: a robot with its head in an obstacle does not see
    through it. (OpenGL does.) Of a plane the upper side is seen, up to its half sizes. Opacity 0 is not seen.

    Args:
        model: an ``mjModel``.
        name: of the model's camera.
        visible: indices of the geoms that it may see, e.g. all but the robot's; None: all.
        camera: resolution, field of view and range.
        caster: see ``Caster``.

    Raises:
        ValueError: if the model has no such camera or geom, or a visible geom has another shape.
        gymnasium.error.DependencyNotInstalled: if the caster is numba and it is not installed.

    Example:
        >>> import mujoco
        >>> model = mujoco.MjModel.from_xml_string(
        ...     '<mujoco><worldbody><camera name="head" xyaxes="0 -1 0 0 0 1"/>'
        ...     '<geom type="box" size="0.5 4 4" pos="3.5 0 0"/></worldbody></mujoco>')
        >>> data = mujoco.MjData(model)
        >>> mujoco.mj_forward(model, data)
        >>> image = DepthCamera(model, "head", camera=Camera(height=4, width=4)).depth(data)
        >>> bool((image == 3.0).all())
        True
    """

    def __init__(
        self,
        model: Any,
        name: str = "head",
        visible: Sequence[int] | NDArray[np.integer] | None = None,
        camera: Camera | None = None,
        caster: Caster = "auto",
    ) -> None:
        self.camera = camera or Camera()
        index = _camera_index(model, name)
        fovy = float(model.cam_fovy[index]) if self.camera.fovy is None else self.camera.fovy
        slope, (height, width) = math.tan(math.radians(fovy) / 2.0), self.camera.shape
        slopes = (slope * width / height, slope)
        view = View(index, _visible_geoms(model, visible), self.camera.shape, slopes, float(self.camera.far))
        self._rays = _rays(view, caster)

    def depth(self, data: Any, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Planar depth ``[H, W]`` in m (distance along the viewing direction), at most ``far``; row 0 is the top.

        Args:
            data: an ``mjData`` of the model.
            out: where to write it; None: a new array.

        Raises:
            ValueError: if ``out`` is no contiguous float32 ``[H, W]``.
        """
        out = _checked(out, self.camera.shape, np.dtype(np.float32))
        self._rays.depth(data, out)
        return out

    def colour(self, data: Any, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Picture ``[H, W, 3]``: each geom's ``geom_rgba`` (not its material), lit by a lamp at the camera.

        The brightness is ``AMBIENT + (1 - AMBIENT) cos(a)`` for a surface that is seen at the angle ``a`` to its
        normal, whatever its distance.

        Args:
            data: an ``mjData`` of the model.
            out: where to write it; None: a new array.

        Raises:
            ValueError: if ``out`` is no contiguous uint8 ``[H, W, 3]``.
        """
        out = _checked(out, (*self.camera.shape, 3), np.dtype(np.uint8))
        geoms, cosines = self._rays.surfaces(data)
        brightness = 255.0 * (AMBIENT + (1.0 - AMBIENT) * cosines[..., None])
        out[...] = np.clip(np.rint(data.model.geom_rgba[geoms, :3] * brightness), 0, 255)
        out[geoms < 0] = BACKGROUND
        return out


class NumbaRays:
    """Casts the rays of a view with the compiled formulas of ``raycast.py``."""

    def __init__(self, view: View) -> None:
        self._view = view

    def depth(self, data: Any, out: NDArray[np.float32]) -> None:
        """See ``Rays``."""
        self._cast(data, out)

    def surfaces(self, data: Any) -> tuple[NDArray[np.int32], FloatArray]:
        """See ``Rays``."""
        from safe_envs.hallway.raycast import cosines

        depth, squarely = np.empty(self._view.shape, np.float32), np.zeros(self._view.shape)
        seen, (eye, axes) = self._cast(data, depth), self._pose(data)
        model = data.model
        shapes = (model.geom_type, model.geom_size, data.geom_xpos, data.geom_xmat)
        cosines(*shapes, eye, axes, self._view.slopes, depth, seen, squarely)
        return seen, squarely

    def _cast(self, data: Any, depth: NDArray[np.float32]) -> NDArray[np.int32]:
        from safe_envs.hallway.raycast import cast

        view, model, seen = self._view, data.model, np.empty(self._view.shape, np.int32)
        shapes = (model.geom_type, model.geom_size, model.geom_rbound, model.geom_rgba, data.geom_xpos, data.geom_xmat)
        cast(*shapes, *self._pose(data), view.slopes, view.visible, view.far, depth, seen)
        return seen

    def _pose(self, data: Any) -> tuple[FloatArray, FloatArray]:
        return data.cam_xpos[self._view.camera], data.cam_xmat[self._view.camera]


def _rays(view: View, caster: Caster) -> Rays:
    if caster not in get_args(Caster):
        raise ValueError(f"caster must be one of {list(get_args(Caster))}, got {caster!r}")
    problem = None if caster == "mujoco" else _numba_problem()
    if caster == "numba" and problem:
        raise DependencyNotInstalled(f"numba cannot be imported ({problem}): {INSTALL}")
    if caster != "mujoco" and not problem:
        return NumbaRays(view)
    if problem:
        _warn_once(f"numba cannot be imported ({problem}): MuJoCo casts the camera's rays, far slower. {INSTALL}")
    from safe_envs.sim.mujoco_rays import MujocoRays

    return MujocoRays(view)


def _numba_problem() -> str | None:
    """Why numba cannot be used."""
    try:
        import safe_envs.hallway.raycast  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


@cache
def _warn_once(message: str) -> None:
    gym.logger.warn(message)


def _camera_index(model: Any, name: str) -> int:
    names = [model.camera(i).name for i in range(model.ncam)]
    if name not in names:
        raise ValueError(f"the model has no camera {name!r}, only {names}")
    return names.index(name)


def _visible_geoms(model: Any, visible: Sequence[int] | NDArray[np.integer] | None) -> NDArray[np.int64]:
    geoms = np.array(range(model.ngeom) if visible is None else visible, dtype=np.int64).reshape(-1)
    outside = geoms[(geoms < 0) | (geoms >= model.ngeom)]
    if len(outside):
        raise ValueError(f"visible must hold indices of geoms from 0 to {model.ngeom - 1}, got {outside.tolist()}")
    for geom in geoms.tolist():
        if int(model.geom_type[geom]) not in SHAPES:
            raise ValueError(
                f"the camera sees shapes {list(SHAPES.values())} only, but geom {geom} ({model.geom(geom).name!r}) has "
                f"type {int(model.geom_type[geom])} of mujoco.mjtGeom: leave it out of visible, or build it of these"
            )
    return geoms


def _checked(out: NDArray[Any] | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        kind = "contiguous" if out.flags.c_contiguous else "not contiguous"
        raise ValueError(
            f"out must be a contiguous {dtype} array {list(shape)}, got {out.dtype} {list(out.shape)}, {kind}"
        )
    return out
