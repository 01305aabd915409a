"""CMU's humanoid as dm_control has it: its skeletons, and ``.amc`` files read with dm_control's parser."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled

from safe_envs.core.geometry import FloatArray
from safe_envs.hallway.motion import Clip, Geom, Skeleton

try:
    import mujoco
except ImportError as error:
    raise DependencyNotInstalled('clips of CMU need MuJoCo: pip install "sb3-safe[mujoco]"') from error

INSTALL = "clips of CMU need dm_control's humanoid: pip install dm_control"
AMC_MODEL = Path("suite", "humanoid_CMU.xml")
WALKER_MODELS = Path("locomotion", "walkers", "assets")
DIGITS = 6
"""To which lengths (m), masses (kg) and quaternions are rounded, so that equal skeletons compare as equal."""


def walker_skeleton(file: str) -> Skeleton:
    """Skeleton of one of dm_control's CMU walkers, e.g. ``"humanoid_CMU_V2020.xml"``.

    Raises:
        gymnasium.error.DependencyNotInstalled: if dm_control is missing.
    """
    return _skeleton(Path(file).stem, _model(WALKER_MODELS / file))


def read_amc(path: Path) -> tuple[Skeleton, list[Clip]]:
    """A recording of CMU: the angles of its skeleton's joints at 120 Hz, played by dm_control's ``humanoid_CMU``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the bones or the numbers of a frame are not those of CMU.
        gymnasium.error.DependencyNotInstalled: if dm_control is missing.
    """
    model = _model(AMC_MODEL)
    parser = _parser()
    _check_bones(path, parser._CMU_MOCAP_JOINT_ORDER)
    rows = parser.parse(str(path))
    width = len(parser._CMU_MOCAP_JOINT_ORDER)
    if wrong := [f"{row.size} in frame {frame}" for frame, row in enumerate(rows, 1) if row.size != width]:
        raise ValueError(f"every frame must have {width} numbers, got {wrong[0]}")
    if not (rows and np.isfinite(rows).all()):
        raise ValueError(f"there must be frames of finite numbers, got {len(rows)} frames")
    to_joints = parser.Amcvals2qpos(_joint_names(model), parser._CMU_MOCAP_JOINT_ORDER)
    positions, quaternions = _kinematics(model, [to_joints(row) for row in rows])
    return _skeleton(AMC_MODEL.stem, model), [Clip(path.stem, positions, quaternions, parser.MOCAP_DT, "none")]


@cache
def _model(file: Path) -> Any:
    # Found without an import, for dm_control opens OpenGL where it can.
    package = find_spec("dm_control")
    if package is None or not package.submodule_search_locations:
        raise DependencyNotInstalled(INSTALL)
    return mujoco.MjModel.from_xml_path(str(Path(package.submodule_search_locations[0]) / file))


def _parser() -> Any:
    try:
        return import_module("dm_control.suite.utils.parse_amc")
    except ImportError as error:
        raise DependencyNotInstalled(INSTALL) from error


def _check_bones(path: Path, joints: tuple[str, ...]) -> None:
    """dm_control's parser goes by the order of the numbers alone, so the names are looked at here."""
    expected = list(dict.fromkeys(re.sub(r"(r[xyz]|\d)$", "", joint) for joint in joints))
    first_frame = re.search(r"^1\s*\n(.*?)(^2\s*$|\Z)", path.read_text(), re.MULTILINE | re.DOTALL)
    bones = [line.split()[0] for line in first_frame[1].splitlines() if line.strip()] if first_frame else []
    if bones != expected:
        raise ValueError(f"its first frame must have CMU's bones {expected}, in this order, got {bones}")


def _joint_names(model: Any) -> list[str]:
    """Name of the joint that each joint position belongs to, ``nq`` of them."""
    starts = [*model.jnt_qposadr.tolist(), model.nq]
    return [model.joint(j).name for j in range(model.njnt) for _ in range(starts[j + 1] - starts[j])]


def _kinematics(model: Any, joint_positions: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Positions ``[T, L, 3]`` and quaternions ``[T, L, 4]`` of all bodies but the world."""
    data = mujoco.MjData(model)
    poses = []
    for row in joint_positions:
        data.qpos[:] = row
        mujoco.mj_kinematics(model, data)
        poses.append((data.xpos[1:].copy(), data.xquat[1:].copy()))
    positions, quaternions = zip(*poses, strict=True)
    return np.array(positions), np.array(quaternions)


def _skeleton(name: str, model: Any) -> Skeleton:
    """All bodies of a model but the world, with the geoms that collide."""
    bodies = range(1, model.nbody)
    geoms = [
        g for g in range(model.ngeom) if model.geom_bodyid[g] > 0 and model.geom_contype[g] | model.geom_conaffinity[g]
    ]
    return Skeleton(
        name,
        tuple(model.body(b).name for b in bodies),
        tuple(int(model.body_parentid[b]) - 1 for b in bodies),
        tuple(_rounded(model.body_pos[b]) for b in bodies),
        _rounded(model.body_mass[1:]),
        tuple(_geom(model, g) for g in geoms),
    )


def _geom(model: Any, geom: int) -> Geom:
    kind, size = mujoco.mjtGeom(model.geom_type[geom]), model.geom_size[geom]
    link, place = int(model.geom_bodyid[geom]) - 1, _rounded(model.geom_pos[geom])
    turn = _rounded(model.geom_quat[geom])
    if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:  # the hands: a ball of the same volume
        return Geom(link, "sphere", _rounded([np.prod(size) ** (1 / 3)]), place)
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return Geom(link, "sphere", _rounded(size[:1]), place)
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return Geom(link, "capsule", _rounded(size[:2]), place, turn)
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return Geom(link, "box", _rounded(size), place, turn)
    raise ValueError(
        f"geoms must be spheres, capsules, boxes or ellipsoids, got {kind.name} at {model.geom(geom).name!r}"
    )


def _rounded(values: Any) -> Any:
    return tuple(round(float(value), DIGITS) for value in values)
