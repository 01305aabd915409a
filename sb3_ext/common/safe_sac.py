"""``SafeSAC``: SB3's SAC with doors for safety."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.utils import polyak_update
from torch.nn import functional as F

from safe_wrappers.observations import map_entries
from sb3_ext.common.buffers import CostBatch
from sb3_ext.common.fused import fit
from sb3_ext.common.off_policy import SafeOffPolicy
from sb3_ext.common.safe_algorithm import MissingCost
from sb3_ext.common.safety_critic import frozen


class SafeSAC(SafeOffPolicy, SAC):
    """Template of the SAC family; as it is, it equals SB3's ``SAC`` bit for bit on the same seed.

    ``train`` is SAC's, cut at four places where subclasses put their paper's equations: ``_rewards``,
    ``_next_actions``, ``_actor_loss`` and ``_safety_step``.

    Args:
        policy: as in SB3, any of its policy classes.
        env: as in SB3.
        *args: SB3's further arguments, as they stand there.
        missing_cost: what a step without ``info["cost"]`` means: ``"zero"``, the default here, where nothing learns
            from it, or ``"raise"``.
        optimize: ``"sb3"``, or ``"fused"`` for derivatives written by hand (the same mathematics, other rounding).
        **kwargs: SAC's arguments.

    Raises:
        ValueError: for unknown options, ``n_steps > 1`` or ``optimize_memory_usage=True``.

    Examples:
        >>> model = SafeSAC("MlpPolicy", "Pendulum-v1", learning_starts=10, seed=0).learn(12)
        >>> model.num_timesteps
        12
    """

    default_missing_cost: ClassVar[MissingCost] = "zero"

    # ------------------------------------------------------------------ hooks

    def _rewards(self, batch: CostBatch) -> th.Tensor:
        """Rewards ``[B, 1]`` that the reward critics learn from."""
        return batch.rewards

    def _next_actions(self, batch: CostBatch) -> tuple[th.Tensor, th.Tensor]:
        """Actions ``[B, A]`` at the next observations and their log-densities ``[B]``, for the reward target."""
        return self.actor.action_log_prob(batch.next_observations)

    def _actor_loss(self, batch: CostBatch, actions: th.Tensor, soft_value: th.Tensor) -> th.Tensor:
        """Loss of the actor; ``soft_value`` ``[B, 1]`` is min Q - alpha log pi of its ``actions`` ``[B, A]``."""
        return -soft_value.mean()

    def _safety_step(self, batch: CostBatch) -> None:
        """Train the safety parts, after SAC's own update of this step."""

    # ------------------------------------------------------------------ training

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """SAC's update, with the hooks above (see SB3's ``SAC.train``)."""
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers += [self.ent_coef_optimizer]
        self._update_learning_rate(optimizers)
        self._metrics = defaultdict(list)
        for gradient_step in range(gradient_steps):
            batch: CostBatch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore
            if self.use_sde:
                self.actor.reset_noise()
            actions, log_prob = self.actor.action_log_prob(batch.observations)
            log_prob = log_prob.reshape(-1, 1)
            ent_coef = self._update_entropy(log_prob)
            self._update_critic(batch, ent_coef)
            self._update_actor(batch, actions, log_prob, ent_coef)
            if gradient_step % self.target_update_interval == 0:
                self._move_target(self.critic, self.critic_target)
                polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
            self._safety_step(batch)
        self._n_updates += gradient_steps
        self._log_metrics()

    def _update_entropy(self, log_prob: th.Tensor) -> th.Tensor:
        """Learn the temperature if it is learned; returns it."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            self._metrics["train/ent_coef"].append(self.ent_coef_tensor.item())
            return self.ent_coef_tensor
        ent_coef = th.exp(self.log_ent_coef.detach())
        loss = -(self.log_ent_coef * (log_prob + float(self.target_entropy)).detach()).mean()
        self._metrics["train/ent_coef"].append(ent_coef.item())
        self._metrics["train/ent_coef_loss"].append(loss.item())
        self.ent_coef_optimizer.zero_grad()
        loss.backward()
        self.ent_coef_optimizer.step()
        return ent_coef

    def _update_critic(self, batch: CostBatch, ent_coef: th.Tensor) -> None:
        with th.no_grad():
            next_actions, next_log_prob = self._next_actions(batch)
            next_values = th.cat(self.critic_target(batch.next_observations, next_actions), dim=1)
            next_values, _ = th.min(next_values, dim=1, keepdim=True)
            next_values = next_values - ent_coef * next_log_prob.reshape(-1, 1)
            targets = self._rewards(batch) + (1 - batch.dones) * self.gamma * next_values
        self.critic.optimizer.zero_grad()
        loss = fit(self.critic, batch, lambda values: 0.5 * sum(F.mse_loss(value, targets) for value in values))
        self._metrics["train/critic_loss"].append(loss)
        self.critic.optimizer.step()

    def _update_actor(self, batch: CostBatch, actions: th.Tensor, log_prob: th.Tensor, ent_coef: th.Tensor) -> None:
        # SB3 computes the gradient of the critics' weights here and throws it away; freezing them changes no result.
        with frozen(self.critic):
            values = th.cat(self.critic(batch.observations, actions), dim=1)
        min_value, _ = th.min(values, dim=1, keepdim=True)
        loss = self._actor_loss(batch, actions, min_value - ent_coef * log_prob)
        self._metrics["train/actor_loss"].append(loss.item())
        self.actor.optimizer.zero_grad()
        loss.backward()
        self.actor.optimizer.step()

    def _propose(self, obs: Any, n: int) -> tuple[th.Tensor, th.Tensor]:
        repeated = map_entries(lambda entries: entries.repeat_interleave(n, 0), obs)
        actions, log_prob = self.actor.action_log_prob(repeated)
        n_obs = len(log_prob) // n
        return actions.reshape(n_obs, n, -1).transpose(0, 1), log_prob.reshape(n_obs, n).T
