"""Transitions of any policy in any environment that reports costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from safe_wrappers.info import EXECUTED_ACTION, read_cost, read_violation
from safe_wrappers.transitions import Transitions

Policy = Callable[[Any], Any]
"""``policy(observation) -> action``, environment units."""


class _Step(NamedTuple):
    # Named as the columns that they become.
    observations: Any
    actions: Any
    next_observations: Any
    costs: float
    violations: bool
    terminals: bool


def collect_rollouts(
    env: gym.Env[Any, Any], n_transitions: int, policy: Policy | None = None, episode_length: int | None = None,
    seed: int = 0,
) -> Transitions:  # fmt: skip
    """Record what a policy does.

    Where the data are to show what comes after a violation (MESA, appendix B.1), make the environment so that
    violations do not end its episodes (``terminate_on_violation=False``).

    Args:
        env: environment with costs in its infos and observations in one array; it is not closed.
        n_transitions: how many, >= 1; the last episode is cut there.
        policy: ``policy(observation) -> action``; None: uniform random actions.
        episode_length: start anew after so many steps; None: where the environment's episodes end.
        seed: of the environment and the random actions.

    Raises:
        ValueError: if a number is below 1, or observations are dicts.
        safe_wrappers.MissingCostError: if a step reports no cost.

    Example:
        >>> import safe_envs
        >>> env = gym.make("safe/Navigation1-v0", terminate_on_violation=False)
        >>> data = collect_rollouts(env, 200, episode_length=10)
        >>> len(data), data.observations.shape
        (200, (200, 2))
    """
    for name, value in (("n_transitions", n_transitions), ("episode_length", episode_length)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if isinstance(env.observation_space, spaces.Dict):
        raise ValueError(f"collect_rollouts records observations in one array, got {env.observation_space}")
    of_env, of_actions = np.random.SeedSequence(seed).generate_state(2).tolist()  # or both would draw the same numbers
    env.action_space.seed(of_actions)
    act: Policy = policy or (lambda observation: env.action_space.sample())
    observation, _ = env.reset(seed=of_env)
    steps: list[_Step] = []
    since_reset = 0
    while len(steps) < n_transitions:
        seen = np.array(observation)  # some environments write into the array that they gave
        action = act(observation)
        following, _, terminated, truncated, info = env.step(action)
        executed = info.get(EXECUTED_ACTION, action)
        steps.append(
            _Step(seen, np.array(executed), np.array(following), read_cost(info), read_violation(info), terminated)
        )
        since_reset += 1
        if terminated or truncated or since_reset == episode_length:
            following, _ = env.reset()
            since_reset = 0
        observation = following
    columns = {name: np.asarray([getattr(step, name) for step in steps]) for name in _Step._fields}
    return Transitions(**columns, env_id=None if env.spec is None else env.spec.id)
