"""Callbacks: costs in the logs of any SB3 algorithm, and the best model among the safe ones."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization, unwrap_vec_normalize

from safe_wrappers.monitor import EpisodeCosts
from sb3_ext.common.evaluation import SafetyEvaluation, evaluate_safely, shares_environments
from sb3_ext.common.files import atomic_path


class CostLoggingCallback(BaseCallback):
    """Logs ``rollout/ep_cost_mean`` and ``safety/violating_episodes`` for plain PPO, SAC, TD3 and so on.

    Args:
        missing_cost: what a step without cost means: ``"raise"`` or ``"zero"``.
        window: episodes that the mean is taken over.

    Attributes:
        n_episodes: finished episodes.
        n_violating_episodes: those with a violation.
        episode_costs: costs of the last ``window`` episodes.

    Examples:
        >>> from stable_baselines3 import PPO
        >>> costs = CostLoggingCallback()
        >>> _ = PPO("MlpPolicy", "safe_envs:safe/Navigation2-v0", n_steps=256, seed=0).learn(256, callback=costs)
        >>> costs.n_episodes
        2
    """

    def __init__(self, missing_cost: str = "raise", window: int = 100) -> None:
        super().__init__()
        self.missing_cost = missing_cost
        self.episode_costs: deque[float] = deque(maxlen=window)
        self.n_episodes = self.n_violating_episodes = 0

        self._left: Any = None

    def _on_training_start(self) -> None:
        # SB3 has reset by now, if it does: an observation that is still the same object means the same episodes.
        if self.model._last_obs is not self._left:
            self._costs = EpisodeCosts(self.training_env.num_envs, missing_cost=self.missing_cost)

    def _on_training_end(self) -> None:
        self._left = self.model._last_obs

    def _on_step(self) -> bool:
        for episode in self._costs.add(self.locals["infos"], self.locals["dones"]):
            self.episode_costs.append(episode["cost"])
            self.n_episodes += 1
            self.n_violating_episodes += int(episode["violations"] > 0)
            self.logger.record("rollout/ep_cost_mean", float(np.mean(self.episode_costs)))
            self.logger.record("safety/violating_episodes", self.n_violating_episodes)
        return True


class SafeEvalCallback(BaseCallback):
    """Evaluates now and then, and keeps the model with the highest return among those that meet the limit.

    SB3's ``EvalCallback`` keeps the highest return, which in a task with a constraint is the unsafe model. While no
    model has met the limit, the one with the least cost is kept.

    Args:
        eval_env: an environment or a VecEnv of its own; in the training environment it would end the episodes that
            the model learns from.
        cost_limit: highest mean undiscounted episode cost that counts as safe.
        best_model_save_path: folder for ``best_model.zip``; None: do not save.
        n_eval_episodes: episodes per evaluation.
        eval_freq: calls (steps of the VecEnv) between evaluations.
        deterministic: evaluate the policy's mode, or samples.
        missing_cost: what a step without cost means.

    Attributes:
        best: evaluation of the model that is kept, or None.
        history: pairs (timesteps, evaluation).

    Examples:
        >>> import gymnasium as gym
        >>> from sb3_ext import SafeSAC
        >>> keep = SafeEvalCallback(gym.make("safe_envs:safe/Navigation2-v0"), 0.0, eval_freq=20, n_eval_episodes=1)
        >>> _ = SafeSAC("MlpPolicy", "safe/Navigation2-v0", seed=0).learn(20, callback=keep)
        >>> len(keep.history), keep.best.violation_rate
        (1, 0.0)
    """

    def __init__(
        self,
        eval_env: Any,
        cost_limit: float,
        *,
        best_model_save_path: str | Path | None = None,
        n_eval_episodes: int = 5,
        eval_freq: int = 10_000,
        deterministic: bool = True,
        missing_cost: str = "raise",
    ) -> None:
        super().__init__()
        if eval_freq < 1 or n_eval_episodes < 1:
            raise ValueError(f"eval_freq and n_eval_episodes must be >= 1, got {eval_freq} and {n_eval_episodes}")
        if not cost_limit >= 0:
            raise ValueError(f"cost_limit must be >= 0, got {cost_limit}")
        self.eval_env, self.cost_limit = eval_env, cost_limit
        self.folder = None if best_model_save_path is None else Path(best_model_save_path)
        self.n_eval_episodes, self.eval_freq = n_eval_episodes, eval_freq
        self.deterministic, self.missing_cost = deterministic, missing_cost
        self.best: SafetyEvaluation | None = None
        self.history: list[tuple[int, SafetyEvaluation]] = []

    def _on_training_start(self) -> None:
        if shares_environments(self.eval_env, self.training_env):
            raise ValueError("eval_env is the training environment, which evaluation would reset: make another one")
        raw = not isinstance(self.eval_env, VecEnv) or unwrap_vec_normalize(self.eval_env) is None
        if raw and unwrap_vec_normalize(self.training_env) is not None:
            raise ValueError(
                "the model is trained under VecNormalize: wrap eval_env in one, too (its statistics follow)"
            )

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq:
            return True
        if isinstance(self.eval_env, VecEnv):
            sync_envs_normalization(self.training_env, self.eval_env)
        result = evaluate_safely(
            self.model, self.eval_env, self.n_eval_episodes,
            deterministic=self.deterministic, missing_cost=self.missing_cost,
        )  # fmt: skip
        self.history.append((self.num_timesteps, result))
        for key, value in result.summary().items():
            self.logger.record(f"eval/{key}", value)
        if self.best is None or self._rank(result) > self._rank(self.best):
            self.best = result
            self._save()
        return True

    def _rank(self, result: SafetyEvaluation) -> tuple[bool, float]:
        cost = float(result.costs.mean())
        safe = cost <= self.cost_limit
        return safe, float(result.returns.mean()) if safe else -cost

    def _save(self) -> None:
        if self.folder is not None:
            with atomic_path(self.folder / "best_model.zip") as temporary:
                self.model.save(temporary)
