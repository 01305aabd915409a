"""The decisions that risk predictions lead to, as pure functions on batches.

The wrappers here and the batched filters and algorithms elsewhere call the same functions, so that their
decisions agree. Everything is in environment units: ``risk(obs[B, ...], action[B, ...]) -> [B]`` and
``recovery(obs[B, ...]) -> [B, ...]``, in NumPy; Dict observations are dictionaries of batched arrays.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from safe_wrappers.observations import Observations, batch_of_one, take_rows

RiskKind = Literal["probability", "return"]
RiskFunction: TypeAlias = Callable[[Any, NDArray[Any]], NDArray[Any]]
RecoveryFunction: TypeAlias = Callable[[Any], NDArray[Any]]

BOUND_TOLERANCE = 1e-5
"""How far a recovery action may leave its Box by rounding, as a share of the Box's width."""


class Filtered(NamedTuple):
    """What ``filter_actions`` decided, for ``B`` environments.

    Attributes:
        executed: ``[B, ...]`` actions to execute.
        intervened: ``[B]`` bool, whether the recovery action replaced the proposed one.
        risks: ``[B]`` predicted risks of the proposed actions.
    """

    executed: NDArray[Any]
    intervened: NDArray[np.bool_]
    risks: NDArray[Any]


class ByReference:
    """A callable that is shared, not duplicated, when the specification of a wrapped environment is copied.

    ``risk`` is often a method of a trained model: every copy would hold all networks and buffers once more.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function: Callable[..., Any] = function.function if isinstance(function, ByReference) else function

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self.function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> ByReference:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # A specification is often only looked at (which environment is it?), from other processes too: a function
        # without a name there must not stop that.
        try:
            pickle.dumps(self.function)
        except Exception:  # each kind of object has its own
            return ByReference, (_Lost(repr(self.function)),)
        return ByReference, (self.function,)


@dataclass(frozen=True)
class _Lost:
    """A function that could not follow its specification into another process."""

    description: str

    def __call__(self, *args: Any) -> Any:
        raise RuntimeError(f"{self.description} cannot be pickled: wrap the environment again, or give it a name")


def check_callable(name: str, function: Any) -> Any:
    """Return ``function``.

    Raises:
        TypeError: if it cannot be called.
    """
    if not callable(function):
        raise TypeError(f"{name} must be a function of batched NumPy arrays, got {function!r}")
    return function.function if isinstance(function, ByReference) else function


def check_eps_risk(eps_risk: float, kind: str = "probability") -> float:
    """Return the risk threshold as a float.

    Args:
        eps_risk: highest risk that is still accepted.
        kind: ``"probability"`` of a violation, or ``"return"``, a discounted sum of costs.

    Raises:
        ValueError: if a probability is outside [0, 1], a return is negative or not finite, or ``kind`` is
            unknown.

    Example:
        >>> check_eps_risk(1.5)
        Traceback (most recent call last):
        ...
        ValueError: eps_risk must be in [0, 1], got 1.5; pass kind='return' for a risk in units of cost
    """
    if kind == "probability":
        if not 0.0 <= eps_risk <= 1.0:
            raise ValueError(
                f"eps_risk must be in [0, 1], got {eps_risk}; pass kind='return' for a risk in units of cost"
            )
    elif kind == "return":
        if not (math.isfinite(eps_risk) and eps_risk >= 0.0):
            raise ValueError(f"eps_risk must be finite and >= 0 for kind='return', got {eps_risk}")
    else:
        raise ValueError(f"kind must be 'probability' or 'return', got {kind!r}")
    return float(eps_risk)


def predict_risk(risk: RiskFunction, observations: Observations, actions: NDArray[Any]) -> NDArray[Any]:
    """Risks ``[B]`` of actions, checked.

    The predictor's precision stays: float32 networks are compared with ``eps_risk`` in float32 everywhere.

    Raises:
        ValueError: if the predictor returns another shape than ``[B]``, NaN or an infinity.
    """
    risks = np.asarray(risk(observations, actions))
    if risks.shape != (len(actions),):
        raise ValueError(f"risk must return one value per action, shape {(len(actions),)}, got {risks.shape}")
    if not np.isfinite(risks).all():
        raise ValueError(f"risk must be finite, got {risks[~np.isfinite(risks)][0]}: check the risk model's inputs")
    return risks


def allowed_actions(risks: NDArray[Any], eps_risk: float) -> NDArray[np.bool_]:
    """Mask of the candidates whose risk is at most ``eps_risk``; the least risky one where none is.

    The support of SQRL's masked policy (Srinivasan et al. 2020, eq. 3), with its fallback (section 6).

    Args:
        risks: ``[..., K]`` predicted risks of ``K`` candidates.
        eps_risk: highest risk that is accepted.

    Returns:
        ``[..., K]`` bool, at least one ``True`` in each row.

    Example:
        >>> allowed_actions(np.array([[0.1, 0.4, 0.2], [0.9, 0.8, 0.7]]), eps_risk=0.3).tolist()
        [[True, False, True], [False, False, True]]
    """
    mask = np.asarray(risks <= eps_risk)
    safest = np.arange(risks.shape[-1]) == risks.argmin(axis=-1)[..., None]
    return np.where(mask.any(axis=-1, keepdims=True), mask, safest)


def filter_actions(
    risk: RiskFunction,
    recovery: RecoveryFunction,
    eps_risk: float,
    observations: Observations,
    actions: NDArray[Any],
    action_space: spaces.Space[Any] | None = None,
) -> Filtered:
    """Replace the actions that are too risky by recovery actions (Recovery RL, eq. 4.1).

    Args:
        risk: ``risk(obs[B, ...], action[B, ...]) -> [B]``.
        recovery: ``recovery(obs[M, ...]) -> [M, ...]``; only called for the ``M > 0`` rows that need it.
        eps_risk: an action is replaced where its risk is *above* this threshold.
        observations: ``[B, ...]``, or a dictionary of such arrays.
        actions: ``[B, ...]`` proposed actions.
        action_space: space of one action; if given, recovery actions are checked against it.

    Raises:
        ValueError: if a risk is not finite or has the wrong shape, or a recovery action is not in its space.

    Example:
        >>> def risk(obs, action):  # a wall at 5: stepping beyond it is certain to hurt
        ...     return (obs + action > 5.0).any(axis=1).astype(float)
        >>> proposed = np.array([[1.0], [1.0]])
        >>> def recovery(obs):
        ...     return -np.ones_like(obs)
        >>> result = filter_actions(risk, recovery, 0.5, np.array([[3.0], [5.0]]), proposed)
        >>> result.executed.tolist(), result.intervened.tolist()
        ([[1.0], [-1.0]], [False, True])
    """
    risks = predict_risk(risk, observations, actions)
    intervened = np.asarray(risks > eps_risk)
    executed = np.array(actions)
    if intervened.any():
        replaced = np.asarray(recovery(take_rows(observations, intervened)))
        replaced = _check_recovery(replaced, executed[intervened].shape, action_space)
        if not np.can_cast(replaced.dtype, executed.dtype, "same_kind"):
            executed = executed.astype(replaced.dtype)  # an agent may propose [2] where the recovery is [0.5]
        executed[intervened] = replaced
    return Filtered(executed, intervened, risks)


def filter_action(
    risk: RiskFunction,
    recovery: RecoveryFunction,
    eps_risk: float,
    observation: Any,
    action: Any,
    action_space: spaces.Space[Any] | None = None,
) -> tuple[Any, bool, float]:
    """``filter_actions`` for one observation and action: ``(executed, intervened, risk)``."""
    batch = filter_actions(risk, recovery, eps_risk, batch_of_one(observation), np.asarray(action)[None], action_space)
    return batch.executed[0], bool(batch.intervened[0]), float(batch.risks[0])


def _check_recovery(
    actions: NDArray[Any], shape: tuple[int, ...], action_space: spaces.Space[Any] | None
) -> NDArray[Any]:
    if actions.shape != shape:
        raise ValueError(f"recovery must return actions of shape {shape}, got {actions.shape}")
    if not np.isfinite(actions).all():
        raise ValueError(f"recovery actions must be finite, got {actions.tolist()}")
    if action_space is None:
        return actions
    inside = _round_into(actions, action_space)
    for row in inside:
        if not action_space.contains(row):
            raise ValueError(f"recovery action {row} is outside the action space {action_space}; clip or rescale it")
    return inside


def _round_into(actions: NDArray[Any], space: spaces.Space[Any]) -> NDArray[Any]:
    """Actions in the space's type, without the rounding errors by which rescaled actions leave a Box."""
    actions = actions.astype(space.dtype)
    if not isinstance(space, spaces.Box):
        return actions
    clipped = np.clip(actions, space.low, space.high)
    width = space.high.astype(np.float64) - space.low
    slack = BOUND_TOLERANCE * np.where(np.isfinite(width), width, 1.0)
    return np.where(np.abs(clipped - actions) <= slack, clipped, actions)
