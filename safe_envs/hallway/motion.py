"""``Skeleton`` and ``Clip``: a jointed figure and one recorded motion of it, whatever file they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from safe_envs.core.geometry import FloatArray
from safe_envs.hallway.quaternions import conjugate, multiply, rotate

GeomKind: TypeAlias = Literal["sphere", "capsule", "box"]
Loop: TypeAlias = Literal["wrap", "none"]
Vector: TypeAlias = tuple[float, float, float]
Quaternion: TypeAlias = tuple[float, float, float, float]

IDENTITY: Quaternion = (1.0, 0.0, 0.0, 0.0)
SIZES: dict[str, int] = {"sphere": 1, "capsule": 2, "box": 3}
"""How many half sizes each kind of geom has."""
NORM_TOLERANCE = 0.01
"""How far from 1 the length of a recorded quaternion may be."""
CORNERS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


class Hull(NamedTuple):
    """Balls whose convex hulls are the geoms: one per sphere, two per capsule, one of radius 0 per corner of a box."""

    links: NDArray[np.int64]
    """``[N]``."""
    centres: FloatArray
    """``[N, 3]`` in the frame of the link."""
    radii: FloatArray
    """``[N]``."""


@dataclass(frozen=True)
class Geom:
    """A shape that moves with a link.

    Attributes:
        link: index of the link.
        kind: ``"sphere"``, ``"capsule"`` (along z) or ``"box"``.
        size: MuJoCo's half sizes in metres: (radius,), (radius, half length) or (x, y, z).
        position: of the centre in the frame of the link.
        quaternion: (w, x, y, z) in the frame of the link.

    Raises:
        ValueError: if there is no such kind, or the sizes do not fit it.
    """

    link: int
    kind: GeomKind
    size: tuple[float, ...]
    position: Vector = (0.0, 0.0, 0.0)
    quaternion: Quaternion = IDENTITY

    def __post_init__(self) -> None:
        if self.kind not in get_args(GeomKind):
            raise ValueError(f"the kind of a geom must be one of {get_args(GeomKind)}, got {self.kind!r}")
        if len(self.size) != SIZES[self.kind] or not min(self.size) > 0.0:
            raise ValueError(f"a {self.kind} needs {SIZES[self.kind]} half sizes > 0, got {self.size}")

    @property
    def balls(self) -> tuple[FloatArray, float]:
        """Centres ``[N, 3]`` in the frame of the link, and radius, of the balls that span the shape; see ``Hull``."""
        if self.kind == "sphere":
            offsets, radius = np.zeros((1, 3)), self.size[0]
        elif self.kind == "capsule":
            offsets, radius = np.array([[0.0, 0.0, -self.size[1]], [0.0, 0.0, self.size[1]]]), self.size[0]
        else:
            offsets, radius = CORNERS * self.size, 0.0
        return np.add(self.position, rotate(np.array(self.quaternion), offsets)), radius


@dataclass(frozen=True)
class Skeleton:
    """Links that hang on each other, in metres, z up. Equal where everything is equal.

    Attributes:
        name: for messages.
        links: names of the ``L`` links; the first is the root.
        parents: index of each link's parent, smaller than its own; -1 for the root.
        offsets: origin of each link in the frame of its parent; the root's is where it rests in the world.
        masses: kg.
        geoms: shapes of the links; a link may have none, or several.

    Raises:
        ValueError: if the lengths differ, or a parent or the link of a geom is out of range.
    """

    name: str
    links: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: tuple[Vector, ...]
    masses: tuple[float, ...]
    geoms: tuple[Geom, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.links), len(self.parents), len(self.offsets), len(self.masses)}
        if len(lengths) != 1 or not self.links:
            raise ValueError(f"links, parents, offsets and masses must be equally many, at least one; got {lengths}")
        is_tree = all(0 <= parent < link for link, parent in enumerate(self.parents) if link > 0)
        if self.parents[0] != -1 or not is_tree:
            raise ValueError(f"parents must be -1 for the first link and come before the others, got {self.parents}")
        if not self.geoms or any(not 0 <= geom.link < len(self.links) for geom in self.geoms):
            raise ValueError(f"there must be geoms, of the links 0 to {len(self.links) - 1}, got {self.geoms}")

    @classmethod
    def from_json(cls, text: str) -> Skeleton:
        """What ``to_json`` wrote.

        Raises:
            ValueError: if it is something else.
        """
        try:
            fields: dict[str, Any] = {key: _as_tuples(value) for key, value in json.loads(text).items()}
            fields["geoms"] = tuple(Geom(**{k: _as_tuples(v) for k, v in geom.items()}) for geom in fields["geoms"])
            return cls(**fields)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is no skeleton: {error}") from error

    def to_json(self) -> str:
        """All of it as text, every number exact."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        digest = hashlib.sha256(self.to_json().encode()).hexdigest()[:8]
        return f"{self.name} ({len(self.links)} links, fingerprint {digest})"

    @cached_property
    def hull(self) -> Hull:
        """Balls that span the geoms."""
        balls = [geom.balls for geom in self.geoms]
        links = np.repeat([geom.link for geom in self.geoms], [len(centres) for centres, _ in balls])
        radii = np.concatenate([np.full(len(centres), radius) for centres, radius in balls])
        return Hull(links, np.concatenate([centres for centres, _ in balls]), radii)

    def lowest(self, positions: FloatArray, quaternions: FloatArray) -> FloatArray:
        """Height of the lowest point of all geoms, ``[T]``, for links at ``[T, L, 3]`` and ``[T, L, 4]``."""
        lowest: FloatArray = (self._centres(positions, quaternions)[..., 2] - self.hull.radii).min(axis=-1)
        return lowest

    def reach(self, positions: FloatArray, quaternions: FloatArray) -> FloatArray:
        """Largest distance of any point of any geom from the z axis, ``[T]``, for links as in ``lowest``."""
        distances = np.linalg.norm(self._centres(positions, quaternions)[..., :2], axis=-1)
        reach: FloatArray = (distances + self.hull.radii).max(axis=-1)
        return reach

    def local(self, positions: FloatArray, quaternions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Places and turns of the links in the frames of their parents; the root's stay in the world."""
        local_positions, local_quaternions = np.copy(positions), np.copy(quaternions)
        parents = np.array(self.parents[1:], dtype=np.int64)
        inverse = conjugate(quaternions[..., parents, :])
        local_positions[..., 1:, :] = rotate(inverse, positions[..., 1:, :] - positions[..., parents, :])
        local_quaternions[..., 1:, :] = multiply(inverse, quaternions[..., 1:, :])
        return local_positions, local_quaternions

    def world(self, positions: FloatArray, quaternions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The inverse of ``local``: forward kinematics, ``[T, L, 3]`` and ``[T, L, 4]``."""
        world_positions, world_quaternions = np.copy(positions), np.copy(quaternions)
        for link, parent in list(enumerate(self.parents))[1:]:
            turn = world_quaternions[..., parent, :]
            world_positions[..., link, :] = world_positions[..., parent, :] + rotate(turn, positions[..., link, :])
            world_quaternions[..., link, :] = multiply(turn, quaternions[..., link, :])
        return world_positions, world_quaternions

    def _centres(self, positions: FloatArray, quaternions: FloatArray) -> FloatArray:
        links, centres, _ = self.hull
        return positions[..., links, :] + rotate(quaternions[..., links, :], centres)


@dataclass(frozen=True, eq=False)
class Clip:
    """One recorded motion: where the frame of every link is in the world, parent-free.

    Attributes:
        name: unique among the clips that are used together.
        positions: ``[T, L, 3]`` in metres, z up, ``T >= 2``.
        quaternions: ``[T, L, 4]``, (w, x, y, z).
        dt: seconds from one frame to the next.
        loop: ``"wrap"`` if the last frame leads on to the first (as a walk's cycle, elsewhere on the floor), else
            ``"none"``.

    Raises:
        ValueError: for wrong shapes, fewer than two frames, values that are not finite, quaternions that are not of
            length 1, ``dt <= 0``, or another ``loop``.
    """

    name: str
    positions: FloatArray
    quaternions: FloatArray
    dt: float
    loop: Loop

    def __post_init__(self) -> None:
        frames, links = np.shape(self.positions)[:2] if np.ndim(self.positions) == 3 else (0, 0)
        object.__setattr__(self, "positions", self._checked("positions", self.positions, (frames, links, 3)))
        quaternions = self._checked("quaternions", self.quaternions, (frames, links, 4))
        norms = np.linalg.norm(quaternions, axis=-1, keepdims=True)
        if not (np.abs(norms - 1.0) <= NORM_TOLERANCE).all():
            raise ValueError(f"clip {self.name!r}: quaternions must have length 1, got {norms.min()} to {norms.max()}")
        object.__setattr__(self, "quaternions", quaternions / norms)
        if not (np.isfinite(self.dt) and self.dt > 0.0):
            raise ValueError(f"clip {self.name!r}: dt must be finite and > 0 seconds, got {self.dt}")
        if self.loop not in get_args(Loop):
            raise ValueError(f"clip {self.name!r}: loop must be one of {get_args(Loop)}, got {self.loop!r}")

    def _checked(self, what: str, values: ArrayLike, shape: Sequence[int]) -> FloatArray:
        array = np.array(values, dtype=np.float64)
        if array.shape != tuple(shape) or array.shape[0] < 2:
            expected = f"[T, L, {shape[-1]}] with T >= 2"
            raise ValueError(f"clip {self.name!r}: {what} must have shape {expected}, got {list(array.shape)}")
        if not np.isfinite(array).all():
            raise ValueError(
                f"clip {self.name!r}: {what} must be finite, got {int((~np.isfinite(array)).sum())} others"
            )
        return array


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
