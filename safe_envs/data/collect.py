"""Offline constraint data from scripted random rollouts; also ``python -m safe_envs.data.collect``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np

from safe_envs.core.batched import BatchedTask, TaskEnv
from safe_envs.core.geometry import FloatArray
from safe_envs.data.scripted import COLLECTORS, ROLLOUT_LENGTH, RolloutGroup
from safe_wrappers.transitions import Transitions


def collect_constraint_data(env_id: str, n_transitions: int = 10_000, seed: int = 0, **env_kwargs: Any) -> Transitions:
    """Record scripted random rollouts of at most 10 steps, each stopped at its first violation.

    The number of transitions only comes near the requested one: for Navigation it follows the released code
    of Recovery RL, where 20,000 give about 14,500 (Navigation 1) and 19,900 (Navigation 2).

    Args:
        env_id: one of the IDs in ``safe_envs.data.scripted.COLLECTORS``, with or without ``safe_envs:`` before it.
        n_transitions: how many transitions to ask for, >= 1.
        seed: of all draws.
        **env_kwargs: arguments of the environment, e.g. ``B=...`` to record in the very instance that is used
            later.

    Returns:
        Transitions with costs and terminals 1 exactly at violations; rows of one rollout follow one another.

    Raises:
        ValueError: if there is no collector for the ID, ``n_transitions`` is not positive, or
            ``terminate_on_violation=False`` is asked for.
    """
    env_id = env_id.removeprefix("safe_envs:")
    if env_id not in COLLECTORS:
        raise ValueError(f"env_id must be one of {sorted(COLLECTORS)} (those with a scripted policy), got {env_id!r}")
    if n_transitions < 1:
        raise ValueError(f"n_transitions must be >= 1, got {n_transitions}")
    if not env_kwargs.get("terminate_on_violation", True):
        raise ValueError(
            "rollouts stop at their first violation: collect_rollouts goes on with terminate_on_violation=False"
        )
    env = gym.make(f"safe_envs:{env_id}", disable_env_checker=True, **env_kwargs)
    task = cast(TaskEnv, env.unwrapped).task
    rng = np.random.default_rng(seed)
    parts = []
    for group in COLLECTORS[env_id]:
        n_rollouts = max(1, n_transitions // group.requested_per_rollout)
        states = task.states_at(group.sample_starts(rng, n_rollouts, task.scene))
        parts.append(_roll_out(task, group, rng, states))
    return Transitions.concatenate(parts).with_env_id(env_id)


def _roll_out(task: BatchedTask, group: RolloutGroup, rng: np.random.Generator, states: FloatArray) -> Transitions:
    rollouts = np.arange(len(states))
    parts, owners = [], []
    for _ in range(ROLLOUT_LENGTH):
        actions = group.sample_actions(rng, len(states))
        next_states = task.simulate(rng, states, actions)
        violations = task.total_costs(task.cost_terms(next_states)) > 0.0
        parts.append(
            Transitions(
                task.observe(states), actions.astype(np.float32), task.observe(next_states),
                violations.astype(np.float32), violations, violations,
            )
        )  # fmt: skip
        owners.append(rollouts)
        states, rollouts = next_states[~violations], rollouts[~violations]
    # Stable, so that the steps of a rollout stay in their order.
    return Transitions.concatenate(parts).rows(np.argsort(np.concatenate(owners), kind="stable"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect, print the counts, and store the data set where asked."""
    parser = argparse.ArgumentParser(prog="python -m safe_envs.data.collect", description=main.__doc__)
    parser.add_argument("env_id", choices=sorted(COLLECTORS))
    parser.add_argument("--transitions", type=int, default=10_000, help="how many transitions to ask for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minari", metavar="ID", help="store as this Minari data set, e.g. safe/navigation1/constraint-v0"
    )
    options = parser.parse_args(arguments)
    try:
        data = collect_constraint_data(options.env_id, options.transitions, options.seed)
    except ValueError as error:
        parser.error(str(error))
    print(f"{options.env_id}: {len(data)} transitions, {data.n_violations} violations (seed {options.seed})")
    if options.minari:
        from safe_envs.data.storage import to_minari

        try:
            to_minari(data, options.minari)
        except ValueError as error:
            parser.error(str(error))
        print(f"stored as Minari data set {options.minari}")


if __name__ == "__main__":
    main()
