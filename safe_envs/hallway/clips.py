"""``ClipLibrary``: motion-capture clips of one skeleton, prepared, in tables that a kernel can read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from safe_envs.core.geometry import FloatArray
from safe_envs.hallway.clip_preparation import PreparedClip, prepare
from safe_envs.hallway.motion import Clip, Geom, Skeleton
from safe_envs.hallway.posing import IntArray, pose_into
from safe_wrappers.files import atomic_path

__all__ = ["Clip", "ClipLibrary", "Geom", "PathLike", "Skeleton"]

PathLike: TypeAlias = str | os.PathLike[str]

DEFAULT_CLIPS = Path(__file__).parent / "assets" / "deepmimic_clips.npz"
SUFFIX = ".npz"
STORED_DIGITS = 6
"""To which the places of links in their parents' frames (m) are rounded in a file; they hardly vary, and pack well."""


@dataclass(frozen=True, eq=False)
class ClipLibrary:
    """Clips of one skeleton, each a closed round in place (see ``clip_preparation.prepare``).

    All tables are read-only and may be shared by any number of environments; a deep copy is the same object. Clip ``c``
    is in the rows ``first[c]`` to ``first[c] + frames[c]``, the last of which is the first pose again, so that every
    frame has a next row. One round takes ``frames[c] * dt[c]`` seconds.

    Attributes:
        skeleton: what moves.
        names: of the ``C`` clips.
        positions: ``[F, L, 3]`` origins of the links in metres, z up, the floor at 0, the clip's centre at (0, 0).
        quaternions: ``[F, L, 4]`` (w, x, y, z) of the links; neighbouring rows are in the same hemisphere.
        first: ``[C]`` first row.
        frames: ``[C]`` frames of a round.
        dt: ``[C]`` seconds per frame, about 1/60.
        swept_radius: ``[C]`` metres; no point of any geom is ever further from the clip's centre in the plane.

    Raises:
        ValueError: if there are no clips, two of the same name, or tables that do not fit together.
    """

    skeleton: Skeleton
    names: tuple[str, ...]
    positions: FloatArray
    quaternions: FloatArray
    first: IntArray
    frames: IntArray
    dt: FloatArray
    swept_radius: FloatArray

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a library of clips needs at least one clip, got none")
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(f"the names of clips must differ, got several of {twice}: rename the files")
        for name, shape in self._shapes().items():
            self._freeze(name, shape)
        starts = np.concatenate([[0], np.cumsum(self.frames + 1)])
        if not ((self.frames >= 1).all() and (self.first == starts[:-1]).all() and starts[-1] == len(self.positions)):
            raise ValueError("clips must lie one after the other in the tables, each with one row more than its frames")
        if not ((self.dt > 0.0).all() and (np.linalg.norm(self.quaternions, axis=-1) > 0.0).all()):
            raise ValueError("dt must be > 0 seconds, and no quaternion zero")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"ClipLibrary({len(self)} clips, {self.durations.sum():.1f} s, of {self.skeleton})"

    def __deepcopy__(self, memo: dict[int, Any]) -> ClipLibrary:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self is _default():  # 2 MB that every process has anyway
            return _default, ()
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @classmethod
    def from_clips(cls, skeleton: Skeleton, clips: Iterable[Clip]) -> ClipLibrary:
        """Prepare clips and pack them.

        Raises:
            ValueError: if there are none, two of the same name, or one with another number of links.
        """
        return cls._packed(skeleton, [prepare(skeleton, clip) for clip in clips])

    @classmethod
    def default(cls) -> ClipLibrary:
        """The shipped clips: 20 of DeepMimic, a stand-in for CMU's; read once per process."""
        return _default()

    @classmethod
    def load(cls, path: PathLike | Sequence[PathLike]) -> ClipLibrary:
        """Clips from a file, all files in a folder, or several files; all of one skeleton.

        Args:
            path: an ``.npz`` of ``save``, a DeepMimic ``.txt``, a CMU ``.amc``, a dm_control CMU ``.h5`` or ``.hdf5``;
                or a folder, or a sequence, of those. ``.npz`` and ``.h5`` hold the clips' names; others are named
                after their files.

        Raises:
            FileNotFoundError: if there is no such file or folder.
            ValueError: for other suffixes, damaged files, files of different skeletons, clips of the same name.
            gymnasium.error.DependencyNotInstalled: if a format needs a package that is missing.
        """
        from safe_envs.hallway.clip_readers import READERS, read_clips

        paths = [path] if isinstance(path, str | os.PathLike) else list(path)
        files = [file for one in paths for file in _files_at(Path(one), (*READERS, SUFFIX))]
        libraries = [
            _read_library(file) if file.suffix.lower() == SUFFIX else cls.from_clips(*read_clips(file))
            for file in files
        ]
        if not libraries:
            raise ValueError("a library of clips needs at least one file, got none")
        for file, library in zip(files, libraries, strict=True):
            if library.skeleton != libraries[0].skeleton:
                raise ValueError(
                    f"the clips {list(library.names[:3])} of {file} are of the skeleton {library.skeleton}, those of "
                    f"{files[0]} of {libraries[0].skeleton}: load each skeleton's files into a library of its own"
                )
        return cls._packed(libraries[0].skeleton, [clip for library in libraries for clip in library._clips()])

    def save(self, path: PathLike) -> Path:
        """Write the library to a compressed ``.npz`` that ``load`` reads; an existing file is replaced.

        Poses are rounded to about 0.2 mm.

        Raises:
            ValueError: if the name does not end in ``.npz``.
        """
        target = Path(path)
        if target.suffix != SUFFIX:
            raise ValueError(f"the name of a library's file must end in {SUFFIX}, got {target}")
        tables: dict[str, Any] = {name: getattr(self, name) for name in self._shapes()}
        positions, quaternions = self.skeleton.local(self.positions, self.quaternions)
        tables["positions"] = positions.round(STORED_DIGITS).astype(np.float32)
        tables["quaternions"] = quaternions.astype(np.float16)
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, skeleton=self.skeleton.to_json(), names=np.array(self.names), **tables)
        return target

    def subset(self, names: Sequence[str]) -> ClipLibrary:
        """A library of some of the clips, in the given order.

        Raises:
            ValueError: if one is not there, or named twice.
        """
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(f"clips must be among {list(self.names)}, got {unknown}")
        clips = dict(zip(self.names, self._clips(), strict=True))
        return self._packed(self.skeleton, [clips[name] for name in names])

    @property
    def durations(self) -> FloatArray:
        """Seconds of one round of each clip, ``[C]``."""
        return self.frames * self.dt

    def pose(self, clips: ArrayLike, times: ArrayLike, places: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Where the links of ``M`` humanoids are, each with its clip, its time and its place.

        Where speed matters, call ``posing.pose_into`` with the tables and arrays of your own.

        Args:
            clips: ``[M]`` indices into ``names``.
            times: ``[M]`` seconds, any number; rounds follow each other for ever.
            places: ``[M, 3]`` x, y in metres and yaw in radians of the clip's centre.

        Returns:
            Positions ``[M, L, 3]`` and quaternions ``[M, L, 4]``, new arrays.

        Raises:
            ValueError: for shapes that do not fit, numbers that are not finite, or an index out of range.
        """
        which, when = np.atleast_1d(np.asarray(clips)), np.array(times, dtype=np.float64, ndmin=1)
        where = np.array(places, dtype=np.float64, ndmin=2)
        m = len(which)
        if which.shape != (m,) or when.shape != (m,) or where.shape != (m, 3):
            shapes = [list(array.shape) for array in (which, when, where)]
            raise ValueError(f"clips, times and places must have shapes [M], [M] and [M, 3], got {shapes}")
        if not (np.isin(which, np.arange(len(self))).all() and np.isfinite(when).all() and np.isfinite(where).all()):
            raise ValueError(f"clips must be indices from 0 to {len(self) - 1}, times and places finite")
        links = len(self.skeleton.links)
        positions, quaternions = np.empty((m, links, 3)), np.empty((m, links, 4))
        tables = (self.positions, self.quaternions, self.first, self.frames, self.dt)
        pose_into(*tables, which.astype(np.int64), when, where, positions, quaternions)
        return positions, quaternions

    @classmethod
    def _packed(cls, skeleton: Skeleton, clips: Sequence[PreparedClip]) -> ClipLibrary:
        if not clips:
            raise ValueError("a library of clips needs at least one clip, got none")
        rows = np.array([len(clip.positions) for clip in clips])
        return cls(
            skeleton,
            tuple(clip.name for clip in clips),
            np.concatenate([clip.positions for clip in clips]),
            np.concatenate([clip.quaternions for clip in clips]),
            np.cumsum(rows) - rows,
            rows - 1,
            np.array([clip.dt for clip in clips]),
            np.array([clip.swept_radius for clip in clips]),
        )

    def _clips(self) -> list[PreparedClip]:
        return [
            PreparedClip(name, self.positions[a:b], self.quaternions[a:b], float(dt), float(radius))
            for name, a, b, dt, radius in zip(
                self.names, self.first, self.first + self.frames + 1, self.dt, self.swept_radius, strict=True
            )
        ]

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays and the shapes that they must have."""
        rows, links, clips = len(self.positions), len(self.skeleton.links), len(self.names)
        per_clip = dict.fromkeys(("first", "frames", "dt", "swept_radius"), (clips,))
        return {"positions": (rows, links, 3), "quaternions": (rows, links, 4), **per_clip}

    def _freeze(self, name: str, shape: tuple[int, ...]) -> None:
        dtype: DTypeLike = np.int64 if name in ("first", "frames") else np.float64
        array: NDArray[Any] = np.ascontiguousarray(getattr(self, name), dtype=dtype)
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite, of shape {list(shape)}, got shape {list(array.shape)}")
        array.flags.writeable = False
        object.__setattr__(self, name, array)


@cache
def _default() -> ClipLibrary:
    return ClipLibrary.load(DEFAULT_CLIPS)


def _files_at(path: Path, suffixes: Sequence[str]) -> list[Path]:
    if not path.is_dir():
        return [path]
    if files := sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes):
        return files
    raise ValueError(f"the folder {path} holds no clips, files ending in one of {sorted(suffixes)}")


def _read_library(path: Path) -> ClipLibrary:
    from safe_envs.hallway.clip_readers import reading

    with reading(path, "a library of clips"), np.load(path, allow_pickle=False) as file:
        arrays = {field.name: file[field.name] for field in fields(ClipLibrary)}
        skeleton, names = Skeleton.from_json(str(arrays.pop("skeleton"))), tuple(arrays.pop("names").tolist())
        local = Clip(path.stem, arrays["positions"], arrays["quaternions"], 1.0, "none")
        arrays["positions"], arrays["quaternions"] = skeleton.world(local.positions, local.quaternions)
        return ClipLibrary(skeleton, names, **arrays)
