"""The limit on risk: a probability, or an undiscounted cost per episode that is converted once."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Iterator, Mapping

from safe_wrappers.info import COST, COST_TERM_PREFIX


def check_probability(name: str, value: float) -> float:
    """Return ``value``.

    Raises:
        ValueError: if it is not in [0, 1].
    """
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
    return float(value)


def discounted_limit(cost_limit: float, gamma: float, episode_length: int) -> float:
    r"""The discounted sum at the start of an episode that spends ``cost_limit`` evenly over its steps.

    :math:`\frac{limit}{T} \cdot \frac{1 - \gamma^T}{1 - \gamma}`, the conversion that FSRL and SafePO use too.

    Args:
        cost_limit: undiscounted cost per episode.
        gamma: discount of the risk.
        episode_length: steps ``T`` of an episode.

    Raises:
        ValueError: if ``cost_limit`` is negative or ``episode_length`` below 1.

    Examples:
        >>> discounted_limit(25.0, 1.0, 1000)
        25.0
        >>> round(discounted_limit(25.0, 0.99, 1000), 4)
        2.4999
    """
    if not (isinstance(cost_limit, numbers.Real) and math.isfinite(cost_limit) and cost_limit >= 0.0):
        raise ValueError(f"cost_limit must be a finite number >= 0, got {cost_limit!r}")
    if episode_length < 1:
        raise ValueError(f"episode_length must be >= 1, got {episode_length}")
    effective = episode_length if gamma == 1.0 else (1.0 - gamma**episode_length) / (1.0 - gamma)
    return cost_limit * effective / episode_length


def safe_steps(eps_risk: float, gamma_risk: float, horizon: int | None = None) -> float:
    r"""The discounted number of safe steps ahead, if each step is safe with probability :math:`1 - \delta`.

    Dual-agent safety correction: equation 7, :math:`(1 - \delta) / (1 - \bar\gamma)`, or with a horizon ``T`` equation
    9, the mean over the steps of an episode that has ``T``:
    :math:`(1 - \delta) (T (1 - \bar\gamma) - \bar\gamma (1 - \bar\gamma^T)) / (T (1 - \bar\gamma)^2)`.

    Args:
        eps_risk: highest accepted probability of an unsafe step, in [0, 1] (the paper's delta).
        gamma_risk: discount, in [0, 1) (the paper's gamma with a bar).
        horizon: steps of an episode; None: no end.

    Raises:
        ValueError: for values outside these ranges.

    Examples:
        >>> round(safe_steps(0.05, 0.9), 4), round(safe_steps(0.05, 0.9, 50), 4)
        (9.5, 7.7988)
    """
    check_probability("eps_risk", eps_risk)
    if not 0.0 <= gamma_risk < 1.0:
        raise ValueError(f"gamma_risk must be in [0, 1), got {gamma_risk}")
    if horizon is None:
        return (1.0 - eps_risk) / (1.0 - gamma_risk)
    if horizon < 1 or horizon != int(horizon):
        raise ValueError(f"horizon must be a whole number >= 1 or None, got {horizon}")
    beyond = gamma_risk * (1.0 - gamma_risk**horizon) / (horizon * (1.0 - gamma_risk))
    return (1.0 - eps_risk) * (1.0 - beyond) / (1.0 - gamma_risk)


def check_cost_limits(cost_limit: float | Mapping[str, float]) -> dict[str, float]:
    """The limits by the names of the costs.

    Raises:
        ValueError: if there is none, a name is no cost, or a limit is negative or not finite.

    Examples:
        >>> check_cost_limits(25)
        {'cost': 25.0}
        >>> check_cost_limits({"cost_hazards": 10, "cost_vases": 5})
        {'cost_hazards': 10.0, 'cost_vases': 5.0}
    """
    limits = dict(cost_limit) if isinstance(cost_limit, Mapping) else {COST: cost_limit}
    if not limits:
        raise ValueError("cost_limit must be a number or name at least one cost, got {}")
    for name, limit in limits.items():
        if not isinstance(name, str) or (name != COST and not name.startswith(COST_TERM_PREFIX)) or "." in name:
            raise ValueError(
                f"cost_limit must name costs, '{COST}' or '{COST_TERM_PREFIX}<term>', got {name!r}; "
                "CostFromFunction and CostFromInfo write such terms"
            )
        if not (isinstance(limit, numbers.Real) and math.isfinite(limit) and limit >= 0.0):
            raise ValueError(f"cost_limit must be finite and >= 0, got {limit} for {name!r}")
    return {name: float(limit) for name, limit in limits.items()}


@contextlib.contextmanager
def fitting(argument: str, kind: type) -> Iterator[None]:
    """Names the constructor's argument whose entries ``kind``, which is made within, does not take.

    Raises:
        ValueError: instead of a ``TypeError``.
    """
    try:
        yield
    except TypeError as error:
        raise ValueError(f"{argument} do not fit {kind.__name__}: {error}") from error
