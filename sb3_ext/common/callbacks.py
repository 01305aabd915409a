"""Callbacks: costs in the logs of any SB3 algorithm, and the best model among the safe ones."""

from __future__ import annotations

import copy
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EventCallback
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from safe_wrappers.files import atomic_path
from safe_wrappers.info import INTERVENED
from safe_wrappers.monitor import EpisodeCost, EpisodeCosts
from sb3_ext.common.evaluation import SafetyEvaluation, evaluate_safely, shares_environments, shows_normalized

# What SB3's EvalCallback writes, too, has its names there.
LOGGED_AS = {"return": "mean_reward", "length": "mean_ep_length", "cost": "mean_ep_cost"}
KEPT_AS = (
    ("results", "returns"), ("ep_lengths", "lengths"), ("ep_costs", "costs"),
    ("violations", "violations"), ("successes", "successes"),
)  # fmt: skip


class CostLoggingCallback(BaseCallback):
    """Logs what ``sb3_ext``'s own algorithms log of safety, for plain PPO, SAC, TD3 and so on.

    That is ``rollout/ep_cost_mean``, ``safety/violating_episodes`` and, where a filter among the wrappers reports
    them, ``safety/intervention_rate``: the share of the steps of the last ``window`` episodes.

    Args:
        missing_cost: what a step without cost means: ``"raise"`` or ``"zero"``.
        window: episodes that means are taken over.

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
        self._interventions: deque[tuple[int, int]] = deque(maxlen=window)
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
            self._record_interventions(episode)
        return True

    def _record_interventions(self, episode: EpisodeCost) -> None:
        self._interventions.append((episode["interventions"], episode["length"]))
        if any(INTERVENED in info for info in self.locals["infos"]):
            interventions, steps = np.sum(self._interventions, axis=0)
            self.logger.record("safety/intervention_rate", float(interventions / steps))


class SafeEvalCallback(EventCallback):
    """SB3's ``EvalCallback`` with costs: keeps the model with the highest return among those that meet the limit.

    ``EvalCallback`` keeps the highest return, which in a task with a constraint is the unsafe model. While no model has
    met the limit, the one with the least cost is kept. Written to the log at each evaluation: ``eval/mean_reward``,
    ``eval/mean_ep_length``, ``eval/mean_ep_cost``, ``eval/violation_rate``, ``eval/success_rate`` and
    ``eval/intervention_rate``.

    Args:
        eval_env: an environment or a VecEnv of its own; in the training environment it would end the episodes that
            the model learns from.
        cost_limit: highest mean undiscounted episode cost that counts as safe.
        callback_on_new_best: called when there is a new best model.
        callback_after_eval: called after every evaluation.
        n_eval_episodes: episodes per evaluation.
        eval_freq: calls (steps of the VecEnv) between evaluations.
        log_path: folder for ``evaluations.npz``, which holds ``timesteps`` ``[n]`` and, ``[n, n_eval_episodes]``,
            ``results`` (returns), ``ep_lengths``, ``ep_costs``, ``violations`` and ``successes``; None: do not write.
        best_model_save_path: folder for ``best_model.zip``; None: do not save.
        deterministic: evaluate the policy's mode, or samples.
        missing_cost: what a step without cost means.
        seed: the episodes of all evaluations begin from it; None: each evaluation sees other episodes.
        verbose: 1: print each evaluation.

    Attributes:
        best: evaluation of the model that is kept, or None.
        history: pairs (timesteps, evaluation).
        last_mean_reward: of the last evaluation, for callbacks that look at their parent's, as SB3's do.
        best_mean_reward: of the model that is kept; ``-inf`` while none has met the limit.

    Raises:
        ValueError: if an argument is out of range; when training begins, if ``eval_env`` is the training environment,
            or shows raw observations to a model that learns from normalised ones.

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
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        n_eval_episodes: int = 5,
        eval_freq: int = 10_000,
        log_path: str | Path | None = None,
        best_model_save_path: str | Path | None = None,
        deterministic: bool = True,
        missing_cost: str = "raise",
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(callback_after_eval, verbose)
        if eval_freq < 1 or n_eval_episodes < 1:
            raise ValueError(f"eval_freq and n_eval_episodes must be >= 1, got {eval_freq} and {n_eval_episodes}")
        if not cost_limit >= 0:
            raise ValueError(f"cost_limit must be >= 0, got {cost_limit}")
        self.eval_env, self.cost_limit, self.callback_on_new_best = eval_env, cost_limit, callback_on_new_best
        self.log_path = None if log_path is None else Path(log_path)
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.n_eval_episodes, self.eval_freq = n_eval_episodes, eval_freq
        self.deterministic, self.missing_cost, self.seed = deterministic, missing_cost, seed
        self.best: SafetyEvaluation | None = None
        self.history: list[tuple[int, SafetyEvaluation]] = []
        self.last_mean_reward = self.best_mean_reward = -np.inf

    def _init_callback(self) -> None:
        super()._init_callback()
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.parent = self
            self.callback_on_new_best.init_callback(self.model)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if shares_environments(self.eval_env, self.training_env):
            raise ValueError("eval_env is the training environment, which evaluation would reset: make another one")
        if shows_normalized(self.training_env) and not shows_normalized(self.eval_env):
            raise ValueError(
                "the model learns from observations that VecNormalize standardises: wrap eval_env in one, too (its "
                "statistics follow)"
            )

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq:
            return True
        if shows_normalized(self.training_env):  # SB3's sync_envs_normalization wants the same wrappers in both
            source, target = unwrap_vec_normalize(self.training_env), unwrap_vec_normalize(self.eval_env)
            assert source is not None and target is not None
            target.obs_rms = copy.deepcopy(source.obs_rms)
        result = evaluate_safely(
            self.model, self.eval_env, self.n_eval_episodes,
            deterministic=self.deterministic, missing_cost=self.missing_cost, seed=self.seed,
        )  # fmt: skip
        self.history.append((self.num_timesteps, result))
        self._write(result)
        self.last_mean_reward = float(result.returns.mean())
        go_on = True
        if self.best is None or self._rank(result) > self._rank(self.best):
            self.best = result
            self.best_mean_reward = self.last_mean_reward if self._rank(result)[0] else -np.inf
            if self.best_model_save_path is not None:
                with atomic_path(self.best_model_save_path / "best_model.zip") as temporary:
                    self.model.save(temporary)
            if self.callback_on_new_best is not None:
                go_on = self.callback_on_new_best.on_step()
        return go_on and self._on_event()

    def _rank(self, result: SafetyEvaluation) -> tuple[bool, float]:
        cost = float(result.costs.mean())
        safe = cost <= self.cost_limit
        return safe, float(result.returns.mean()) if safe else -cost

    def _write(self, result: SafetyEvaluation) -> None:
        means = result.summary()
        if self.verbose:
            print(
                f"after {self.num_timesteps} steps: return {means['return']:.4g}, cost {means['cost']:.4g} "
                f"(limit {self.cost_limit:g}), {means['violation_rate']:.0%} of {len(result)} episodes violate"
            )
        for name, value in means.items():
            self.logger.record(f"eval/{LOGGED_AS.get(name, name)}", value)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.log_path is not None:
            columns: dict[str, Any] = {
                name: np.stack([getattr(found, field) for _, found in self.history]) for name, field in KEPT_AS
            }
            with atomic_path(self.log_path / "evaluations.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, timesteps=np.array([steps for steps, _ in self.history]), **columns)
