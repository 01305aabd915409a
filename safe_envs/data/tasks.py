"""Families of environments that MESA transfers between (thesis, section 7.1; ranges of its released code)."""

from __future__ import annotations

import numpy as np

from safe_wrappers.tasks import Task, TaskDistribution

Range = tuple[float, float]

GAIN_RANGE: Range = (0.5, 1.5)
"""Of the diagonal of B: how far an action moves the agent along each axis."""
DECAY_RANGE: Range = (1.0, 1.0)
"""Of the diagonal of A. The thesis says that A varies, its released code keeps the identity."""
TRAINING_LENGTHS: Range = (0.4, 0.8)
TEST_LENGTH = 1.0
POWER_RANGE: Range = (0.5, 0.95)


def navigation_tasks(env_id: str, gain_range: Range = GAIN_RANGE, decay_range: Range = DECAY_RANGE) -> TaskDistribution:
    """Navigation whose matrices A and B are diagonal with uniform entries, for training and testing alike.

    Args:
        env_id: ``"safe/Navigation1-v0"`` or ``"safe/Navigation2-v0"``.
        gain_range: of B's entries.
        decay_range: of A's entries; at coordinates of 50 an entry of 0.99 moves the agent by 0.5 a step.
    """

    def draw(rng: np.random.Generator) -> Task:
        return {"A": _diagonal(rng, decay_range), "B": _diagonal(rng, gain_range)}

    return TaskDistribution(env_id, draw, draw)


def _diagonal(rng: np.random.Generator, bounds: Range) -> list[list[float]]:
    first, second = rng.uniform(*bounds, size=2).tolist()
    return [[first, 0.0], [0.0, second]]


def _pole_length(rng: np.random.Generator) -> Task:
    return {"length": float(rng.uniform(*TRAINING_LENGTHS))}


def _partial_failure(rng: np.random.Generator) -> Task:
    return {"disabled": None, "power": rng.uniform(*POWER_RANGE, size=6).tolist()}


_BROKEN_JOINTS = tuple({"disabled": joint} for joint in (1, 2, 3, 4))

TASKS: dict[str, TaskDistribution] = {
    "navigation1": navigation_tasks("safe/Navigation1-v0"),
    "navigation2": navigation_tasks("safe/Navigation2-v0"),
    "cartpole-length": TaskDistribution("safe/CartPoleLength-v0", _pole_length, {"length": TEST_LENGTH}),
    "halfcheetah-disabled": TaskDistribution("safe/HalfCheetahDisabled-v0", _BROKEN_JOINTS, {"disabled": 5}),
    "halfcheetah-partial": TaskDistribution("safe/HalfCheetahDisabled-v0", _BROKEN_JOINTS, _partial_failure),
    "ant-disabled": TaskDistribution(
        "safe/AntDisabled-v0", tuple({"disabled": leg} for leg in (0, 1, 2)), {"disabled": 3}
    ),
}
"""By name: training tasks to draw or to list, and the test task."""
