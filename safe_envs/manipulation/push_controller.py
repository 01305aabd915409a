"""A scripted controller of the push: works untrained, and knows nothing of the obstacle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from safe_envs.core.geometry import FloatArray

ACTION_SCALE = 0.05
"""Metres of displacement for an action of 1."""
BASE_XY = np.array([-0.6, 0.0])


@dataclass(frozen=True)
class PushController:
    """Goes behind the cube, as seen from the target, lowers the gripper, and pushes the cube straight to the target.

    A baseline to be corrected: it never looks at the obstacle. It has no memory, so it can be asked at any state, and
    takes what ``safe/PandaPush-v0`` and ``safe/PandaPushGoal-v0`` observe, one observation or a batch. A cube that
    slips away sideways is approached anew.

    Attributes:
        push_height: of the gripper while it pushes, in m.
        travel_height: of the gripper on its way to the cube, in m.
        standoff: distance of the point behind the cube from its centre, in m.
        contact: distance behind the cube's centre from which the gripper may push, in m.
        corridor: how far beside the line through cube and target it may push, in m. Wider is worse: the cube sticks
            to the gripper, so that a push from the side turns it.
        arrival: distance to the point behind the cube at which the gripper goes down, in m.
        tolerance: distance of cube and target at which it stops, in m.
        push_step: displacements that are asked for while pushing, in m: the smallest, the increase with the distance
            to the target, the largest. Slow enough that the cube does not slide past the target.
        reach: horizontal distance from the arm's base that the gripper reaches, in m.
        travel_gain: share of the way to the point behind the cube that is asked for in a step.
        line_gain: the same for the way back to the line through cube and target while pushing.
        height_gain: the same for the height on the way.

    Example:
        >>> observation = np.zeros(21)
        >>> observation[18:] = 0.2, 0.0, 0.02             # gripper and cube at the origin, target at x = 0.2
        >>> PushController()(observation).round(2)[2]     # up first, as the gripper is not behind the cube
        np.float32(1.0)
    """

    push_height: float = 0.015
    travel_height: float = 0.1
    standoff: float = 0.062
    contact: float = 0.025
    corridor: float = 0.02
    arrival: float = 0.0103
    tolerance: float = 0.02
    push_step: tuple[float, float, float] = (0.0076, 0.1385, 0.033)
    reach: float = 0.795
    travel_gain: float = 0.75
    line_gain: float = 0.5
    height_gain: float = 0.6

    def __call__(self, observation: ArrayLike | Mapping[str, Any]) -> NDArray[np.float32]:
        """Actions ``[..., 3]`` for observations ``[..., 21]``, or for the dict of the goal form."""
        gripper, cube, goal = _positions(observation)
        distance, forward = _split((goal - cube)[..., :2])
        offset = (gripper - cube)[..., :2]
        ahead = (offset * forward).sum(axis=-1, keepdims=True)
        aside = offset - ahead * forward
        to_behind = self._behind(cube, forward) - gripper[..., :2]
        height = gripper[..., 2:]

        push = self._push(distance, forward, aside, height)
        travel = self._travel(to_behind, height)
        descend = np.concatenate([to_behind, self.push_height - height], axis=-1)
        rise = np.concatenate([-0.01 * forward, self.travel_height - height], axis=-1)

        is_down = height < (self.push_height + self.travel_height) / 2
        can_push = is_down & (ahead < -self.contact) & (_length(aside) < self.corridor)
        is_behind = _length(to_behind) < self.arrival
        is_low = height < 0.7 * self.travel_height
        rules = (
            (distance < self.tolerance, np.zeros_like(push)),
            (can_push, push),
            (is_behind, descend),
            (is_low, rise),
        )
        move = np.select([rule[0] for rule in rules], [rule[1] for rule in rules], travel)
        return np.clip(move / ACTION_SCALE, -1.0, 1.0).astype(np.float32)

    def _behind(self, cube: FloatArray, forward: FloatArray) -> FloatArray:
        """The point behind the cube, or the reachable one next to it."""
        length, direction = _split(cube[..., :2] - self.standoff * forward - BASE_XY)
        return BASE_XY + np.minimum(length, self.reach) * direction

    def _push(self, distance: FloatArray, forward: FloatArray, aside: FloatArray, height: FloatArray) -> FloatArray:
        smallest, slope, largest = self.push_step
        step = np.minimum(smallest + slope * distance, largest)
        return np.concatenate([step * forward - self.line_gain * aside, self.push_height - height], axis=-1)

    def _travel(self, way: FloatArray, height: FloatArray) -> FloatArray:
        length, direction = _split(self.travel_gain * way)
        up = self.height_gain * (self.travel_height - height)
        return np.concatenate([np.minimum(length, ACTION_SCALE) * direction, up], axis=-1)


def _positions(observation: ArrayLike | Mapping[str, Any]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Positions of gripper, cube and target, each ``[..., 3]``."""
    if isinstance(observation, Mapping):
        features, goal = observation["observation"], observation["desired_goal"]
    else:
        features = np.asarray(observation)
        goal = features[..., 18:21]
    features = np.asarray(features, dtype=np.float64)
    return features[..., 0:3], features[..., 6:9], np.asarray(goal, dtype=np.float64)


def _length(vectors: FloatArray) -> FloatArray:
    length: FloatArray = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return length


def _split(vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lengths ``[..., 1]`` and directions ``[..., 2]``."""
    length = _length(vectors)
    return length, vectors / np.maximum(length, 1e-9)
