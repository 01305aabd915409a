"""Reads clips from the files of others: DeepMimic's text, CMU's ``.amc``, dm_control's CMU ``.h5``."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from gymnasium.error import DependencyNotInstalled

from safe_envs.core.geometry import FloatArray
from safe_envs.hallway.clip_preparation import RATE, resample
from safe_envs.hallway.motion import Clip, Skeleton

Recording: TypeAlias = tuple[Skeleton, list[Clip]]

JOINT_WIDTHS = {
    "chest": 4, "neck": 4,
    "right_hip": 4, "right_knee": 1, "right_ankle": 4, "right_shoulder": 4, "right_elbow": 1,
    "left_hip": 4, "left_knee": 1, "left_ankle": 4, "left_shoulder": 4, "left_elbow": 1,
}  # fmt: skip
"""DeepMimic's joints in the order of a frame: a quaternion (w, x, y, z) in the parent's frame, or an angle about z."""
ROW = 1 + 3 + 4 + sum(JOINT_WIDTHS.values())
"""Numbers per frame: seconds, place and quaternion of the root, joints."""
NORMS = (0.5, 1.5)
"""Lengths of quaternions that are taken for rounding: the kick of pybullet has some of 0.58."""
MODELS = {1: "humanoid_CMU_V2019.xml", 4: "humanoid_CMU_V2020.xml"}
"""dm_control's file of each walker model that its recordings name."""
WALKER = "walkers/walker_0"
BODIES = 30
"""Of dm_control's CMU walkers, without the root."""


