"""Figures and clips that the tests of motion capture share."""

from importlib.util import find_spec

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from safe_envs.hallway.clips import Clip, ClipLibrary, Geom, Skeleton
from safe_envs.hallway.quaternions import about_z

LIBRARY = ClipLibrary.default()
QUARTER = np.array([np.cos(np.pi / 4), 0.0, 0.0, np.sin(np.pi / 4)])  # 90 degrees about z
STICK = Skeleton(
    "stick",
    ("trunk", "arm"),
    (-1, 0),
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.5)),
    (2.0, 1.0),
    (Geom(0, "sphere", (0.1,)), Geom(1, "capsule", (0.05, 0.3), (0.3, 0.0, 0.0), (0.70710678, 0.0, 0.70710678, 0.0))),
)
"""A ball at the root and, half a metre above it, an arm along x from 0 to 0.6 m, with ends rounded by 0.05 m."""

needs_dm_control = pytest.mark.skipif(find_spec("dm_control") is None, reason="needs dm_control")
needs_pybullet = pytest.mark.skipif(find_spec("pybullet") is None, reason="needs pybullet")
every_clip = pytest.mark.parametrize("name", LIBRARY.names)


def rotations(quaternions):
    return Rotation.from_quat(np.roll(quaternions, -1, axis=-1))


def random_quaternions(rng, *shape):
    values = rng.standard_normal((*shape, 4))
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def stick_clip(frames=31, name="sway", speed=0.0, turn=0.0, loop="none", dt=1 / 60):
    """The trunk at 1 m, going ``speed`` m/s along x and turning by ``turn`` over the clip; the arm swings by 1 rad."""
    share = np.linspace(0.0, 1.0, frames)
    trunk = np.stack([speed * share * (frames - 1) * dt, 0 * share, 1 + 0 * share], axis=-1)
    local = np.stack([trunk, np.tile([0.0, 0.0, 0.5], (frames, 1))], axis=1)
    turns = np.stack([about_z(turn * share), about_z(share)], axis=1)
    return Clip(name, *STICK.world(local, turns), dt, loop)


def round_of(library, name):
    """All rows of a clip, the repeated one too."""
    c = library.names.index(name)
    rows = slice(library.first[c], library.first[c] + library.frames[c] + 1)
    return library.positions[rows], library.quaternions[rows]
