"""``SafetyLayer``: a wrapper that moves actions as little as a linear model of the next costs asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import ArrayLike, NDArray

from safe_wrappers.action_filter import ActionFilter, Decision
from safe_wrappers.risk import ByReference, check_callable

LinearCosts: TypeAlias = Callable[[Any], tuple[NDArray[Any], NDArray[Any]]]
"""``costs(obs[B, ...]) -> (offsets[B, K], slopes[B, K, A])``: term k of the next cost is offset + slope . action."""
SMALLEST = 1e-8
"""Below this squared slope an action in [-1, 1] has no effect that could be used."""


def correct_actions(actions: ArrayLike, offsets: ArrayLike, slopes: ArrayLike, limits: ArrayLike) -> NDArray[Any]:
    r"""The closest actions whose predicted costs keep their limits, if at most one limit is in the way.

    Dalal et al. 2018, equation 6: :math:`a - \lambda_{i^*} g_{i^*}` with
    :math:`\lambda_i = [(g_i^T a + c_i - C_i) / (g_i^T g_i)]^+`, of which only the largest acts.

    Args:
        actions: ``[B, A]`` proposed actions.
        offsets: ``[B, K]`` costs at action 0, :math:`c_i`.
        slopes: ``[B, K, A]``, :math:`g_i`.
        limits: ``[K]``, :math:`C_i`.

    Returns:
        ``[B, A]``, not clipped to any bounds.

    Example:
        >>> correct_actions([[1.0, 0.0]], [[0.5]], [[[1.0, 0.0]]], [0.7]).round(3)  # 0.5 + 1.0 is 0.8 too much
        array([[0.2, 0. ]])
    """
    actions, offsets, slopes = (np.asarray(values, dtype=np.float64) for values in (actions, offsets, slopes))
    excess = offsets + np.einsum("bka,ba->bk", slopes, actions) - np.asarray(limits)
    squares = (slopes**2).sum(axis=-1)
    multipliers = np.where(squares > SMALLEST, np.maximum(excess, 0.0) / np.maximum(squares, SMALLEST), 0.0)
    rows, largest = np.arange(len(actions)), multipliers.argmax(axis=1)
    return actions - multipliers[rows, largest, None] * slopes[rows, largest]


class SafetyLayer(ActionFilter, RecordConstructorArgs):
    """Corrects actions in closed form, so that the costs of the next step keep their limits (Dalal et al. 2018).

    Around the environment of any agent, trained with the layer on or not. A linear model predicts each term of the
    next cost; ``sb3_ext.LinearCostModel`` learns one from random or recorded steps, and any function of that form will
    do. Each step's ``info`` gets ``proposed_action``, ``executed_action`` and ``intervened``. Where several limits are
    exceeded, the one with the largest multiplier is met (the paper's rule); then the action is clipped to its bounds.
    The closest action is that of actions scaled to [-1, 1] (where they are bounded), whatever their units.

    Args:
        env: environment with a Box of actions of shape ``[A]``.
        costs: ``costs(obs[B, ...]) -> (offsets[B, K], slopes[B, K, A])``: term k of the next cost is
            ``offsets[k] + slopes[k] . action``, in environment units. Called with ``B = 1``.
        step_limit: limit on every term of the cost of one step, or one for each.

    Raises:
        TypeError: if ``costs`` cannot be called.
        ValueError: if the actions are no vectors or a limit is not finite; in ``step``, if the action is not finite
            or has the wrong shape, or the costs' coefficients do. The environment has not moved then.
        gymnasium.error.ResetNeeded: if ``step`` is called before ``reset``.

    Example:
        >>> import gymnasium as gym
        >>> import numpy as np
        >>> from safe_wrappers import SafetyLayer
        >>> def costs(obs):  # the pendulum's next speed, predicted
        ...     return obs[:, 2:] + 0.75 * obs[:, 1:2], np.full((len(obs), 1, 1), 0.15)
        >>> env = SafetyLayer(gym.make("Pendulum-v1"), costs, step_limit=0.9)
        >>> _ = env.reset(seed=1)
        >>> obs, *_, info = env.step(np.array([2.0], dtype=np.float32))
        >>> info["intervened"], bool(obs[2] < 0.91)
        (True, True)
    """

    def __init__(self, env: gym.Env, costs: LinearCosts, step_limit: float | Sequence[float] = 0.1) -> None:
        space = env.action_space
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
            raise ValueError(f"SafetyLayer needs a Box of actions of shape (A,), got {space}")
        self.limits: NDArray[np.float64] = np.atleast_1d(np.asarray(step_limit, dtype=np.float64))
        if self.limits.ndim != 1 or not self.limits.size or not np.isfinite(self.limits).all():
            raise ValueError(f"step_limit must be a finite number, or one for each term of the cost, got {step_limit}")
        self.costs: LinearCosts = check_callable("costs", costs)
        half_range = space.high.astype(np.float64) / 2.0 - space.low.astype(np.float64) / 2.0
        scaled = np.isfinite(half_range) & (half_range > 0.0)
        self._half_range: NDArray[np.float64] = np.where(scaled, half_range, 1.0)
        RecordConstructorArgs.__init__(self, costs=ByReference(costs), step_limit=step_limit)
        gym.Wrapper.__init__(self, env)

    def _decide(self, proposed: NDArray[Any]) -> Decision:
        executed = self._correct(proposed)
        return executed, not np.array_equal(executed, proposed), {}

    def _correct(self, proposed: NDArray[Any]) -> NDArray[Any]:
        offsets, slopes = (np.asarray(values) for values in self.costs(self._observation))
        n_terms = offsets.shape[-1]
        if offsets.shape != (1, n_terms) or slopes.shape != (1, n_terms, proposed.shape[1]):
            raise ValueError(
                f"costs must return offsets [1, K] and slopes [1, K, {proposed.shape[1]}], got {offsets.shape} "
                f"and {slopes.shape}"
            )
        if len(self.limits) not in (1, n_terms):
            raise ValueError(f"step_limit must be one number or {n_terms}, one for each term, got {len(self.limits)}")
        if not (np.isfinite(offsets).all() and np.isfinite(slopes).all()):
            raise ValueError(f"costs must be finite, got offsets {offsets[0]} and slopes {slopes[0]}")
        scale = self._half_range
        scaled = proposed / scale
        change = scale * (correct_actions(scaled, offsets, slopes * scale, self.limits) - scaled)
        if not change.any():
            return proposed  # in its own precision
        space = self.action_space
        assert isinstance(space, spaces.Box)
        return np.clip(proposed + change, space.low, space.high).astype(space.dtype)
