"""Scripted random behaviour for collecting constraint data: where rollouts start, and how they act.

Navigation follows the released code of Recovery RL, whose rollouts have at most 10 steps and stop at the
first violation (the thesis text lets them go on). DrunkSpider's rows are ours: SQRL collects its data online.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from safe_envs.core.geometry import FloatArray, Rectangle, Scene

ROLLOUT_LENGTH = 10

Interval = tuple[float, float]

UNIT: Interval = (-1.0, 1.0)


@dataclass(frozen=True)
class RolloutGroup:
    """Rollouts that start and act alike.

    Attributes:
        requested_per_rollout: one rollout for so many requested transitions.
        starts: rectangles; each rollout starts at a uniform point of one of them, chosen with equal
            probability. Empty means the scene's extent.
        action_x: interval of uniform actions along x; ``None`` for N(0, 1) clipped to [-1, 1]. Drawn anew
            every step.
        action_y: as ``action_x``.
        starts_outside: redraw starts until they are outside the obstacles.
    """

    requested_per_rollout: int
    starts: tuple[Rectangle, ...] = ()
    action_x: Interval | None = None
    action_y: Interval | None = None
    starts_outside: bool = False

    def sample_starts(self, rng: np.random.Generator, n: int, scene: Scene) -> FloatArray:
        """``n`` start positions ``[n, 2]``."""
        points = self._draw_starts(rng, n, scene)
        if self.starts_outside:
            while (inside := scene.inside_obstacle(points)).any():
                points[inside] = self._draw_starts(rng, int(inside.sum()), scene)
        return points

    def sample_actions(self, rng: np.random.Generator, n: int) -> FloatArray:
        """``n`` actions ``[n, 2]``."""
        return np.stack([_sample(rng, n, self.action_x), _sample(rng, n, self.action_y)], axis=1)

    def _draw_starts(self, rng: np.random.Generator, n: int, scene: Scene) -> FloatArray:
        areas = self.starts or (scene.extent,)
        bounds = np.array([(a.x_min, a.y_min, a.x_max, a.y_max) for a in areas])[rng.integers(len(areas), size=n)]
        return rng.uniform(bounds[:, :2], bounds[:, 2:])


def _sample(rng: np.random.Generator, n: int, interval: Interval | None) -> FloatArray:
    if interval is not None:
        return rng.uniform(*interval, size=n)
    return np.minimum(np.maximum(rng.standard_normal(n), UNIT[0]), UNIT[1])


COLLECTORS: dict[str, tuple[RolloutGroup, ...]] = {
    "safe/Navigation1-v0": (
        RolloutGroup(10, starts=(Rectangle(-80.0, 50.0, -5.0, -2.0), Rectangle(-80.0, 50.0, 2.0, 5.0))),
    ),
    "safe/Navigation2-v0": (
        RolloutGroup(30, starts=(Rectangle(-40.0, 10.0, -25.0, 25.0),), starts_outside=True),
        # Aimed at the block from its left, right, top and bottom.
        RolloutGroup(40, starts=(Rectangle(-35.0, -30.0, -12.0, 12.0),), action_x=(0.5, 1.0)),
        RolloutGroup(40, starts=(Rectangle(-20.0, -15.0, -12.0, 12.0),), action_x=(-1.0, -0.5)),
        RolloutGroup(40, starts=(Rectangle(-30.0, -20.0, 10.0, 15.0),), action_y=(-1.0, -0.5)),
        RolloutGroup(40, starts=(Rectangle(-30.0, -20.0, -15.0, -10.0),), action_y=(0.5, 1.0)),
    ),
    "safe/DrunkSpider-v0": (RolloutGroup(10, action_x=UNIT, action_y=UNIT, starts_outside=True),),
}
"""Groups of rollouts per environment ID."""
