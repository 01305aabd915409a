"""``RecoveryFilter``: a wrapper that replaces actions whose predicted risk is too high."""

from __future__ import annotations

import os
import pkgutil
import warnings
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from safe_wrappers.action_filter import ActionFilter, Decision
from safe_wrappers.info import RISK
from safe_wrappers.risk import (
    ByReference,
    RecoveryFunction,
    RiskFunction,
    RiskKind,
    check_callable,
    check_eps_risk,
    filter_actions,
)

FILTER_LOADER = "sb3_ext.common.export:load_filter"
"""Name of the function that reads filter files; resolved only when one is read, because it needs PyTorch."""


class RecoveryFilter(ActionFilter, RecordConstructorArgs):
    """Executes a recovery action wherever the proposed action is too risky (Recovery RL, eq. 4.1).

    Any agent, trained with or without costs, runs unchanged: it proposes, the filter decides. Each step's
    ``info`` gets ``proposed_action``, ``executed_action`` (environment units), ``intervened`` and ``risk``
    (the predicted risk of the proposed action). Reward critics learn from the proposed action, risk critics
    from the executed one (Recovery RL, section 4.1, "relabelling").

    Where filters are nested, ``proposed_action`` and ``risk`` are the outer filter's, ``executed_action`` is
    what the environment received, and ``intervened`` says whether any of them acted. Wrappers that change the meaning
    of actions (``RescaleAction``) belong inside of all filters; outside, the three are in other units than the
    agent's, which an agent that learns from executed actions refuses. Proposals beyond the bounds are clipped first.

    Args:
        env: environment to protect.
        risk: ``risk(obs[B, ...], action[B, ...]) -> [B]``, any callable on NumPy arrays in environment units
            (Dict observations: a dictionary of batched arrays). Called with ``B = 1``.
        recovery: ``recovery(obs[B, ...]) -> [B, ...]`` actions that lead away from danger.
        eps_risk: actions with a risk above this threshold are replaced.
        kind: what the risk is: ``"probability"`` of a violation (``eps_risk`` in [0, 1]), or ``"return"``, a
            discounted sum of costs (``eps_risk`` >= 0).

    Raises:
        TypeError: if ``risk`` or ``recovery`` cannot be called.
        ValueError: if ``eps_risk`` is out of range; in ``step``, if the proposed action has the wrong shape
            or is not finite, the risk is not finite, or the recovery action is outside the action space.
            The environment has not moved then.
        gymnasium.error.ResetNeeded: if ``step`` is called before ``reset``.

    Example:
        >>> import gymnasium as gym
        >>> import numpy as np
        >>> from safe_wrappers import RecoveryFilter
        >>> def risk(obs, action):  # the pendulum spins fast, and the torque would drive it on
        ...     return (obs[:, 2] * action[:, 0] > 1.0).astype(float)
        >>> def recovery(obs):
        ...     return np.clip(-obs[:, 2:], -2.0, 2.0)
        >>> env = RecoveryFilter(gym.make("Pendulum-v1"), risk, recovery, eps_risk=0.5)
        >>> obs, _ = env.reset(seed=1)
        >>> round(float(obs[2]), 2)
        0.9
        >>> *_, info = env.step(np.array([2.0], dtype=np.float32))
        >>> info["intervened"], info["proposed_action"], info["executed_action"].round(2)
        (True, array([2.], dtype=float32), array([-0.9], dtype=float32))
    """

    def __init__(
        self,
        env: gym.Env,
        risk: RiskFunction,
        recovery: RecoveryFunction,
        eps_risk: float,
        kind: RiskKind = "probability",
    ) -> None:
        self.risk: RiskFunction = check_callable("risk", risk)
        self.recovery: RecoveryFunction = check_callable("recovery", recovery)
        self.eps_risk = check_eps_risk(eps_risk, kind)
        self.kind = kind
        RecordConstructorArgs.__init__(
            self, risk=ByReference(risk), recovery=ByReference(recovery), eps_risk=eps_risk, kind=kind
        )
        gym.Wrapper.__init__(self, env)

    @classmethod
    def from_model(
        cls, env: gym.Env, model_or_path: Any | str | os.PathLike[str], eps_risk: float | None = None
    ) -> RecoveryFilter:
        """The filter of a trained model, or of a filter file that was exported from one.

        Args:
            env: environment to protect.
            model_or_path: an object with ``risk``, ``recovery`` and ``eps_risk`` (and, if it has them,
                ``kind``, ``observation_space``, ``action_space`` and ``env_id``), or with ``as_filter()`` that gives
                one (a trained ``sb3_ext.RecoveryRL``), or the path of a filter file.
            eps_risk: another threshold than the model's own.

        Raises:
            TypeError: if the object lacks one of the three.
            ValueError: if the model was made for other spaces than the environment's, or ``eps_risk`` is out
                of range.
            gymnasium.error.DependencyNotInstalled: if a file is to be read and PyTorch is missing.

        Example:
            >>> import gymnasium as gym
            >>> from types import SimpleNamespace
            >>> from safe_wrappers import RecoveryFilter
            >>> model = SimpleNamespace(
            ...     risk=lambda obs, action: abs(action[:, 0]) / 2,
            ...     recovery=lambda obs: 0 * obs[:, :1],
            ...     eps_risk=0.5,
            ... )
            >>> env = RecoveryFilter.from_model(gym.make("Pendulum-v1"), model)
            >>> _ = env.reset(seed=0)
            >>> env.step([1.5])[-1]["executed_action"]
            array([0.])
        """
        env_id = None if env.unwrapped.spec is None else env.unwrapped.spec.id
        model = resolve_filter(model_or_path, env.observation_space, env.action_space, env_id)
        eps_risk = model.eps_risk if eps_risk is None else eps_risk
        return cls(env, model.risk, model.recovery, eps_risk, getattr(model, "kind", "probability"))

    def _decide(self, proposed: NDArray[Any]) -> Decision:
        executed, intervened, risks = filter_actions(
            self.risk, self.recovery, self.eps_risk, self._observation, proposed, self.action_space
        )
        return executed, bool(intervened[0]), {RISK: float(risks[0])}


