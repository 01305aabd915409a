"""Adapters between ``info["cost"]`` and steps of six values, the cost after the reward."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from safe_wrappers.cost import CostWriter, Step
from safe_wrappers.info import VIOLATION, check_missing_cost, read_cost

SixTuple = tuple[Any, SupportsFloat, float, bool, bool, dict[str, Any]]


class _Borrowed(gym.Env):
    """Any object that steps, seen as a ``gymnasium.Env`` (its steps keep their six values)."""

    def __init__(self, source: Any) -> None:
        for name in ("step", "reset", "observation_space", "action_space"):
            if not hasattr(source, name):
                raise TypeError(f"expected an environment, got {type(source).__name__}, which has no {name!r}")
        self.source = source
        self.observation_space = source.observation_space
        self.action_space = source.action_space
        self.metadata = getattr(source, "metadata", {"render_modes": []})
        self.render_mode = getattr(source, "render_mode", None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        observation, info = self.source.reset(seed=seed, options=options)
        return observation, info

    def step(self, action: Any) -> Any:
        return self.source.step(action)

    def render(self) -> Any:
        return self.source.render()

    def close(self) -> None:
        if hasattr(self.source, "close"):
            self.source.close()


class FromSixTuple(CostWriter, RecordConstructorArgs):
    """Makes a Gymnasium environment of one whose ``step`` returns six values; the cost moves into ``info``.

    Args:
        env: a ``gymnasium.Env`` (Safety-Gymnasium's are), or any object with ``step``,
            ``reset(seed, options)``, ``observation_space`` and ``action_space``.

    Raises:
        TypeError: if ``env`` lacks one of these.
        ValueError: in ``step``, if it does not return six values, or the cost is negative or not finite.

    Warns:
        UserWarning: once, if ``info`` already has a different cost.

    Example:
        >>> import gymnasium as gym
        >>> from safe_wrappers import FromSixTuple
        >>> class Foreign(gym.Wrapper):
        ...     def step(self, action):
        ...         obs, reward, terminated, truncated, info = self.env.step(action)
        ...         return obs, reward, 0.25, terminated, truncated, info
        >>> env = FromSixTuple(Foreign(gym.make("Pendulum-v1")))
        >>> _ = env.reset(seed=0)
        >>> obs, reward, terminated, truncated, info = env.step([0.0])
        >>> info["cost"]
        0.25
    """

    def __init__(self, env: Any) -> None:
        source = env if isinstance(env, gym.Env) else _Borrowed(env)
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, source)

    def step(self, action: Any) -> Step:
        """Step the environment and write its third value into ``info``."""
        values: Any = self.env.step(action)
        if len(values) != 6:
            raise ValueError(
                f"expected step() to return 6 values (obs, reward, cost, terminated, truncated, info), got "
                f"{len(values)}; leave FromSixTuple out if the environment keeps its cost in info"
            )
        observation, reward, cost, terminated, truncated, info = values
        flag = bool(info[VIOLATION]) if VIOLATION in info else None  # the cost is the environment's, so is the flag
        return observation, reward, terminated, truncated, self._with_cost(info, cost, flag)


class ToSixTuple(gym.Wrapper, RecordConstructorArgs):
    """Hands the cost out as the third of six values, for code that expects Safety-Gymnasium's steps.

    The result is no longer a Gymnasium environment in the strict sense, so this is the outermost wrapper.

    Args:
        env: environment whose steps carry ``info["cost"]``.
        missing_cost: ``"raise"``, or ``"zero"`` to count a step without a cost as safe.

    Raises:
        ValueError: if ``missing_cost`` is neither; in ``step``, if a cost is negative or not finite.
        MissingCostError: in ``step``, if the step has no cost and ``missing_cost="raise"``.

    Example:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction, ToSixTuple
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), lambda obs, action, next_obs, info: 0.5)
        >>> env = ToSixTuple(env)
        >>> _ = env.reset(seed=0)
        >>> obs, reward, cost, terminated, truncated, info = env.step([0.0])
        >>> cost
        0.5
    """

    def __init__(self, env: gym.Env, missing_cost: str = "raise") -> None:
        check_missing_cost(missing_cost)
        RecordConstructorArgs.__init__(self, missing_cost=missing_cost)
        gym.Wrapper.__init__(self, env)
        self.missing_cost = missing_cost

    def step(self, action: Any) -> SixTuple:  # type: ignore[override]  # the point of this wrapper
        """Step the environment: ``(obs, reward, cost, terminated, truncated, info)``."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        cost = read_cost(info, self.missing_cost)
        return observation, reward, cost, terminated, truncated, info
