"""Scripted controllers of the push: they work untrained, and know nothing of the obstacle."""

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
CLEARANCE = (0.05, 0.08)
"""Heights in m between which the gripper becomes free of a cube of 0.04 m below it."""


@dataclass(frozen=True)
class PushController:
    """Goes behind the cube, as seen from the target, lowers the gripper, and pushes the cube straight to the target.

    A baseline to be corrected: it never looks at the obstacle. It has no memory, so it can be asked at any state, and
    takes what ``safe/PandaPush-v0`` and ``safe/PandaPushGoal-v0`` observe, one observation or a batch. A cube that
    slips away sideways is approached anew. One phase passes into the next without a jump, so that an agent that
    imitates it almost still pushes; ``docs/environments.md`` says how much noise it stands.

    Attributes:
        push_height: of the gripper while it pushes, in m.
        travel_height: of the gripper on its way to the cube, in m.
        standoff: distance of the point behind the cube from its centre, in m.
        contact: distance behind the cube's centre from which the gripper pushes, in m.
        corridor: how far beside the line through cube and target it stops pushing, in m.
        funnel: distances to its place behind the cube between which the gripper comes down, in m.
        low: heights between which it turns from travelling to pushing, in m.
        tolerance: distance of cube and target at which it begins to stop, in m; at three quarters it has.
        push_step: displacements that are asked for while pushing, in m: the smallest, the increase with the distance
            to the target, the largest. Slow enough that the cube does not slide past the target.
        reach: horizontal distance from the arm's base that the gripper reaches, in m.
        travel_gain: share of the way to the point behind the cube that is asked for in a step.
        line_gain: the same for the way back to the line through cube and target while pushing.
        height_gain: the same for the height.

    Example:
        >>> observation = np.zeros(21)
        >>> observation[18:] = 0.2, 0.0, 0.02             # gripper and cube at the origin, target at x = 0.2
        >>> PushController()(observation).round(2)[2]     # up first, as the gripper is not behind the cube
        np.float32(1.0)
    """

    push_height: float = 0.018
    travel_height: float = 0.1
    standoff: float = 0.06
    contact: float = 0.032
    corridor: float = 0.035
    funnel: tuple[float, float] = (0.012, 0.055)
    low: tuple[float, float] = (0.025, 0.05)
    tolerance: float = 0.02
    push_step: tuple[float, float, float] = (0.01, 0.15, 0.036)
    reach: float = 0.795
    travel_gain: float = 0.85
    line_gain: float = 1.2
    height_gain: float = 0.6

    def __call__(self, observation: ArrayLike | Mapping[str, Any]) -> NDArray[np.float32]:
        """Actions ``[..., 3]`` for observations ``[..., 21]``, or for the dict of the goal form."""
        gripper, cube, goal = _positions(observation)
        height = gripper[..., 2:]
        distance, forward = _split((goal - cube)[..., :2])
        offset = (gripper - cube)[..., :2]
        ahead = (offset * forward).sum(axis=-1, keepdims=True)
        aside = offset - ahead * forward

        behind = self._behind(cube, forward)
        standoff = np.maximum(((cube[..., :2] - behind) * forward).sum(axis=-1, keepdims=True), self.contact)

        is_high = _ramp(height, self.low)
        # Where it may be low: behind the cube, and close to it only if it is low already.
        closest = self.contact + (standoff - self.contact) * is_high
        is_away = _ramp(self._miss(ahead, aside, closest), self.funnel)
        is_in_line = (1.0 - _ramp(_length(aside), (0.0, self.corridor))) * _ramp(-ahead, (0.0, self.contact / 2))
        is_pushing = (1.0 - is_high) * is_in_line
        # On its way it keeps its place until it is above the cube, lest it sweep the cube along.
        is_free = np.maximum(_ramp(height, CLEARANCE), 1.0 - is_away)
        travel = is_free * _travel(self.travel_gain * (behind - gripper[..., :2]))
        move = is_pushing * self._push(distance, forward, aside) + (1.0 - is_pushing) * travel
        wanted = self.push_height + (self.travel_height - self.push_height) * is_away
        move = np.concatenate([move, self.height_gain * (wanted - height)], axis=-1)
        return _action(move, distance, self.tolerance)

    def _miss(self, ahead: FloatArray, aside: FloatArray, closest: FloatArray) -> FloatArray:
        """Distance to its place behind the cube; what it is too far ahead counts twice, for there is the cube."""
        along = np.maximum(2.0 * (ahead + closest), 0.0) + np.maximum(-self.standoff - ahead, 0.0)
        return np.hypot(_length(aside), along)

    def _behind(self, cube: FloatArray, forward: FloatArray) -> FloatArray:
        """The point behind the cube, or the reachable one next to it."""
        length, direction = _split(cube[..., :2] - self.standoff * forward - BASE_XY)
        return BASE_XY + np.minimum(length, self.reach) * direction

    def _push(self, distance: FloatArray, forward: FloatArray, aside: FloatArray) -> FloatArray:
        smallest, slope, largest = self.push_step
        return np.minimum(smallest + slope * distance, largest) * forward - self.line_gain * aside


