"""Choosing among candidate actions by their risk: masks for discrete actions, else rejection sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import ArrayLike, NDArray

from safe_wrappers.observations import batch_of_one, take_rows
from safe_wrappers.risk import (
    ByReference,
    RiskFunction,
    RiskKind,
    allowed_actions,
    check_callable,
    check_eps_risk,
    predict_risk,
)


class ActionMask(gym.Wrapper, RecordConstructorArgs):
    """Discrete actions, of which ``action_masks()`` allows those with little risk.

    An action is allowed where its predicted risk is at most ``eps_risk``; where none is, only the least risky
    one (SQRL, eq. 3 and section 6). A Box action space becomes a choice among candidates, ``Discrete(K)``.
    MaskablePPO of sb3-contrib finds ``action_masks()`` by its name. ``step`` executes whatever it gets: a
    masked agent proposes allowed actions only.

    Args:
        env: environment with a Discrete or Box action space.
        risk: ``risk(obs[K, ...], action[K, ...]) -> [K]``, any callable on NumPy arrays in environment units.
        eps_risk: highest risk that is allowed.
        actions: ``[K, ...]`` candidates in environment units (for Discrete spaces: all of them by default).
        bins: for Box spaces, instead of ``actions``: number of evenly spaced values per dimension, bounds
            included (one number, or one per dimension); the candidates are their grid, the last dimension
            varying fastest.
        kind: ``"probability"`` or ``"return"``, as in ``RecoveryFilter``.

    Attributes:
        candidates: ``[K, ...]`` environment actions, in the order of the discrete ones.

    Raises:
        TypeError: if ``risk`` cannot be called, or the action space is neither Discrete nor Box.
        ValueError: if ``eps_risk``, ``actions`` or ``bins`` do not fit the action space.
        gymnasium.error.ResetNeeded: if ``action_masks`` is called before ``reset``.

    Example:
        >>> import gymnasium as gym
        >>> from safe_wrappers import ActionMask
        >>> def risk(obs, action):  # large torques are dangerous
        ...     return abs(action[:, 0]) / 4
        >>> env = ActionMask(gym.make("Pendulum-v1"), risk, eps_risk=0.3, bins=5)
        >>> env.candidates[:, 0].tolist()
        [-2.0, -1.0, 0.0, 1.0, 2.0]
        >>> _ = env.reset(seed=0)
        >>> env.action_masks().tolist()
        [False, True, True, True, False]
    """

    def __init__(
        self,
        env: gym.Env,
        risk: RiskFunction,
        eps_risk: float,
        actions: ArrayLike | None = None,
        bins: int | Sequence[int] | None = None,
        kind: RiskKind = "probability",
    ) -> None:
        self.risk: RiskFunction = check_callable("risk", risk)
        self.eps_risk = check_eps_risk(eps_risk, kind)
        self.kind = kind
        self.candidates = _candidates(env.action_space, actions, bins)
        self._observation: Any = None
        RecordConstructorArgs.__init__(
            self, risk=ByReference(risk), eps_risk=eps_risk, actions=actions, bins=bins, kind=kind
        )
        gym.Wrapper.__init__(self, env)
        self.action_space = spaces.Discrete(len(self.candidates))

    def action_masks(self) -> NDArray[np.bool_]:
        """``[K]`` bool, which actions are allowed now; at least one is."""
        if self._observation is None:
            raise gym.error.ResetNeeded("call reset() before action_masks(): the mask needs an observation")
        observations = take_rows(self._observation, np.zeros(len(self.candidates), dtype=int))
        return allowed_actions(predict_risk(self.risk, observations, self.candidates), self.eps_risk)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and remember the observation for the mask."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._observation = batch_of_one(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Execute candidate number ``action``."""
        if not self.action_space.contains(action):
            raise ValueError(f"expected an action in {self.action_space}, got {action!r}")
        observation, reward, terminated, truncated, info = self.env.step(self.candidates[action].copy())
        self._observation = batch_of_one(observation)
        return observation, reward, terminated, truncated, info


def _candidates(space: spaces.Space[Any], actions: ArrayLike | None, bins: int | Sequence[int] | None) -> NDArray[Any]:
    if not isinstance(space, spaces.Discrete | spaces.Box):
        raise TypeError(f"ActionMask needs a Discrete or Box action space, got {space}")
    if actions is not None and bins is not None:
        raise ValueError("pass either actions or bins, got both")
    if isinstance(space, spaces.Discrete):
        if bins is not None:
            raise ValueError(f"bins={bins} needs a Box action space, got {space}; its actions are discrete already")
        actions = np.arange(space.start, space.start + space.n) if actions is None else actions
    elif actions is None:
        actions = _grid(space, bins)
    given, candidates = np.asarray(actions), np.asarray(actions, dtype=space.dtype)
    if isinstance(space, spaces.Discrete) and not np.array_equal(given, candidates):
        raise ValueError(f"actions must be integers in {space}, got {actions!r}")
    return _check_candidates(space, candidates)


