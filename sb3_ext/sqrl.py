"""SQRL: pre-train a policy with its safety critic, fine-tune it behind that critic."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal, Self

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from stable_baselines3.her import HerReplayBuffer

from safe_wrappers.transitions import Transitions
from sb3_ext.common.buffers import CostBatch, CostStorage, cost_buffer_class, sample_union
from sb3_ext.common.checkpoint import pack_env, unpack_env
from sb3_ext.common.rollouts import collect_episodes
from sb3_ext.common.selectors import Choice, RejectionSampling, check_choice
from sb3_ext.sac_lag import SACLag


class SQRL(SACLag):
    """Safety Q-functions for RL (Srinivasan et al. 2020, algorithms 1 and 2).

    ``pretrain(env)`` learns a task with SAC while every action passes the mask of equation 3; after every ``n_off``
    steps the masked policy collects on-policy episodes, and the safety critic learns from these and from the
    replay buffer in equal parts. ``finetune(env)`` learns another task behind the critic, frozen by default, with
    the multiplier's penalty in the actor's loss (equation 4). ``pretrain(dataset)`` and ``learn`` give the variant
    of Recovery RL's comparison: offline pre-training, then mask, penalty and critic updates at every step.

    Deviations: by default as many updates of the safety critic per collection as environment steps (paper: 1, released
    code: 10; with the mask on from the start so few leave the critic untrained and the mask harmful for most of the
    training), with a target rate of 0.005; ``finetune`` starts with an empty replay buffer (as printed; the released
    code keeps it); failed episodes of the main stream reach the safety critic by the replay buffer's half only, without
    the released class weights; two critics, not one; the multiplier ascends on the excess, not on its logarithm.
    Further: squared error as printed (``risk_kwargs={"loss": "bce"}`` is the released cross-entropy); the mask
    is on from the first step as printed (``mask_from=0.5``: from half of pre-training on, as released); the
    penalty's gradient reaches the actor (``penalty_gradient=False``: it is stopped, as released).

    Args:
        policy: as in SB3.
        env: as in SB3.
        learning_rate: as in SB3.
        n_candidates: see ``RejectionSampling``.
        choice: see there; used in ``finetune`` and ``learn``.
        pretrain_choice: the same, in ``pretrain(env)`` (section 6 of the paper takes risky ones).
        n_off: environment steps between collections of on-policy safety data.
        safety_episodes: episodes per collection.
        safety_updates: updates of the safety critic per collection.
        safety_buffer_size: newest on-policy steps to keep.
        mask_from: share of the steps of a call of ``pretrain(env)`` after which the mask is on.
        penalty_gradient: let the penalty's gradient reach the actor.
        **kwargs: see ``PricedRiskSAC``; the multiplier starts at e and learns with 3e-4, as released.

    Examples:
        >>> import safe_envs
        >>> model = SQRL("MlpPolicy", "safe/DrunkSpider-v0", gamma_risk=0.65, n_off=20, learning_starts=10, seed=0)
        >>> _ = model.pretrain("safe/DrunkSpider-v0", 40)
        >>> model.safety_steps > 0
        True
        >>> target = gym.make("safe/DrunkSpider-v0", goal=(6.5, 3.5))
        >>> model.finetune(target, 20).num_timesteps
        60

    Attributes:
        safety_steps: environment steps spent on on-policy safety data.
        safety_violations: violations in them.
    """

    buffers: ClassVar[tuple[str, ...]] = (*SACLag.buffers, "safety_buffer")
    environments: ClassVar[tuple[str, ...]] = (*SACLag.environments, "_safety_env")
    gradient_multiplier: ClassVar[dict[str, float]] = {"value": float(np.e), "learning_rate": 3e-4}
    relabel = False  # the mask is part of the policy: SAC learns from what was executed

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any = 3e-4,
        *,
        n_candidates: int = 100,
        choice: Choice = "policy",
        pretrain_choice: Choice = "risky",
        n_off: int = 1000,
        safety_episodes: int = 5,
        safety_updates: int = 1000,
        safety_buffer_size: int = 2500,
        mask_from: float = 0.0,
        penalty_gradient: bool = True,
        **kwargs: Any,
    ) -> None:
        if min(n_off, safety_episodes, safety_buffer_size) < 1:
            raise ValueError("n_off, safety_episodes and safety_buffer_size must be >= 1")
        if safety_updates < 0:
            raise ValueError(f"safety_updates must be >= 0, got {safety_updates}")
        if not 0.0 <= mask_from <= 1.0:
            raise ValueError(f"mask_from must be in [0, 1], got {mask_from}")
        self.n_candidates, self.choice = n_candidates, check_choice("choice", choice)
        self.pretrain_choice = check_choice("pretrain_choice", pretrain_choice)
        self.n_off, self.safety_episodes, self.safety_updates = n_off, safety_episodes, safety_updates
        self.safety_buffer_size, self.mask_from, self.penalty_gradient = safety_buffer_size, mask_from, penalty_gradient
        self.phase: Literal["online", "pretrain", "finetune"] = "online"
        self.safety_steps = self.safety_violations = self._next_collection = 0
        self._mask_start = 0.0
        kwargs.setdefault("gamma_risk", 0.7 if kwargs.get("cost_limit") is None else None)
        kwargs["risk_kwargs"] = {"tau": 0.005, **(kwargs.get("risk_kwargs") or {})}
        super().__init__(policy, env, learning_rate, **kwargs)

    def _setup_safety(self) -> None:
        super()._setup_safety()
        if self.use_sde:
            raise ValueError("SQRL needs independent samples of the policy, use_sde=True makes all of a step alike")
        self.safety_buffer: CostStorage | None = None
        self._safety_env: VecEnv | None = None
        self.selector = RejectionSampling(
            self.safety_critic, lambda: self.limit, self.n_candidates, self._active_choice()
        )

    # ------------------------------------------------------------------ phases

    def pretrain(  # type: ignore[override]  # the base pre-trains on data only
        self,
        source: Any,
        steps: int = 10_000,
        *,
        safety_env: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Pre-train on an environment (algorithm 1), or the safety critic on offline data.

        On an environment the phase lasts until ``finetune``: ``learn`` goes on with it.

        Args:
            source: an environment (or its ID), or ``Transitions``.
            steps: environment steps, or gradient steps on the offline data.
            safety_env: where the on-policy safety data are collected; None: a copy of ``source``.
            **kwargs: on an environment those of ``learn``, whose step count goes on (``reset_num_timesteps=False``);
                on data ``batch_size``, ``check_env_id`` and ``progress``, see ``RiskSAC.pretrain``.

        Raises:
            TypeError: for an argument that belongs to the other kind of source.
            ValueError: as ``learn`` or ``RiskSAC.pretrain``, or if the environments cannot be copied.
        """
        if isinstance(source, Transitions):
            if safety_env is not None:
                raise TypeError("safety_env belongs to pre-training on an environment; the source is a data set")
            return super().pretrain(source, steps, **kwargs)
        self._enter("pretrain", source)
        self._mask_start = self.num_timesteps + self.mask_from * steps
        self._safety_env = self._copy_env() if safety_env is None else self._wrap_env(_made(safety_env))
        self._share_statistics()
        self._safety_env.seed(None if self.seed is None else self.seed + 1)
        self.pretraining_steps += steps
        return self.learn(steps, **{"reset_num_timesteps": False, **kwargs})

    def _copy_env(self) -> VecEnv:
        packed = pack_env(self.env)
        if packed.pickled is None:
            raise ValueError(
                "the environments cannot be copied for the on-policy safety data: pass safety_env= to pretrain"
            )
        return unpack_env(packed)

    def finetune(self, env: Any, steps: int, *, freeze_critic: bool = True, **learn_kwargs: Any) -> Self:
        """Fine-tune on another task behind the safety critic (algorithm 2), with an empty replay buffer.

        Args:
            env: the target task.
            steps: environment steps.
            freeze_critic: keep the safety critic as pre-trained.
            **learn_kwargs: passed on to ``learn``, whose step count goes on (``reset_num_timesteps=False``).
        """
        self._enter("finetune", env)
        self.online_updates = not freeze_critic
        assert self.replay_buffer is not None
        self.replay_buffer.reset()
        # The step count goes on: the pre-trained policy acts from the first step, without a random warm-up.
        return self.learn(steps, **{"reset_num_timesteps": False, **learn_kwargs})

    def _enter(self, phase: Literal["pretrain", "finetune"], env: Any) -> None:
        before = self._vec_normalize_env
        self.set_env(_made(env))
        if before is not None:
            self._keep_statistics(before)
        self.phase = phase
        assert isinstance(self.selector, RejectionSampling)
        self.selector.choice = self._active_choice()

    def _keep_statistics(self, before: VecNormalize) -> None:
        """Policy and critic go on seeing observations as they were normalised."""
        if self._vec_normalize_env is None:
            raise ValueError("the model was trained under VecNormalize: wrap the new environment in one, too")
        if self._vec_normalize_env is not before and before.norm_obs:
            self._vec_normalize_env.obs_rms = copy.deepcopy(before.obs_rms)

    def _active_choice(self) -> Choice:
        return self.pretrain_choice if self.phase == "pretrain" else self.choice

    # ------------------------------------------------------------------ training

    def _setup_learn(
        self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> Any:
        if reset_num_timesteps:  # both are places on the count of steps, which begins anew
            self._next_collection -= self.num_timesteps
            self._mask_start -= self.num_timesteps
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def _select(self, observation: Any, proposed: Any, deterministic: bool, warm_up: bool) -> Any:
        if self.phase == "pretrain" and self.num_timesteps < self._mask_start:
            self.last_intervened = np.zeros(len(proposed), dtype=bool)
            return proposed
        return super()._select(observation, proposed, deterministic, warm_up)

    def _actor_loss(self, batch: CostBatch, actions: th.Tensor, soft_value: th.Tensor) -> th.Tensor:
        if self.phase == "pretrain":  # algorithm 1: plain SAC
            return -soft_value.mean()
        return super()._actor_loss(batch, actions if self.penalty_gradient else actions.detach(), soft_value)

    def _safety_step(self, batch: CostBatch) -> None:
        if self.phase != "pretrain":
            super()._safety_step(batch)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """SAC's update; in ``pretrain(env)`` also the collection that is due (algorithm 1, lines 13 to 16)."""
        if isinstance(self.replay_buffer, HerReplayBuffer) and not self.replay_buffer.ep_length.any():
            return  # hindsight needs a whole episode, and finetune begins with none
        super().train(gradient_steps, batch_size)
        if self.phase == "pretrain" and self.num_timesteps >= self._next_collection:
            self._next_collection = self.num_timesteps + self.n_off
            self._collect_safety_data()

    def _collect_safety_data(self) -> None:
        if self._safety_env is None:  # a checkpoint that could not hold it
            self._safety_env = self._copy_env()
        if self.safety_buffer is None:
            self.safety_buffer = cost_buffer_class(self.observation_space)(
                self.safety_buffer_size, self.observation_space, self.action_space, device=self.device,
                n_envs=self._safety_env.num_envs, missing_cost=self.missing_cost,
            )  # fmt: skip
        self._share_statistics()
        counts = collect_episodes(self, self._safety_env, self.safety_buffer, self.safety_episodes)
        self.safety_steps += counts.steps
        self.safety_violations += counts.violations
        for _ in range(self.safety_updates):
            self._risk_step()
        self.logger.record("safety/critic_loss", float(np.mean(self._metrics["safety/critic_loss"] or [np.nan])))
        self.logger.record("safety/on_policy_steps", self.safety_steps)
        self.logger.record("safety/on_policy_violations", self.safety_violations)

    def _share_statistics(self) -> None:
        """The safety data are seen as the training sees its own: normalised by the training's statistics."""
        own = self._vec_normalize_env
        if own is not None and self._safety_env is not None:
            other = unwrap_vec_normalize(self._safety_env)
            if other is None:
                raise ValueError("the training env has a VecNormalize: give safety_env one, too")
            other.training = False
            vars(other).update({name: vars(own)[name] for name in ("obs_rms", "ret_rms") if name in vars(own)})

    def _risk_batch(self, batch_size: int | None = None) -> CostBatch:
        if self.phase != "pretrain" or self.safety_buffer is None:
            return super()._risk_batch(batch_size)
        assert isinstance(self.replay_buffer, CostStorage)
        half = (batch_size or self.batch_size) // 2
        experience = [b for b in (self.replay_buffer, self.offline_buffer) if b is not None and b.size() > 0]
        return CostBatch.join(
            sample_union(experience, half, self._vec_normalize_env, self.positive_fraction),
            sample_union([self.safety_buffer], half, self._vec_normalize_env, self.positive_fraction),
        )


def _made(env: Any) -> Any:
    return gym.make(env) if isinstance(env, str) else env
