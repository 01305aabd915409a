"""The keys of the ``info`` dictionary that every part of the package agrees on, and how they are read.

This file spells the keys out once; everything else imports the constants. It needs NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

COST = "cost"
"""Finite float >= 0, on every step; 0.0 when safe."""
COST_TERM_PREFIX = "cost_"
"""``cost_<term>`` is one term of the cost."""
VIOLATION = "constraint_violation"
"""Bool: the state that this step led to violates the constraint."""
SUCCESS = "is_success"
"""Bool: the task is achieved (SB3's name)."""
PROPOSED_ACTION = "proposed_action"
"""Action that the agent asked for, in environment units; written by filters."""
EXECUTED_ACTION = "executed_action"
"""Action that the environment received, in environment units; written by filters."""
INTERVENED = "intervened"
"""Bool: a filter replaced the proposed action; written by filters."""
RISK = "risk"
"""Float: predicted risk of the proposed action; written by filters."""
UNPENALISED_REWARD = "unpenalised_reward"
"""Float: the reward before ``CostPenalty`` lowered it."""
EPISODE_COST = "episode_cost"
"""Summary that ``CostMonitor`` writes on the last step of an episode."""
SIMULATION_ERROR = "simulation_error"
"""Text: the physics became unstable and the episode was truncated."""

MISSING_COST_REMEDY = (
    "wrap the environment in safe_wrappers.CostFromFunction, or in safe_wrappers.CostFromInfo where the cost is "
    "kept under another key, or pass missing_cost='zero' if every step of this environment is safe"
)


class MissingCostError(KeyError):
    """A step without ``info["cost"]``, where a cost is needed."""

    def __str__(self) -> str:
        return str(self.args[0])


def check_missing_cost(missing_cost: str) -> str:
    """Return ``missing_cost``.

    Raises:
        ValueError: if it is neither ``"raise"`` nor ``"zero"``.
    """
    if missing_cost not in ("raise", "zero"):
        raise ValueError(f"missing_cost must be 'raise' or 'zero', got {missing_cost!r}")
    return missing_cost


def check_cost(cost: Any, key: str = COST) -> float:
    """Return ``cost`` as a float.

    Raises:
        ValueError: if it is negative, infinite, NaN or no number; the message names ``key``.
    """
    try:
        value = float(cost)
    except (TypeError, ValueError):
        raise ValueError(f"info['{key}'] must be a number, got {cost!r}") from None
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"info['{key}'] must be finite and >= 0, got {value}; report rewards as reward, not as cost")
    return value


def read_cost(info: Mapping[str, Any], missing_cost: str = "raise") -> float:
    """Cost of one step.

    Args:
        info: the ``info`` of a step of one environment.
        missing_cost: ``"raise"``, or ``"zero"`` to count a step without a cost as safe.

    Raises:
        MissingCostError: if the step has no cost and ``missing_cost="raise"``.
        ValueError: if the cost is negative or not finite.
    """
    if COST not in info:
        if missing_cost == "zero":
            return 0.0
        raise MissingCostError(f"info has no '{COST}' (its keys: {sorted(info)}): {MISSING_COST_REMEDY}")
    return check_cost(info[COST])


def read_term(info: Mapping[str, Any], name: str, missing_cost: str = "raise") -> float:
    """One term of the cost of one step, or the cost itself.

    Args:
        info: the ``info`` of a step of one environment.
        name: ``"cost"`` or ``"cost_<term>"``.
        missing_cost: as in ``read_cost``. A step that has a cost but not this term is an error either way: a name
            with a typing mistake would limit nothing.

    Raises:
        MissingCostError: if the term is missing; the message lists those that there are.
        ValueError: if it is negative or not finite.
    """
    if name in info:
        return check_cost(info[name], name)
    if COST in info:
        terms = sorted(key for key in info if key == COST or key.startswith(COST_TERM_PREFIX))
        raise MissingCostError(f"info has no '{name}'; the cost terms of this environment are {terms}")
    return read_cost(info, missing_cost)


def read_violation(info: Mapping[str, Any], missing_cost: str = "raise") -> bool:
    """Whether one step violated the constraint: ``constraint_violation``, or cost > 0 where that key is absent."""
    if VIOLATION in info:
        return bool(info[VIOLATION])
    return read_cost(info, missing_cost) > 0.0
