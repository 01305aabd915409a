"""Two scripted drivers of Point: what a hall costs who does not look, and who sees the whole layout.

Sizes and places of ``Hall`` were chosen with them, before any training; the careful one has learned to plan since.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from safe_envs.core.geometry import FloatArray

if TYPE_CHECKING:
    from safe_envs.hallway.env import HallwayEnv

CRUISE = 1.35
"""Speed in m/s at which the careful driver runs; Point reaches 1.5."""
KEEP_AWAY, COMFORTABLE = 0.08, 0.3
"""Free space in m that it leaves beside it, and room in m for its middle that it wants in a gap."""
DETOUR = 10.0
"""Metres to the side that it goes for each metre of that room."""
NEAREST_AIM, FARTHEST_AIM = 0.2, 1.0
"""How far ahead in m it aims, at least and at most."""
STOPPING, DRIFT = 0.5, 0.25
"""Seconds that it goes on along the hall and across it whatever it does now."""
ACCELERATION_GAIN, TURN_GAIN = 1.0, 3.0

Span = tuple[float, float]


def straight_ahead(env: HallwayEnv) -> NDArray[np.float32]:
    """Action ``[2]`` that runs along the hall at full power and looks at nothing."""
    return np.array([1.0, np.clip(-TURN_GAIN * env.heading, -1.0, 1.0)], np.float32)


def careful(env: HallwayEnv) -> NDArray[np.float32]:
    """Action ``[2]`` that steers through the next gap of its way, and brakes before what is in the way."""
    (x, y), velocity = env.position, env.velocity
    front, (low, high) = _next_gap(env)
    drifted, inside = y + DRIFT * float(velocity[1]), min(KEEP_AWAY, (high - low) / 2)
    missing = max(low - y, y - high, 0.0)
    blocked = missing > 0.0 and front - x < STOPPING * float(velocity[0])
    ahead = -NEAREST_AIM if blocked else min(max(front - x, NEAREST_AIM), FARTHEST_AIM)
    aim = np.array([ahead, min(max(drifted, low + inside), high - inside) - drifted])
    return _towards(env, CRUISE * aim / float(np.hypot(*aim)))


def _next_gap(env: HallwayEnv) -> tuple[float, Span]:
    """Where along the hall the next obstacle begins, and the range of y in which the robot's middle passes it."""
    radius, half_width = env.robot.radius + KEEP_AWAY, env.hall.width / 2
    free: Span = (-half_width + radius, half_width - radius)
    lowest, highest = env.obstacles.bounds(env.data)
    starts, ends = lowest[:, 0] - radius, highest[:, 0] + radius
    x, y = env.position
    ahead = np.flatnonzero(ends > x)
    if not len(ahead):
        return math.inf, free
    ahead = ahead[np.argsort(starts[ahead])]
    gaps = []
    for first in ahead:
        beside = ahead[(starts[ahead] <= max(starts[first], x) + radius) & (ends[ahead] >= starts[first])]
        blocked = zip((lowest[beside, 1] - radius).tolist(), (highest[beside, 1] + radius).tolist(), strict=True)
        gaps.append(_free_spans(free, sorted(blocked)))
    return float(starts[ahead[0]]), _straightest(y, gaps)


def _straightest(y: float, gaps: list[list[Span]]) -> Span:
    """The first gap of the way through one of each list that goes least far to the sides, and through wide ones."""
    ways: dict[float, tuple[float, Span]] = {y: (0.0, (y, y))}  # by where they have come: how far aside, first gap
    for i, spans in enumerate(gaps):
        before, ways = ways, {}
        for (at, (aside, first)), span in itertools.product(before.items(), spans):
            there = min(max(at, span[0]), span[1])
            tight = max(COMFORTABLE - (span[1] - span[0]), 0.0)
            way = aside + abs(there - at) + DETOUR * tight, first if i else span
            ways[there] = min(ways.get(there, way), way)
    return min(ways.values())[1]


def _free_spans(free: Span, blocked: list[Span]) -> list[Span]:
    """What blocked spans, sorted by where they begin, leave of a span."""
    spans, low = [], free[0]
    for begin, end in blocked:
        if begin > low:
            spans.append((low, min(begin, free[1])))
        low = max(low, end)
    if low < free[1]:
        spans.append((low, free[1]))
    return spans or [free]


def _towards(env: HallwayEnv, velocity: FloatArray) -> NDArray[np.float32]:
    """Push and turn that bring Point to a velocity ``[2]`` in m/s; it drifts, so it is pushed against its error."""
    wanted = velocity + ACCELERATION_GAIN * (velocity - env.velocity)
    error = math.remainder(math.atan2(wanted[1], wanted[0]) - env.heading, 2.0 * math.pi)
    push = float(np.hypot(*wanted)) / CRUISE * math.cos(error)
    return np.clip([push, TURN_GAIN * error], -1.0, 1.0).astype(np.float32)
