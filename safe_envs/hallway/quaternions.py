"""Unit quaternions (w, x, y, z) as arrays ``[..., 4]``; leading axes broadcast."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from safe_envs.core.geometry import FloatArray

SMALL_ANGLE = 1e-9
"""Sine below which a rotation's axis is not to be told."""


def multiply(left: FloatArray, right: FloatArray) -> FloatArray:
    """The rotation ``right``, then ``left``."""
    a, b = left[..., :1], right[..., :1]
    u, v = left[..., 1:], right[..., 1:]
    real = a * b - (u * v).sum(axis=-1, keepdims=True)
    return np.concatenate([real, a * v + b * u + np.cross(u, v)], axis=-1)


def conjugate(quaternions: FloatArray) -> FloatArray:
    """The inverse rotations."""
    return quaternions * np.array([1.0, -1.0, -1.0, -1.0])


def rotate(quaternions: FloatArray, vectors: FloatArray) -> FloatArray:
    """The vectors ``[..., 3]``, turned."""
    u = quaternions[..., 1:]
    twice = 2.0 * np.cross(u, vectors)
    turned: FloatArray = vectors + quaternions[..., :1] * twice + np.cross(u, twice)
    return turned


def power(quaternions: FloatArray, exponents: ArrayLike) -> FloatArray:
    """The same axes with the angles (at most 180 degrees) scaled by exponents ``[...]``."""
    q = np.where(quaternions[..., :1] < 0.0, -quaternions, quaternions)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = np.asarray(exponents, dtype=np.float64)[..., None] * np.arctan2(sine, q[..., :1])
    scale = np.sin(angle) / np.maximum(sine, SMALL_ANGLE)
    return np.concatenate([np.cos(angle), scale * q[..., 1:]], axis=-1)


def slerp(start: FloatArray, end: FloatArray, fractions: ArrayLike) -> FloatArray:
    """Along the shortest way from ``start`` (fraction 0) to ``end`` (1) at constant speed."""
    return multiply(start, power(multiply(conjugate(start), end), fractions))


def about_z(angles: ArrayLike) -> FloatArray:
    """Rotations about the vertical by angles ``[...]`` in radians."""
    half = 0.5 * np.asarray(angles, dtype=np.float64)
    zero = np.zeros_like(half)
    return np.stack([np.cos(half), zero, zero, np.sin(half)], axis=-1)


def heading(quaternions: FloatArray) -> FloatArray:
    """Angle in (-pi, pi] of the part of each rotation that turns about the vertical."""
    angle = 2.0 * np.arctan2(quaternions[..., 3], quaternions[..., 0])
    wrapped: FloatArray = angle - 2.0 * np.pi * np.ceil((angle - np.pi) / (2.0 * np.pi))
    return wrapped
