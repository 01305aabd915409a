"""Transitions of any policy in any environment that reports costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from safe_wrappers.actions import executed_action
from safe_wrappers.info import read_cost, read_violation
from safe_wrappers.observations import map_entries
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


def random_network(
    env: gym.Env[Any, Any], rng: np.random.Generator, hidden: Sequence[int] = (256, 256), gain: float = 2.0
) -> Policy:
    """A deterministic policy of random weights, as an actor has before it is trained.

    Uniform random actions cancel out where steps are short; those of a network last, and lead far.

    Args:
        env: with observations and bounded actions in one array each.
        rng: where the weights come from.
        hidden: sizes of the hidden layers, with ReLU; the output goes through tanh.
        gain: of Glorot's uniform distribution. With 1 most actions are small; 2 drives many of them to their limits.

    Raises:
        ValueError: for other spaces.
    """
    box = env.action_space
    if not (isinstance(box, spaces.Box) and box.is_bounded() and isinstance(env.observation_space, spaces.Box)):
        raise ValueError(f"random_network needs bounded Boxes, got {env.observation_space} and {box}")
    sizes = [int(np.prod(env.observation_space.shape)), *hidden, int(np.prod(box.shape))]
    weights = [rng.uniform(-1.0, 1.0, pair) * gain * np.sqrt(6.0 / sum(pair)) for pair in pairwise(sizes)]
    middle, half = (box.high + box.low) / 2, (box.high - box.low) / 2

    def act(observation: Any) -> Any:
        signal = np.ravel(observation)
        for layer in weights[:-1]:
            signal = np.maximum(signal @ layer, 0.0)
        return (middle + half * np.tanh(signal @ weights[-1]).reshape(box.shape)).astype(box.dtype)

    return act


def collect_rollouts(
    env: gym.Env[Any, Any], n_transitions: int, policy: Any = None, episode_length: int | None = None,
    seed: int = 0, *, each_episode: Callable[[], Policy] | None = None, missing_cost: str = "raise",
) -> Transitions:  # fmt: skip
    """Record what a policy does.

    Where the data are to show what comes after a violation (MESA, appendix B.1), make the environment so that
    violations do not end its episodes (``terminate_on_violation=False``).

    Args:
        env: one environment (no VecEnv) with costs in its infos; it is not closed.
        n_transitions: how many, >= 1; the last episode is cut there.
        policy: ``policy(observation) -> action`` of one observation, or an SB3 model without memory, whose actions are
            sampled (its ``VecNormalize``, if it has one, normalises what it sees; recorded are raw observations); None:
            uniform random actions. Recorded are the executed actions: those of a filter, or clipped to their Box.
        episode_length: start anew after so many steps; None: where the environment's episodes end.
        seed: of the environment and the random actions.
        each_episode: gives every episode a policy of its own, instead of ``policy``.
        missing_cost: what a step without cost means: ``"raise"`` or ``"zero"``.

    Raises:
        TypeError: if ``env`` is a vector of environments.
        ValueError: if a number is below 1, both kinds of policies are given, a model has a memory, or executed actions
            are in other units than the policy's.
        safe_wrappers.MissingCostError: if a step reports no cost, unless that means zero.

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
    if hasattr(env, "num_envs"):
        raise TypeError(f"collect_rollouts needs one environment, got {type(env).__name__}: pass one of its members")
    of_env, of_actions = np.random.SeedSequence(seed).generate_state(2).tolist()  # or both would draw the same numbers
    env.action_space.seed(of_actions)
    if policy is not None and each_episode is not None:
        raise ValueError("pass policy or each_episode, not both")
    policy = _as_function(policy) or (lambda observation: env.action_space.sample())
    act: Policy = each_episode() if each_episode else policy
    observation, _ = env.reset(seed=of_env)
    steps: list[_Step] = []
    since_reset = 0
    while len(steps) < n_transitions:
        seen = map_entries(np.array, observation)  # some environments write into the array that they gave
        action = act(observation)
        following, _, terminated, truncated, info = env.step(action)
        steps.append(
            _Step(seen, np.array(executed_action(info, action, env.action_space)), map_entries(np.array, following),
                  read_cost(info, missing_cost), read_violation(info, missing_cost), terminated)
        )  # fmt: skip
        since_reset += 1
        if terminated or truncated or since_reset == episode_length:
            following, _ = env.reset()
            since_reset, act = 0, each_episode() if each_episode else policy
        observation = following
    columns = {name: map_entries(_stacked, *(getattr(step, name) for step in steps)) for name in _Step._fields}
    return Transitions(**columns, env_id=None if env.spec is None else env.spec.id)


def _stacked(*entries: Any) -> Any:
    return np.asarray(entries)


def _as_function(policy: Any) -> Policy | None:
    """A policy that may be an SB3 model, as a function."""
    predict = getattr(policy, "predict", None)
    if predict is None:
        return policy
    normalizer = policy.get_vec_normalize_env() if hasattr(policy, "get_vec_normalize_env") else None

    def act(observation: Any) -> Any:
        action, state = predict(observation if normalizer is None else normalizer.normalize_obs(observation))
        if state is not None:
            raise ValueError(f"{type(policy).__name__} has a memory: pass each_episode, a function that remembers")
        return action

    return act
