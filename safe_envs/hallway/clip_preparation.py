"""Makes recorded clips playable for ever, in place: resampled, without a seam, on the floor, centred."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from safe_envs.core.geometry import FloatArray
from safe_envs.hallway.motion import Clip, Skeleton
from safe_envs.hallway.quaternions import about_z, conjugate, heading, multiply, power, slerp

RATE = 60.0
"""Frames per second, but for what makes a round a whole number of frames."""
FADE_SECONDS = 0.25
"""Before and after the seam, in which the two ends of a clip that wraps are drawn to each other."""
FLOOR_SECONDS = 0.3
"""Within which of a frame something must touch the floor; longer flights are drawn down."""
OFFSET_TOLERANCE = 0.1
"""Metres by which the joints of people differ who are recorded with one skeleton."""


class PreparedClip(NamedTuple):
    """One round of a clip and its first frame again, which closes the circle: ``n + 1`` rows.

    Quaternions of neighbouring rows are in the same hemisphere; the last row's may be the negative of the first's.
    """

    name: str
    positions: FloatArray
    """``[n + 1, L, 3]`` in metres; the mean x and y over the first ``n`` rows and all links are 0."""
    quaternions: FloatArray
    """``[n + 1, L, 4]``."""
    dt: float
    """Seconds per frame."""
    swept_radius: float
    """Largest distance of any point of any geom from the z axis, in metres."""


def prepare(skeleton: Skeleton, clip: Clip) -> PreparedClip:
    """A clip as ``ClipLibrary`` holds it.

    It is resampled to about 60 Hz (joints with slerp). A clip that wraps loses what its root moves and turns about the
    vertical from one round to the next, evenly over the round; what then still differs between its ends is faded out
    over 0.25 s before and after the seam. Any other clip is played forwards and backwards. At last the figure is put on
    the floor (``floor_heights``) and its mean place over the round becomes the origin; its heading stays.

    Raises:
        ValueError: if the clip is of another skeleton: another number of links, or origins that in their parents'
            frames are on average over 0.1 m from where the skeleton has them.
    """
    positions, quaternions, dt = _resampled(*_local(skeleton, clip), clip.dt)
    if clip.loop == "wrap":
        positions, quaternions = _closed(positions, quaternions)
    else:
        positions, quaternions = (np.concatenate([rows, rows[-2::-1]]) for rows in (positions, quaternions))
    positions, quaternions = skeleton.world(positions, quaternions)
    quaternions = _one_hemisphere(quaternions)
    floor = floor_heights(skeleton.lowest(positions, quaternions)[:-1], round(FLOOR_SECONDS / dt))
    positions[..., 2] -= np.append(floor, floor[0])[:, None]
    positions[..., :2] -= positions[:-1, :, :2].mean(axis=(0, 1))
    return PreparedClip(clip.name, positions, quaternions, dt, float(skeleton.reach(positions, quaternions).max()))


def floor_heights(lowest: FloatArray, width: int) -> FloatArray:
    """Where the floor of a periodic motion is in each of its frames, ``[n]``: under the lowest point, and smooth.

    The lowest value within ``width`` frames, averaged over as many: every value that enters the average is at most
    ``lowest[k]``, so nothing is below this floor, and what touches it every ``width`` frames stays within reach of it.

    Args:
        lowest: ``[n]`` height of the lowest point in each frame of the round.
        width: frames to both sides, >= 0.
    """
    minima = _windows(lowest, width).min(axis=-1)
    floor: FloatArray = _windows(minima, width).mean(axis=-1)
    return floor


def resample(positions: FloatArray, quaternions: FloatArray, frames: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A motion ``[T, L, 3]`` and ``[T, L, 4]`` at fractional frames ``[N]`` from 0 to T - 1: linear, and slerp."""
    row = np.minimum(frames.astype(np.int64), len(positions) - 2)
    late = frames - row
    linear = positions[row] + late[:, None, None] * (positions[row + 1] - positions[row])
    return linear, slerp(quaternions[row], quaternions[row + 1], late[:, None])


def _local(skeleton: Skeleton, clip: Clip) -> tuple[FloatArray, FloatArray]:
    """The clip in local frames; see ``Skeleton.local``."""
    found = f"{clip.positions.shape[1]} links"
    if clip.positions.shape[1] == len(skeleton.links):
        positions, quaternions = skeleton.local(clip.positions, clip.quaternions)
        misfits = np.linalg.norm(positions.mean(axis=0) - skeleton.offsets, axis=-1)
        misfits[0] = 0.0
        if misfits.max() <= OFFSET_TOLERANCE:
            return positions, quaternions
        worst = int(misfits.argmax())
        found = f"its {skeleton.links[worst]} {misfits[worst]:.2f} m away from the skeleton's"
    raise ValueError(
        f"clip {clip.name!r} is of another skeleton than {skeleton}: it has {found}; make a library for each skeleton"
    )


def _resampled(positions: FloatArray, quaternions: FloatArray, dt: float) -> tuple[FloatArray, FloatArray, float]:
    last = len(positions) - 1
    n = max(2, round(last * dt * RATE))
    return *resample(positions, quaternions, np.linspace(0.0, last, n + 1)), last * dt / n


def _closed(positions: FloatArray, quaternions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A motion in local frames whose last row is brought to its first: ``[n + 1, L, 3]`` and ``[n + 1, L, 4]``."""
    positions, quaternions = positions.copy(), quaternions.copy()
    n = len(positions) - 1
    progress = np.arange(n + 1) / n
    drift = (positions[-1, 0] - positions[0, 0]) * (1.0, 1.0, 0.0)
    positions[:, 0] -= progress[:, None] * drift
    turn = heading(multiply(quaternions[-1, 0], conjugate(quaternions[0, 0])))
    quaternions[:, 0] = multiply(about_z(-turn * progress), quaternions[:, 0])
    fade = _fade(n, round(FADE_SECONDS * RATE))
    positions += fade[:, None, None] * (positions[0] - positions[-1])
    missing = multiply(conjugate(quaternions[-1]), quaternions[0])
    return positions, multiply(quaternions, power(missing, fade[:, None]))


def _fade(n: int, width: int) -> FloatArray:
    """Share of the difference between both ends that is added, ``[n + 1]``: to -1/2 at the start, from 1/2 at the end.

    The jump of 1 between the ends is what the difference makes up for; the slopes at both ends are the same.
    """
    width = min(width, n // 2)
    k = np.arange(n + 1)
    rise, fall = np.maximum(0.0, 1.0 - (n - k) / width), np.maximum(0.0, 1.0 - k / width)
    return 0.5 * (rise**2 - fall**2)


def _windows(values: FloatArray, width: int) -> FloatArray:
    """What lies within ``width`` frames of each of a periodic sequence, ``[n, 2 width + 1]``."""
    frames = np.arange(len(values))[:, None] + np.arange(-width, width + 1)
    return values[frames % len(values)]


def _one_hemisphere(quaternions: FloatArray) -> FloatArray:
    """Signs such that neighbouring rows ``[T, L, 4]`` are closer to each other than to each other's negatives."""
    dots = (quaternions[1:] * quaternions[:-1]).sum(axis=-1)
    signs = np.cumprod(np.where(dots < 0.0, -1.0, 1.0), axis=0)
    return quaternions * np.concatenate([np.ones_like(signs[:1]), signs])[..., None]