def read_clips(path: Path) -> Recording:
    """Skeleton and clips of a file, by its suffix (see ``READERS``).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the suffix is unknown, or the file is damaged.
        gymnasium.error.DependencyNotInstalled: if the format needs a package that is missing.
    """
    if path.suffix.lower() not in READERS:
        raise ValueError(f"clips must be in files ending in .npz or one of {sorted(READERS)}, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return READERS[path.suffix.lower()](path)


@contextmanager
def reading(path: Path, form: str) -> Iterator[None]:
    """Turns what a damaged file leads to into a ``ValueError`` that names the file and what it should be."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        OSError,
        EOFError,
        RecursionError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        problem = f"nothing at {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is damaged, or not {form}: {problem}; get the file anew, or leave it out") from error


def read_deepmimic(path: Path, skeleton: Skeleton) -> Clip:
    """A motion file of DeepMimic, y up: ``{"Loop": "wrap" or "none", "Frames": [T rows of 44 numbers]}``.

    A row is seconds to the next frame, root position (3), root quaternion (4) and ``JOINT_WIDTHS``. Where the seconds
    vary, the clip is resampled at 60 Hz.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged.
    """
    with reading(path, "a motion file of DeepMimic"):
        content = json.loads(path.read_text())
        rows = _rows_of(content["Frames"])
        positions, quaternions, dt = _evenly(*_deepmimic_joints(rows, skeleton), rows[:-1, 0])
        return Clip(path.stem, *skeleton.world(positions, quaternions), dt, content["Loop"])


def read_cmu_hdf5(path: Path) -> Recording:
    """A file of dm_control's CMU recordings: per clip places and quaternions of the walker's root and 30 bodies.

    The geoms, which it does not hold, are those of dm_control's walker. Every clip counts as one that does not wrap.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or its clips are of different walkers.
        gymnasium.error.DependencyNotInstalled: if h5py, dm_control or MuJoCo is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise DependencyNotInstalled(f"reading {path} needs h5py: pip install h5py") from error
    with reading(path, "a file of dm_control's CMU clips"), h5py.File(path, "r") as file:
        models = {int(clip[WALKER].attrs["model"]) for clip in file.values()}
        if len(models) != 1 or not models <= set(MODELS):
            raise ValueError(f"its clips must be of one walker among {MODELS}, got models {sorted(models)}")
        clips = [_hdf5_clip(name, clip) for name, clip in file.items()]
    from safe_envs.sim.cmu_clips import walker_skeleton

    return walker_skeleton(MODELS[models.pop()]), clips


def _read_deepmimic(path: Path) -> Recording:
    from safe_envs.hallway.clips import ClipLibrary

    skeleton = ClipLibrary.default().skeleton
    return skeleton, [read_deepmimic(path, skeleton)]


def _read_amc(path: Path) -> Recording:
    from safe_envs.sim.cmu_clips import read_amc

    with reading(path, "an .amc of CMU"):
        return read_amc(path)


READERS: dict[str, Callable[[Path], Recording]] = {
    ".txt": _read_deepmimic,
    ".amc": _read_amc,
    ".h5": read_cmu_hdf5,
    ".hdf5": read_cmu_hdf5,
}
"""Reader of each kind of file, by its suffix."""


def z_up(y_up: FloatArray) -> FloatArray:
    """Vectors or quaternions ``[..., 3 or 4]`` of DeepMimic, turned by 90 degrees about x."""
    *real, x, y, z = np.moveaxis(y_up, -1, 0)
    return np.stack([*real, x, -z, y], axis=-1)


def _rows_of(frames: Any) -> FloatArray:
    if len(frames) < 2:
        raise ValueError(f"it must have at least 2 frames, got {len(frames)}")
    if lengths := {len(row) for row in frames} - {ROW}:
        raise ValueError(f"every frame must have {ROW} numbers, got frames with {sorted(lengths)}")
    rows = np.array(frames, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("every number must be finite, got NaN or infinity")
    if not (rows[:-1, 0] > 0.0).all():
        raise ValueError(f"the seconds of every frame but the last must be > 0, got {rows[:-1, 0].min()}")
    return rows


def _deepmimic_joints(rows: FloatArray, skeleton: Skeleton) -> tuple[FloatArray, FloatArray]:
    """Local positions ``[T, L, 3]`` and quaternions ``[T, L, 4]``."""
    if skeleton.links != ("root", *JOINT_WIDTHS):
        raise ValueError(f"a motion of DeepMimic needs the links {['root', *JOINT_WIDTHS]}, got {skeleton}")
    positions = np.tile(np.array(skeleton.offsets), (len(rows), 1, 1))
    positions[:, 0] = z_up(rows[:, 1:4])
    joints = np.split(rows[:, 8:], np.cumsum(list(JOINT_WIDTHS.values()))[:-1], axis=1)
    turns = [rows[:, 4:8], *(joint if joint.shape[1] == 4 else _about_own_z(joint) for joint in joints)]
    quaternions = z_up(np.stack(turns, axis=1))
    norms = np.linalg.norm(quaternions, axis=-1, keepdims=True)
    if not ((norms > NORMS[0]) & (norms < NORMS[1])).all():
        raise ValueError(f"the length of every quaternion must be in {NORMS}, got {norms.min()} to {norms.max()}")
    return positions, quaternions / norms


def _about_own_z(angles: FloatArray) -> FloatArray:
    return np.concatenate([np.cos(0.5 * angles), np.zeros((len(angles), 2)), np.sin(0.5 * angles)], axis=1)


def _evenly(
    positions: FloatArray, quaternions: FloatArray, seconds: FloatArray
) -> tuple[FloatArray, FloatArray, float]:
    """The same motion with as many seconds between all frames."""
    if np.ptp(seconds) <= 1e-4 * seconds.mean():
        return positions, quaternions, float(seconds.mean())
    times = np.concatenate([[0.0], np.cumsum(seconds)])
    even = np.linspace(0.0, times[-1], 1 + max(1, round(times[-1] * RATE)))
    rows = np.interp(even, times, np.arange(len(times)))
    return *resample(positions, quaternions, rows), float(even[1])


def _hdf5_clip(name: str, clip: Any) -> Clip:
    walker = clip[WALKER]
    bodies = np.array(walker["body_positions"]), np.array(walker["body_quaternions"])
    root = np.array(walker["position"]), np.array(walker["quaternion"])
    if bodies[0].ndim != 2 or len(bodies[0]) != 3 * BODIES or bodies[1].shape != (4 * BODIES, bodies[0].shape[1]):
        shapes = [list(array.shape) for array in bodies]
        raise ValueError(
            f"clip {name!r} must have {BODIES} bodies in [{3 * BODIES}, T] and [{4 * BODIES}, T], got {shapes}"
        )
    positions, quaternions = (
        np.concatenate([first, rest]).T.reshape(first.shape[1], BODIES + 1, -1)
        for first, rest in zip(root, bodies, strict=True)
    )
    return Clip(name, positions, quaternions, float(clip.attrs["dt"]), "none")
