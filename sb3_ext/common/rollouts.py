"""Episodes of a deployed policy, stored with their costs."""

from __future__ import annotations

from dataclasses import dataclass
from operator import setitem
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from safe_wrappers.info import EXECUTED_ACTION, read_violation
from safe_wrappers.observations import map_entries
from sb3_ext.common.buffers import CostStorage, scale_action
from sb3_ext.common.vec_envs import episode_limit

PATIENCE = 10_000
"""Steps of every environment in which one without a time limit must end an episode."""


@dataclass(frozen=True)
class RolloutCounts:
    """What a collection cost."""

    steps: int
    violations: int


def collect_episodes(model: Any, env: VecEnv, buffer: CostStorage, n_episodes: int) -> RolloutCounts:
    """Roll out ``model.predict`` (stochastic, filter included) and store raw transitions in ``buffer``.

    Args:
        model: an SB3 model.
        env: where to act; with ``VecNormalize`` the raw observations are stored. Episodes must end.
        buffer: made for ``env.num_envs`` environments.
        n_episodes: episodes to finish, over all environments.

    Raises:
        ValueError: if the environments have no time limit, and no episode has ended within 10,000 steps.
    """
    endless = episode_limit(env) is None
    normalizer = unwrap_vec_normalize(env)
    obs = env.reset()
    raw, steps, violations, finished = _raw(obs, normalizer), 0, 0, 0
    while finished < n_episodes:
        action, _ = model.predict(obs, deterministic=False)
        obs, rewards, dones, infos = env.step(action)
        new_raw = _raw(obs, normalizer)
        for info, executed in zip(infos, action, strict=True):
            info.setdefault(EXECUTED_ACTION, executed)
        buffer.add(
            raw,
            _with_terminal(new_raw, dones, infos, normalizer),
            scale_action(action, env.action_space),
            rewards if normalizer is None else normalizer.get_original_reward(),
            dones,
            infos,
        )
        raw, steps, finished = new_raw, steps + env.num_envs, finished + int(dones.sum())
        violations += sum(read_violation(info, buffer.missing_cost) for info in infos)
        if endless and not finished and steps >= PATIENCE * env.num_envs:
            raise ValueError(
                f"no episode has ended within {PATIENCE} steps, so that whole ones cannot be collected: wrap the "
                "environment in gymnasium.wrappers.TimeLimit"
            )
    return RolloutCounts(steps, violations)


def _raw(obs: Any, normalizer: VecNormalize | None) -> Any:
    return obs if normalizer is None else normalizer.get_original_obs()


def _with_terminal(obs: Any, dones: Any, infos: list[dict[str, Any]], normalizer: VecNormalize | None) -> Any:
    """``obs`` with the last observations of finished episodes instead of the first ones of the next."""
    if not dones.any():
        return obs
    obs = map_entries(np.array, obs)
    for i in np.flatnonzero(dones):
        last = infos[i]["terminal_observation"]
        last = last if normalizer is None else normalizer.unnormalize_obs(last)
        map_entries(lambda rows, row, i=i: setitem(rows, i, row), obs, last)
    return obs
