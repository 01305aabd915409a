"""Safety-Gymnasium 1.0.0 on today's Python, Gymnasium and MuJoCo, as environments with ``info["cost"]``.

Importing this package loads Safety-Gymnasium and registers its environments with Gymnasium; where it is not installed,
or in another version, the import raises ``gymnasium.error.DependencyNotInstalled`` with the commands that install it.

Example:
    >>> import gymnasium as gym
    >>> from safe_wrappers import safety_gym
    >>> env = safety_gym.make("SafetyPointGoal1-v0")  # or gym.make("SafetyPointGoal1Gymnasium-v0")
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    >>> info
    {'cost_hazards': 0.0, 'cost': 0.0, 'constraint_violation': False}
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import gymnasium as gym
from gymnasium.error import NameNotFound

from safe_wrappers.safety_gym.installation import INSTALL
from safe_wrappers.safety_gym.loading import gymnasium_id, load

__all__ = ["INSTALL", "env_ids", "load", "make", "make_vec"]


def env_ids() -> tuple[str, ...]:
    """Every ID that ``make`` knows, sorted."""
    registry = load().utils.registration.safe_registry
    return tuple(sorted(env_id for env_id in registry if gymnasium_id(env_id) in gym.registry))


def make(env_id: str, **kwargs: Any) -> gym.Env:
    """Make a Safety-Gymnasium environment whose steps are five-tuples with ``info["cost"]``.

    Args:
        env_id: Safety-Gymnasium's ID, for example ``"SafetyPointGoal1-v0"``.
        **kwargs: ``render_mode``, ``camera_name``, ``width``, ``height``; ``max_episode_steps`` and the other
            arguments of ``gymnasium.make``; ``fast=False`` for Safety-Gymnasium's own, slower task code.

    Raises:
        gymnasium.error.NameNotFound: with the nearest names, if there is no such environment.
        FileNotFoundError: for the Race tasks, which Safety-Gymnasium was released without a texture of.

    Example:
        >>> from safe_wrappers import safety_gym
        >>> env = safety_gym.make("SafetyHalfCheetahVelocity-v1", max_episode_steps=200)
        >>> _ = env.reset(seed=0)
        >>> env.step(env.action_space.sample())[-1]["cost"]
        0.0
    """
    return gym.make(_registered(env_id), **kwargs)


def make_vec(env_id: str, num_envs: int = 1, **kwargs: Any) -> gym.vector.VectorEnv:
    """Several copies of an environment in one: ``gymnasium.make_vec`` with Safety-Gymnasium's ID.

    Args:
        env_id: Safety-Gymnasium's ID.
        num_envs: number of copies.
        **kwargs: arguments of ``gymnasium.make_vec`` (``vectorization_mode="async"`` for processes) and ``make``.

    Raises:
        gymnasium.error.NameNotFound: with the nearest names, if there is no such environment.

    Example:
        >>> from safe_wrappers import safety_gym
        >>> envs = safety_gym.make_vec("SafetyPointCircle1-v0", num_envs=3)
        >>> _ = envs.reset(seed=0)
        >>> envs.step(envs.action_space.sample())[-1]["cost"]
        array([0., 0., 0.])
    """
    return gym.make_vec(_registered(env_id), num_envs=num_envs, **kwargs)


def _registered(env_id: str) -> str:
    known = env_ids()
    if env_id in known:
        return gymnasium_id(env_id)
    if env_id in map(gymnasium_id, known):
        return env_id
    nearest = ", ".join(get_close_matches(env_id, known, n=3)) or "see safety_gym.env_ids()"
    raise NameNotFound(f"Safety-Gymnasium has no environment {env_id!r}; nearest: {nearest}")


load()