def _grid(space: spaces.Box, bins: int | Sequence[int] | None) -> NDArray[Any]:
    if bins is None:
        raise ValueError(f"pass candidate actions [K, ...] or bins per dimension: {space} is continuous")
    if not space.is_bounded():
        raise ValueError(f"bins need a bounded Box, got {space}; pass candidate actions instead")
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    counts = np.asarray(bins)
    if counts.dtype.kind not in "iu" or counts.shape not in ((), low.shape) or (counts < 2).any():
        raise ValueError(f"bins must be one integer >= 2, or {low.size} of them, got {bins}")
    axes = [np.linspace(*axis) for axis in zip(low, high, np.broadcast_to(counts, low.shape), strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, *space.shape)


def _check_candidates(space: spaces.Space[Any], candidates: NDArray[Any]) -> NDArray[Any]:
    if candidates.ndim == 0 or candidates.shape[1:] != space.shape or len(candidates) == 0:
        raise ValueError(f"actions must be [K, ...] actions of {space}, got shape {candidates.shape}")
    for candidate in candidates:
        if not space.contains(candidate):
            raise ValueError(f"candidate action {candidate} is outside the action space {space}")
    return candidates


class Policy(Protocol):
    """What ``sample_safely`` needs of a model: SB3's ``predict``, on a batch of observations."""

    def predict(self, observation: Any, *, deterministic: bool) -> tuple[Any, Any]:
        """Actions ``[B, ...]`` for observations ``[B, ...]``, and a state that is ignored."""


class SafeSample(NamedTuple):
    """An action chosen by ``sample_safely``.

    Attributes:
        action: one action, in environment units.
        accepted: whether its risk is at most ``eps_risk``; otherwise it is the least risky of the samples.
        risk: its predicted risk.
    """

    action: Any
    accepted: bool
    risk: float


def sample_safely(
    model: Policy,
    observation: Any,
    risk: RiskFunction,
    eps_risk: float,
    n: int = 100,
    rng: np.random.Generator | None = None,
    kind: RiskKind = "probability",
) -> SafeSample:
    """Sample an action of a stochastic policy, given that it is safe (rejection sampling; SQRL, eq. 3).

    Args:
        model: any SB3-like model; ``predict(obs[n, ...], deterministic=False)`` must sample each row
            independently.
        observation: one observation (an array, or a dictionary of arrays).
        risk: ``risk(obs[n, ...], action[n, ...]) -> [n]``, any callable on NumPy arrays in environment units.
        eps_risk: highest risk that is accepted.
        n: number of samples.
        rng: chooses uniformly among the accepted samples; a fresh generator by default. The samples
            themselves come from the model's generator.
        kind: ``"probability"`` or ``"return"``, as in ``RecoveryFilter``.

    Returns:
        An accepted sample, or the least risky one with ``accepted=False``.

    Raises:
        ValueError: if ``n`` or ``eps_risk`` is out of range, a risk is not finite, or the model does not
            return ``n`` actions.

    Example:
        >>> import numpy as np
        >>> from safe_wrappers import sample_safely
        >>> class Uniform:
        ...     rng = np.random.default_rng(0)
        ...     def predict(self, observation, deterministic=False):
        ...         return self.rng.uniform(-1, 1, size=(len(observation), 1)), None
        >>> sample = sample_safely(Uniform(), np.zeros(3), lambda obs, act: abs(act[:, 0]), eps_risk=0.2)
        >>> sample.accepted, bool(abs(sample.action[0]) <= 0.2)
        (True, True)
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    eps_risk = check_eps_risk(eps_risk, kind)
    observations = take_rows(batch_of_one(observation), np.zeros(n, dtype=int))
    actions = np.asarray(model.predict(observations, deterministic=False)[0])
    if actions.shape[:1] != (n,):
        raise ValueError(f"expected {n} actions of model.predict for {n} observations, got shape {actions.shape}")
    risks = predict_risk(risk, observations, actions)
    rng = np.random.default_rng() if rng is None else rng
    chosen = rng.choice(np.flatnonzero(allowed_actions(risks, eps_risk)))
    return SafeSample(actions[chosen], bool(risks[chosen] <= eps_risk), float(risks[chosen]))
