"""Where the links of placed humanoids are: two neighbouring rows of the clip tables, blended, turned and moved.

``pose_into`` is the function to call: a loop compiled by numba where numba is installed, else ``pose_vectorised``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, sin, sqrt
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from safe_envs.core.geometry import FloatArray

IntArray: TypeAlias = NDArray[np.int64]
PoseFunction: TypeAlias = Callable[..., None]


def pose_loop(
    table_positions: FloatArray,
    table_quaternions: FloatArray,
    first: IntArray,
    frames: IntArray,
    dt: FloatArray,
    clips: IntArray,
    times: FloatArray,
    places: FloatArray,
    positions: FloatArray,
    quaternions: FloatArray,
) -> None:
    """Write the poses of ``M`` humanoids, one number at a time; for numba, also from within other kernels.

    Between two rows positions are blended linearly and quaternions linearly with normalisation. Times go on for
    ever: each clip is played in a circle. Nothing is checked; ``ClipLibrary.pose`` does that.

    Args:
        table_positions: ``[F, L, 3]`` in metres, see ``ClipLibrary``.
        table_quaternions: ``[F, L, 4]``, neighbouring rows in the same hemisphere.
        first: ``[C]`` first row of each clip.
        frames: ``[C]`` frames of one round; row ``first + frames`` repeats the first one.
        dt: ``[C]`` seconds per frame.
        clips: ``[M]`` index of the clip of each humanoid.
        times: ``[M]`` seconds into the clip, any number.
        places: ``[M, 3]``, x, y in metres and yaw in radians of the clip's centre.
        positions: ``[M, L, 3]``, written.
        quaternions: ``[M, L, 4]``, written.
    """
    for m in range(len(clips)):
        clip = clips[m]
        phase = (times[m] / dt[clip]) % frames[clip]
        frame = min(int(phase), frames[clip] - 1)  # rounding can make the remainder as large as the divisor
        row, late = first[clip] + frame, phase - frame
        early = 1.0 - late
        yaw = places[m, 2]
        c, s, half_c, half_s = cos(yaw), sin(yaw), cos(0.5 * yaw), sin(0.5 * yaw)
        for k in range(table_positions.shape[1]):
            # Spelled out, for a small array per link would cost numba more than all of this.
            x = early * table_positions[row, k, 0] + late * table_positions[row + 1, k, 0]
            y = early * table_positions[row, k, 1] + late * table_positions[row + 1, k, 1]
            positions[m, k, 0] = places[m, 0] + c * x - s * y
            positions[m, k, 1] = places[m, 1] + s * x + c * y
            positions[m, k, 2] = early * table_positions[row, k, 2] + late * table_positions[row + 1, k, 2]
            q0 = early * table_quaternions[row, k, 0] + late * table_quaternions[row + 1, k, 0]
            q1 = early * table_quaternions[row, k, 1] + late * table_quaternions[row + 1, k, 1]
            q2 = early * table_quaternions[row, k, 2] + late * table_quaternions[row + 1, k, 2]
            q3 = early * table_quaternions[row, k, 3] + late * table_quaternions[row + 1, k, 3]
            scale = 1.0 / sqrt(q0 * q0 + q1 * q1 + q2 * q2 + q3 * q3)
            quaternions[m, k, 0] = scale * (half_c * q0 - half_s * q3)
            quaternions[m, k, 1] = scale * (half_c * q1 - half_s * q2)
            quaternions[m, k, 2] = scale * (half_c * q2 + half_s * q1)
            quaternions[m, k, 3] = scale * (half_c * q3 + half_s * q0)


def pose_vectorised(
    table_positions: FloatArray,
    table_quaternions: FloatArray,
    first: IntArray,
    frames: IntArray,
    dt: FloatArray,
    clips: IntArray,
    times: FloatArray,
    places: FloatArray,
    positions: FloatArray,
    quaternions: FloatArray,
) -> None:
    """``pose_loop`` in NumPy, for all humanoids and links at once."""
    phase = (times / dt[clips]) % frames[clips]
    frame = np.minimum(phase.astype(np.int64), frames[clips] - 1)
    row, late = first[clips] + frame, (phase - frame)[:, None, None]
    xyz = (1.0 - late) * table_positions[row] + late * table_positions[row + 1]
    q = (1.0 - late) * table_quaternions[row] + late * table_quaternions[row + 1]
    yaw = places[:, 2, None]
    c, s = np.cos(yaw), np.sin(yaw)
    positions[..., 0] = places[:, 0, None] + c * xyz[..., 0] - s * xyz[..., 1]
    positions[..., 1] = places[:, 1, None] + s * xyz[..., 0] + c * xyz[..., 1]
    positions[..., 2] = xyz[..., 2]
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    c, s = np.cos(0.5 * yaw), np.sin(0.5 * yaw)
    quaternions[..., 0] = c * q[..., 0] - s * q[..., 3]
    quaternions[..., 1] = c * q[..., 1] - s * q[..., 2]
    quaternions[..., 2] = c * q[..., 2] + s * q[..., 1]
    quaternions[..., 3] = c * q[..., 3] + s * q[..., 0]


def _fastest() -> PoseFunction:
    try:
        import numba
    except ImportError:
        return pose_vectorised
    jit: Any = numba.njit(cache=True, nogil=True)
    return cast(PoseFunction, jit(pose_loop))


pose_into = _fastest()
"""Arguments as for ``pose_loop``: 3 us for 12 humanoids of 15 links where numba is installed, 100 us where not."""
