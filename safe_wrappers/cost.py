"""Wrappers that give an environment a cost, and wrappers that act on it."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from safe_wrappers.info import (
    COST,
    COST_TERM_PREFIX,
    UNPENALISED_REWARD,
    VIOLATION,
    MissingCostError,
    check_cost,
    check_missing_cost,
    read_cost,
    read_violation,
)
from safe_wrappers.risk import ByReference

Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]
CostFunction = Callable[..., float | Mapping[str, float]]
ViolationFunction = Callable[..., bool]
OUTCOME = ("reward", "terminated", "truncated")
"""What a function of the transition gets by keyword, if it names it."""


class CostWriter(gym.Wrapper):
    """Base of the wrappers that write ``info["cost"]``: checks it, warns once when it replaces another."""

    _warned = False

    def _with_cost(self, info: dict[str, Any], cost: Any, violation: bool | None = None) -> dict[str, Any]:
        """``info`` with the cost, and a violation flag: the given one, else cost > 0.

        The environment's own flag stays where it comes without a cost; with one, it is about what is replaced here.
        """
        terms = (
            {COST_TERM_PREFIX + name: check_cost(term, name) for name, term in cost.items()}
            if isinstance(cost, Mapping)
            else {}
        )
        value = sum(terms.values()) if terms else check_cost(cost)
        if not self._warned and COST in info and info[COST] != value:
            self._warned = True
            flag = "" if violation is not None else f", and info['{VIOLATION}'] by {COST} > 0"
            warnings.warn(
                f"{type(self).__name__} replaces info['{COST}'] = {info[COST]} by {value}{flag}; "
                "leave the wrapper out to keep the environment's own cost",
                UserWarning,
                stacklevel=3,
            )
        if violation is None:
            violation = bool(info[VIOLATION]) if VIOLATION in info and COST not in info else value > 0.0
        return {**info, **terms, COST: value, VIOLATION: violation}


class CostFromFunction(CostWriter, RecordConstructorArgs):
    """Computes ``info["cost"]`` with a function of the transition.

    Args:
        env: any environment.
        cost_fn: ``cost_fn(obs, action, next_obs, info) -> float``, finite and >= 0, 0.0 when safe. It may name any of
            ``reward``, ``terminated`` and ``truncated`` as further arguments, and may return a dictionary of terms:
            they are written as ``info["cost_<term>"]``, which limits can name, and their sum is the cost.
        violation_fn: the same arguments ``-> bool``, for ``info["constraint_violation"]``. Without it a cost above
            0 is a violation, unless the environment reports violations and no costs: its flag stays. To grade a cost
            and keep the flag, return ``info["constraint_violation"]``.

    Raises:
        TypeError: if a function cannot be called.
        ValueError: in ``step``, if the cost is negative or not finite.
        gymnasium.error.ResetNeeded: if ``step`` is called before ``reset``.

    Example:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction
        >>> def too_fast(obs, action, next_obs, info):
        ...     return float(abs(next_obs[2]) > 0.5)
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), too_fast)
        >>> obs, _ = env.reset(seed=1)
        >>> *_, info = env.step([2.0])
        >>> info["cost"], info["constraint_violation"]
        (1.0, True)
        >>> def fall(obs, action, next_obs, info, *, terminated):
        ...     return {"fall": float(terminated), "tilt": float(abs(next_obs[2]) > 0.1)}
        >>> env = CostFromFunction(gym.make("CartPole-v1"), fall)
        >>> _ = env.reset(seed=0)
        >>> info = next(info for *_, terminated, _, info in iter(lambda: env.step(1), None) if terminated)
        >>> info["cost_fall"], info["cost_tilt"], info["cost"]
        (1.0, 1.0, 2.0)
    """

    def __init__(self, env: gym.Env, cost_fn: CostFunction, violation_fn: ViolationFunction | None = None) -> None:
        for name, function in (("cost_fn", cost_fn), ("violation_fn", violation_fn)):
            if not callable(function) and (name, function) != ("violation_fn", None):
                raise TypeError(f"{name} must be a function (obs, action, next_obs, info), got {function!r}")
        cost, violation = ByReference(cost_fn), None if violation_fn is None else ByReference(violation_fn)
        RecordConstructorArgs.__init__(self, cost_fn=cost, violation_fn=violation)
        gym.Wrapper.__init__(self, env)
        self.cost_fn: CostFunction = cost.function
        self.violation_fn: ViolationFunction | None = None if violation is None else violation.function
        self._cost_asks, self._violation_asks = _asks_for(self.cost_fn), _asks_for(self.violation_fn)
        self._started = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and remember the first observation."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._started, self._observation = True, _snapshot(observation)
        return observation, info

    def step(self, action: Any) -> Step:
        """Step the environment and write the cost of the transition."""
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before step(): the cost needs the observation before it")
        observation, reward, terminated, truncated, info = self.env.step(action)
        transition = (self._observation, action, observation, info)
        outcome = {"reward": reward, "terminated": terminated, "truncated": truncated}
        violation = None
        if self.violation_fn is not None:
            violation = bool(self.violation_fn(*transition, **{name: outcome[name] for name in self._violation_asks}))
        cost = self.cost_fn(*transition, **{name: outcome[name] for name in self._cost_asks})
        info = self._with_cost(info, cost, violation)
        self._observation = _snapshot(observation)
        return observation, reward, terminated, truncated, info


def _asks_for(function: Callable[..., Any] | None) -> tuple[str, ...]:
    """Which parts of the outcome a function names among its arguments."""
    try:
        parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):  # None, or some of C's
        return ()
    return tuple(name for name in OUTCOME if name in parameters)


def _snapshot(observation: Any) -> Any:
    # Some environments write each observation into the same array.
    return observation.copy() if isinstance(observation, np.ndarray) else copy.deepcopy(observation)


Key = str | tuple[str, ...]


class CostFromInfo(CostWriter, RecordConstructorArgs):
    """Copies ``info["cost"]`` from where another dialect keeps it; booleans become 1.0 and 0.0.

    ``info["constraint_violation"]`` is then whether that cost is above 0, unless the environment reports violations and
    no costs.

    Args:
        env: any environment.
        key: key in ``info``, or a tuple of keys where it is nested: ``"constraint"`` (Recovery RL's code),
            ``("constraint", "state")`` for ``info["constraint"]["state"]``. A dictionary of such keys by the names of
            terms writes ``info["cost_<term>"]`` too; the cost is their sum.
        missing_cost: what a step without that key means: ``"raise"``, or ``"zero"`` for safe.

    Raises:
        ValueError: if ``key`` is empty; in ``step``, if the value is negative or no finite number.
        MissingCostError: in ``step``, if the key is absent and ``missing_cost="raise"``.

    Example:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromInfo
        >>> class Nested(gym.Wrapper):
        ...     def step(self, action):
        ...         return *self.env.step(action)[:4], {"constraint": {"state": True}}
        >>> env = CostFromInfo(Nested(gym.make("Pendulum-v1")), ("constraint", "state"))
        >>> _ = env.reset(seed=0)
        >>> env.step([0.0])[-1]["cost"]
        1.0
    """

    def __init__(self, env: gym.Env, key: Key | Mapping[str, Key], missing_cost: str = "raise") -> None:
        if not key or (isinstance(key, Mapping) and not all(key.values())):
            raise ValueError(f"key must be a key of info, a tuple of keys, or a dictionary of these, got {key!r}")
        check_missing_cost(missing_cost)
        RecordConstructorArgs.__init__(self, key=key, missing_cost=missing_cost)
        gym.Wrapper.__init__(self, env)
        self.key = key
        self.missing_cost = missing_cost

    def step(self, action: Any) -> Step:
        """Step the environment and write the cost found under the key."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if isinstance(self.key, Mapping):
            info = self._with_cost(info, {term: self._find(info, key) for term, key in self.key.items()})
        else:
            info = self._with_cost(info, self._find(info, self.key))
        return observation, reward, terminated, truncated, info

    def _find(self, info: Mapping[str, Any], key: Key) -> Any:
        value: Any = info
        for part in (key,) if isinstance(key, str) else key:
            if not isinstance(value, Mapping) or part not in value:
                return self._missing(info, key)
            value = value[part]
        return value

    def _missing(self, info: Mapping[str, Any], key: Key) -> float:
        if self.missing_cost == "zero":
            return 0.0
        raise MissingCostError(
            f"info has no {key!r} (its keys: {sorted(info)}): name another key, "
            "or pass missing_cost='zero' if steps without it are safe"
        )


class CostPenalty(gym.Wrapper, RecordConstructorArgs):
    """Reward penalty: the agent receives ``reward - penalty * cost``.

    The simplest way to care about cost, and the comparison RP of Recovery RL (section 5.1). ``info["cost"]``
    stays; ``info["unpenalised_reward"]`` (constant ``UNPENALISED_REWARD``) keeps the environment's reward.

    Args:
        env: environment whose steps carry ``info["cost"]``.
        penalty: reward lost per unit of cost, finite and >= 0.
        missing_cost: ``"raise"``, or ``"zero"`` to count a step without a cost as safe.

    Raises:
        ValueError: if ``penalty`` is out of range; in ``step``, if a cost is negative or not finite.
        MissingCostError: in ``step``, if the step has no cost and ``missing_cost="raise"``.

    Example:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction, CostPenalty
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), lambda obs, action, next_obs, info: 2.0)
        >>> env = CostPenalty(env, penalty=10.0)
        >>> _ = env.reset(seed=0)
        >>> _, reward, *_, info = env.step([0.0])
        >>> round(info["unpenalised_reward"] - reward, 6)
        20.0
    """

    def __init__(self, env: gym.Env, penalty: float, missing_cost: str = "raise") -> None:
        if not (math.isfinite(penalty) and penalty >= 0.0):
            raise ValueError(f"penalty must be finite and >= 0, got {penalty}: it is subtracted from the reward")
        check_missing_cost(missing_cost)
        RecordConstructorArgs.__init__(self, penalty=penalty, missing_cost=missing_cost)
        gym.Wrapper.__init__(self, env)
        self.penalty = float(penalty)
        self.missing_cost = missing_cost

    def step(self, action: Any) -> Step:
        """Step the environment and lower the reward by the penalised cost."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        penalised = float(reward) - self.penalty * read_cost(info, self.missing_cost)
        # The innermost of several penalties saw the environment's own reward.
        info = {UNPENALISED_REWARD: float(reward), **info}
        return observation, penalised, terminated, truncated, info


class TerminateOnViolation(gym.Wrapper, RecordConstructorArgs):
    """Ends the episode (``terminated``) at the first violation.

    A violation is ``info["constraint_violation"]``, or a cost above 0 where that key is absent.

    Args:
        env: environment whose steps carry ``info["constraint_violation"]`` or ``info["cost"]``.
        missing_cost: ``"raise"``, or ``"zero"`` to count a step with neither as safe.

    Raises:
        ValueError: if ``missing_cost`` is neither; in ``step``, if a cost is negative or not finite.
        MissingCostError: in ``step``, if the step has neither and ``missing_cost="raise"``.

    Example:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction, TerminateOnViolation
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), lambda obs, action, next_obs, info: 1.0)
        >>> env = TerminateOnViolation(env)
        >>> _ = env.reset(seed=0)
        >>> _, _, terminated, truncated, _ = env.step([0.0])
        >>> terminated, truncated
        (True, False)
    """

    def __init__(self, env: gym.Env, missing_cost: str = "raise") -> None:
        check_missing_cost(missing_cost)
        RecordConstructorArgs.__init__(self, missing_cost=missing_cost)
        gym.Wrapper.__init__(self, env)
        self.missing_cost = missing_cost

    def step(self, action: Any) -> Step:
        """Step the environment; a violation terminates the episode."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        terminated = bool(terminated) or read_violation(info, self.missing_cost)
        return observation, reward, terminated, truncated, info
