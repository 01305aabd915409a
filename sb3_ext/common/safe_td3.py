"""``SafeTD3``: SB3's TD3 with doors for safety."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.utils import polyak_update
from torch.nn import functional as F

from sb3_ext.common.buffers import CostBatch
from sb3_ext.common.fused import fit
from sb3_ext.common.off_policy import SafeOffPolicy
from sb3_ext.common.safety_critic import frozen


class SafeTD3(SafeOffPolicy, TD3):
    """Template of the TD3 family; as it is, it equals SB3's ``TD3`` bit for bit on the same seed.

    The hooks are those of ``SafeSAC``; ``_safety_step`` runs at every gradient step, the actor's at every
    ``policy_delay``-th.

    Args:
        policy: as in SB3, any of its policy classes.
        env: as in SB3.
        *args: SB3's further arguments, as they stand there.
        missing_cost: what a step without ``info["cost"]`` means: ``"raise"`` or ``"zero"``.
        optimize: ``"sb3"``, or ``"fused"``, see ``SafeSAC``.
        **kwargs: TD3's arguments.

    Raises:
        ValueError: for unknown options, ``n_steps > 1`` or ``optimize_memory_usage=True``.

    Examples:
        >>> model = SafeTD3("MlpPolicy", "Pendulum-v1", learning_starts=10, seed=0).learn(12)
        >>> model.num_timesteps
        12
    """

    uses_cost: ClassVar[bool] = False

    # ------------------------------------------------------------------ hooks

    def _rewards(self, batch: CostBatch) -> th.Tensor:
        """Rewards ``[B, 1]`` that the reward critics learn from."""
        return batch.rewards

    def _next_actions(self, batch: CostBatch) -> th.Tensor:
        """Smoothed target actions ``[B, A]`` at the next observations."""
        noise = batch.actions.clone().data.normal_(0, self.target_policy_noise)
        noise = noise.clamp(-self.target_noise_clip, self.target_noise_clip)
        actions: th.Tensor = (self.actor_target(batch.next_observations) + noise).clamp(-1, 1)
        return actions

    def _actor_loss(self, batch: CostBatch, actions: th.Tensor, value: th.Tensor) -> th.Tensor:
        """Loss of the actor; ``value`` ``[B, 1]`` is the first critic's at its ``actions`` ``[B, A]``."""
        return -value.mean()

    def _safety_step(self, batch: CostBatch) -> None:
        """Train the safety parts, after TD3's own update of this step."""

    # ------------------------------------------------------------------ training

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """TD3's update, with the hooks above (see SB3's ``TD3.train``)."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        self._metrics = defaultdict(list)
        for _ in range(gradient_steps):
            self._n_updates += 1
            batch: CostBatch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore
            self._update_critic(batch)
            if self._n_updates % self.policy_delay == 0:
                self._update_actor(batch)
                self._update_targets()
            self._safety_step(batch)
        self._log_metrics()

    def _update_critic(self, batch: CostBatch) -> None:
        with th.no_grad():
            next_values = th.cat(self.critic_target(batch.next_observations, self._next_actions(batch)), dim=1)
            next_values, _ = th.min(next_values, dim=1, keepdim=True)
            targets = self._rewards(batch) + (1 - batch.dones) * self.gamma * next_values
        self.critic.optimizer.zero_grad()
        loss = fit(self.critic, batch, lambda values: sum(F.mse_loss(value, targets) for value in values))
        self._metrics["train/critic_loss"].append(loss)
        self.critic.optimizer.step()

    def _update_actor(self, batch: CostBatch) -> None:
        actions = self.actor(batch.observations)
        with frozen(self.critic):
            value = self.critic.q1_forward(batch.observations, actions)  # type: ignore[arg-type]  # takes a dict as well
        loss = self._actor_loss(batch, actions, value)
        self._metrics["train/actor_loss"].append(loss.item())
        self.actor.optimizer.zero_grad()
        loss.backward()
        self.actor.optimizer.step()

    def _update_targets(self) -> None:
        self._move_target(self.critic, self.critic_target)
        self._move_target(self.actor, self.actor_target)
        polyak_update(self.critic_batch_norm_stats, self.critic_batch_norm_stats_target, 1.0)
        polyak_update(self.actor_batch_norm_stats, self.actor_batch_norm_stats_target, 1.0)

    def _propose(self, obs: Any, n: int) -> tuple[th.Tensor, th.Tensor]:
        actions = self.actor(obs)
        noise = th.randn(n, *actions.shape, device=self.device)
        return (actions + noise * self.target_policy_noise).clamp(-1, 1), -0.5 * noise.square().sum(-1)
