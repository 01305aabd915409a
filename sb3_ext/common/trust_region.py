"""The step of constrained policy optimisation, in the few numbers that it depends on."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_LIMITS = 8  # sets of active limits that are tried: 2 ** 8
ROUNDING = 1e-8


class TrustRegionStep(NamedTuple):
    r"""The step :math:`x = \alpha H^{-1} g + \sum_k \beta_k H^{-1} b_k`.

    Attributes:
        reward: :math:`\alpha`.
        costs: :math:`\beta`, ``[K]``.
        feasible: whether any step in the trust region meets the limits, to first order.
        active: indices of the limits that the step meets with equality.
        helpless: indices of the limits whose gradient is 0, so that no step changes them.
    """

    reward: float
    costs: NDArray[np.float64]
    feasible: bool
    active: tuple[int, ...] = ()
    helpless: tuple[int, ...] = ()

    @property
    def recovers(self) -> bool:
        """Whether all that the step can do is to reduce what is exceeded."""
        return not self.feasible and self.reward == 0.0

    @property
    def multipliers(self) -> NDArray[np.float64]:
        r"""The optimal :math:`\nu`, ``[K]``: what a limit costs, in units of the objective (0 where infeasible)."""
        return -self.costs / self.reward if self.feasible and self.reward > 0.0 else np.zeros_like(self.costs)


def trust_region_step(
    q: float, r: NDArray[np.float64], s: NDArray[np.float64], c: NDArray[np.float64], delta: float
) -> TrustRegionStep:
    r"""Solve :math:`\max_x g^T x` with :math:`x^T H x \leq 2\delta` and :math:`c_k + b_k^T x \leq 0` for every k.

    That is problem (10) of Achiam et al. 2017 for any number of limits. The best step for a given set of active limits
    has a closed form, for one limit the paper's equations (11) and (12), so every set is tried, and the best of the
    steps that meet all limits is the optimum.

    Where none does, the step reduces what is exceeded as fast as it can, each limit weighted by its excess: the
    paper's recovery step (14) for one limit. A limit whose gradient is 0 cannot be helped and is left out of the step.

    Args:
        q: :math:`g^T H^{-1} g`.
        r: :math:`g^T H^{-1} b_k`, ``[K]``.
        s: :math:`b_j^T H^{-1} b_k`, ``[K, K]``.
        c: how far each limit is exceeded (negative: met), ``[K]``.
        delta: radius of the trust region.

    Examples:
        With H = 1 in two dimensions, g = (1, 0), b = (1, 0): the limit cuts the step of length 2 short.

        >>> step = trust_region_step(1.0, np.array([1.0]), np.array([[1.0]]), np.array([-0.5]), delta=2.0)
        >>> float(step.reward + step.costs[0]), step.feasible, step.active
        (0.5, True, (0,))
    """
    steers = np.diag(s) > ROUNDING**2
    norms = np.where(steers, np.sqrt(np.maximum(np.diag(s), 0.0)), 1.0)
    r, s, c = r / norms, s / np.outer(norms, norms), c / norms  # limits of any unit become comparable
    slack = np.where(steers, ROUNDING * (1.0 + np.abs(c)), np.inf)
    movable = np.flatnonzero(steers).tolist()
    sets = itertools.chain(*(itertools.combinations(movable, size) for size in range(len(movable) + 1)))
    steps = [_step_along(list(active), q, r, s, c, delta) for active in sets]
    allowed = [step for step in steps if step is not None and np.all(c + step.reward * r + s @ step.costs <= slack)]
    if allowed:
        best = max(allowed, key=lambda step: step.reward * q + r @ step.costs)
    else:
        best = _recovery(np.where(steers, np.maximum(c, 0.0), 0.0), s, delta)
    helpless = np.flatnonzero(~steers)
    feasible = best.feasible and not np.any(c[helpless] > 0.0)
    return best._replace(costs=best.costs / norms, feasible=bool(feasible), helpless=tuple(helpless.tolist()))


def _step_along(
    active: list[int], q: float, r: NDArray[np.float64], s: NDArray[np.float64], c: NDArray[np.float64], delta: float
) -> TrustRegionStep | None:
    """The best step that meets the ``active`` limits with equality; None if the trust region does not reach there."""
    inverse = np.linalg.pinv(s[np.ix_(active, active)], hermitian=True)
    nearest, along = inverse @ c[active], inverse @ r[active]
    left = 2.0 * delta - c[active] @ nearest  # of the trust region, after the shortest step to where they are met
    slope = q - r[active] @ along  # what of the objective's gradient is left there
    if left < 0.0:
        return None
    reward = float(np.sqrt(left / slope)) if slope > ROUNDING * q else 0.0
    costs = np.zeros(len(c))
    costs[active] = -nearest - reward * along
    return TrustRegionStep(reward, costs, True, tuple(active))


def _recovery(excess: NDArray[np.float64], s: NDArray[np.float64], delta: float) -> TrustRegionStep:
    length = excess @ s @ excess
    scale = np.sqrt(2.0 * delta / length) if length > 0.0 else 0.0
    return TrustRegionStep(0.0, -scale * excess, False)