@dataclass(frozen=True)
class DragController:
    """Presses the gripper on the cube and drags it straight to the target.

    Like ``PushController`` it never looks at the obstacle, has no memory, and takes one observation or a batch of
    either form. Small corrections lead it around an obstacle: a cube under the gripper follows it to any side, a
    pushed one only forward.

    Attributes:
        lead: how far behind the cube's centre the gripper comes down, in m, for it slips forward.
        travel_height: above the cube on the way there, in m.
        clearance: heights above the cube between which the gripper becomes free of it, in m.
        low: heights above the cube between which it turns from travelling to dragging, in m.
        funnel: distances to its place on the cube between which the gripper comes down, in m.
        grip: distances between which it lets go of a cube that it drags, in m.
        drag_step: displacement that is asked for while dragging, in m.
        press: displacement downwards that is asked for in its place on the cube, in m; never less, lest a correction
            of the same size keep the gripper above the cube.
        tolerance: distance of cube and target at which it begins to stop, in m; at three quarters it has.
        travel_gain: share of the way to the cube that is asked for in a step.
        height_gain: the same for the height.

    Example:
        >>> observation = np.zeros(21)
        >>> observation[:3], observation[18:] = (0.0, 0.0, 0.03), (0.2, 0.0, 0.02)  # on a cube at the origin
        >>> DragController()(observation).round(2)
        array([ 0.8,  0. , -0.6], dtype=float32)
    """

    lead: float = 0.015
    travel_height: float = 0.08
    clearance: tuple[float, float] = (0.032, 0.06)
    low: tuple[float, float] = (0.032, 0.042)
    funnel: tuple[float, float] = (0.015, 0.04)
    grip: tuple[float, float] = (0.025, 0.05)
    drag_step: float = 0.04
    press: float = 0.03
    tolerance: float = 0.02
    travel_gain: float = 0.85
    height_gain: float = 0.6

    def __call__(self, observation: ArrayLike | Mapping[str, Any]) -> NDArray[np.float32]:
        """Actions ``[..., 3]`` for observations ``[..., 21]``, or for the dict of the goal form."""
        gripper, cube, goal = _positions(observation)
        height = (gripper - cube)[..., 2:]
        distance, forward = _split((goal - cube)[..., :2])
        way = (cube - gripper)[..., :2] - self.lead * forward

        is_high = _ramp(height, self.low)
        miss = _length(way)
        is_away = is_high * _ramp(miss, self.funnel) + (1.0 - is_high) * _ramp(miss, self.grip)
        is_dragging = (1.0 - is_high) * (1.0 - is_away)
        # On its way it keeps its place until it is above the cube, lest it sweep the cube along.
        is_free = np.maximum(_ramp(height, self.clearance), 1.0 - is_away)
        move = is_dragging * self.drag_step * forward + (1.0 - is_dragging) * is_free * _travel(self.travel_gain * way)
        rise = self.height_gain * (self.travel_height - height)
        move = np.concatenate([move, is_away * rise - (1.0 - is_away) * self.press], axis=-1)
        return _action(move, distance, self.tolerance)


def _positions(observation: ArrayLike | Mapping[str, Any]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Positions of gripper, cube and target, each ``[..., 3]``."""
    if isinstance(observation, Mapping):
        features, goal = observation["observation"], observation["desired_goal"]
    else:
        features = np.asarray(observation)
        goal = features[..., 18:21]
    features = np.asarray(features, dtype=np.float64)
    return features[..., 0:3], features[..., 6:9], np.asarray(goal, dtype=np.float64)


def _travel(way: FloatArray) -> FloatArray:
    """That way, as far as one step goes."""
    length, direction = _split(way)
    return np.minimum(length, ACTION_SCALE) * direction


def _action(move: FloatArray, distance: FloatArray, tolerance: float) -> NDArray[np.float32]:
    """The action that asks for a displacement; none where the cube is at its target."""
    move = move * _ramp(distance, (0.75 * tolerance, tolerance))
    return np.clip(move / ACTION_SCALE, -1.0, 1.0).astype(np.float32)


def _length(vectors: FloatArray) -> FloatArray:
    length: FloatArray = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return length


def _split(vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lengths ``[..., 1]`` and directions ``[..., 2]``."""
    length = _length(vectors)
    return length, vectors / np.maximum(length, 1e-9)


def _ramp(values: FloatArray, limits: tuple[float, float]) -> FloatArray:
    """From 0 at the first limit to 1 at the second."""
    low, high = limits
    return np.clip((values - low) / (high - low), 0.0, 1.0)
