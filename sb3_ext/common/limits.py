"""The limit on risk: a probability, or an undiscounted cost per episode that is converted once."""

from __future__ import annotations

import math


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
    if not (math.isfinite(cost_limit) and cost_limit >= 0.0):
        raise ValueError(f"cost_limit must be finite and >= 0, got {cost_limit}")
    if episode_length < 1:
        raise ValueError(f"episode_length must be >= 1, got {episode_length}")
    effective = episode_length if gamma == 1.0 else (1.0 - gamma**episode_length) / (1.0 - gamma)
    return cost_limit * effective / episode_length
