"""Actions are checked, clipped and accounted for in one way here, whoever filters, executes or records them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from safe_wrappers.info import EXECUTED_ACTION, INTERVENED, PROPOSED_ACTION

ROUNDING = 1e-3
"""How far, in halves of its range, an action may be from another that it should equal."""


def check_proposed(action: Any, shape: tuple[int, ...] | None) -> NDArray[Any]:
    """The proposed action (or batch of them) as a finite array of its own; ``shape`` None: any."""
    proposed = np.array(action)
    if shape is not None and proposed.shape != shape:
        raise ValueError(f"expected an action of shape {shape}, got {action!r} of shape {proposed.shape}")
    if proposed.dtype.kind not in "biuf" or not np.isfinite(proposed).all():
        raise ValueError(f"expected a finite action, got {action!r}; the environment has not been stepped")
    return proposed


def clip_to_box(actions: Any, space: spaces.Space[Any]) -> NDArray[Any]:
    """Actions ``[..., A]`` within their Box, where environments take them to be; those of other spaces as they are.

    Integers, where the Box has floats, become such; floats keep their precision.
    """
    actions = np.asarray(actions)
    if not isinstance(space, spaces.Box):
        return actions
    return np.clip(actions if actions.dtype.kind == "f" else actions.astype(space.dtype), space.low, space.high)


def executed_action(info: Mapping[str, Any], action: Any, space: spaces.Space[Any]) -> NDArray[Any]:
    """What the environment executed of an action of ``space``: what a filter says, or else the action in its bounds.

    Raises:
        ValueError: if the two are in different units, because a wrapper between filter and agent changes actions.
    """
    own = clip_to_box(action, space)
    if EXECUTED_ACTION not in info:
        return own
    executed = np.asarray(info[EXECUTED_ACTION])
    if isinstance(space, spaces.Box):
        slack = ROUNDING * np.where(np.isfinite(space.high - space.low), (space.high - space.low) / 2, 1.0)

        def within(found: Any, low: NDArray[Any], high: NDArray[Any]) -> bool:
            return np.shape(found) == space.shape and bool(((found >= low - slack) & (found <= high + slack)).all())

        # Of an action that nobody replaced, at least one of the two is the agent's own.
        passed = info.get(INTERVENED) is False and not within(info.get(PROPOSED_ACTION), own, own)
        if not within(executed, *((own, own) if passed else (space.low, space.high))):
            raise ValueError(
                f"info['{EXECUTED_ACTION}'] is {executed}, where the agent's action was {own} of {space}: a wrapper "
                "that changes actions lies between a filter and the agent. Put it inside of the filter, whose risk and "
                "recovery then take what the agent gives"
            )
    return executed