def resolve_filter(
    model_or_path: Any,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    env_id: str | None = None,
) -> Any:
    """What has ``risk``, ``recovery`` and ``eps_risk``, from a model or the path of a filter file.

    Warns if it was made for an environment of another ID; to be called by what the user calls.

    Raises:
        TypeError: if the object lacks one of the three.
        ValueError: if it was made for other spaces.
        gymnasium.error.DependencyNotInstalled: if a file is to be read and PyTorch is missing.
    """
    model = _load(model_or_path) if isinstance(model_or_path, str | os.PathLike) else model_or_path
    model = model.as_filter() if hasattr(model, "as_filter") else model
    missing = [name for name in ("risk", "recovery", "eps_risk") if not hasattr(model, name)]
    if missing:
        raise TypeError(f"expected a model with risk, recovery and eps_risk, got {model!r} without {missing}")
    _check_space("observation", getattr(model, "observation_space", None), observation_space)
    _check_space("action", getattr(model, "action_space", None), action_space)
    origin = getattr(model, "env_id", None)
    if None not in (origin, env_id) and origin != env_id:
        warnings.warn(
            f"the filter was made for {origin!r}, the environment is {env_id!r}: what is dangerous may differ; "
            "use a filter of this environment",
            stacklevel=3,
        )
    return model


def _check_space(name: str, found: spaces.Space[Any] | None, expected: spaces.Space[Any]) -> None:
    if found is not None and found != expected:
        raise ValueError(
            f"the model's {name} space {found} differs from the environment's {expected}; "
            "use the environment (and the wrappers) that the model was trained in"
        )


def _load(path: str | os.PathLike[str]) -> Any:
    try:
        load_filter = pkgutil.resolve_name(FILTER_LOADER)
    except ImportError as error:
        raise gym.error.DependencyNotInstalled(
            f"reading {os.fspath(path)!r} needs PyTorch and SB3 ({error}): pip install sb3-safe"
        ) from error
    return load_filter(path)
