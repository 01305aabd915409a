"""``SafeTD3``: SB3's TD3 with doors for safety."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.utils import get_parameters_by_name, polyak_update
from stable_baselines3.td3.policies import TD3Policy
from torch.nn import functional as F

from sb3_ext.common.buffers import CostBatch
from sb3_ext.common.fused import fit
from sb3_ext.common.off_policy import SafeOffPolicy
from sb3_ext.common.safe_algorithm import MissingCost
from sb3_ext.common.safety_critic import frozen


class SafeTD3(SafeOffPolicy, TD3):
    """Template of the TD3 family; as it is, it equals SB3's ``TD3`` bit for bit on the same seed.

    The hooks are those of ``SafeSAC``, but ``_targets`` in place of ``_next_actions``; ``_safety_step`` runs at every
    gradient step, the actor's at every ``policy_delay``-th.

    Args:
        policy: as in SB3, any of its policy classes.
        env: as in SB3.
        *args: SB3's further arguments, as they stand there.
        missing_cost: what a step without ``info["cost"]`` means: ``"zero"``, the default here, where nothing learns
            from it, or ``"raise"``.
        optimize: ``"sb3"``, or ``"fused"``, see ``SafeSAC``.
        critic_warmup: updates at the beginning in which only the critics learn, for an actor that was cloned
            (``imitate``): it would descend what untrained critics say.
        **kwargs: TD3's arguments.

    Raises:
        ValueError: for unknown options, ``critic_warmup < 0``, ``n_steps > 1`` or ``optimize_memory_usage=True``.

    Examples:
        >>> model = SafeTD3("MlpPolicy", "Pendulum-v1", learning_starts=10, seed=0).learn(12)
        >>> model.num_timesteps
        12
    """

    default_missing_cost: ClassVar[MissingCost] = "zero"

    def __init__(self, policy: Any, env: Any, *args: Any, critic_warmup: int = 0, **kwargs: Any) -> None:
        if critic_warmup < 0:
            raise ValueError(f"critic_warmup must be >= 0, got {critic_warmup}")
        self.critic_warmup = critic_warmup
        super().__init__(policy, env, *args, **kwargs)

    # ------------------------------------------------------------------ hooks

    def _rewards(self, batch: CostBatch) -> th.Tensor:
        """Rewards ``[B, 1]`` that the reward critics learn from."""
        return batch.rewards

    def _targets(self, batch: CostBatch) -> th.Tensor:
        """What the critics learn, ``[B, 1]``."""
        return self._rewards(batch) + (1 - batch.dones) * self.gamma * self._next_values(self.policy, batch)

    def _actor_loss(self, batch: CostBatch, actions: th.Tensor, value: th.Tensor) -> th.Tensor:
        """Loss of the actor; ``value`` ``[B, 1]`` is the first critic's at its ``actions`` ``[B, A]``."""
        return -value.mean()

    def _safety_step(self, batch: CostBatch) -> None:
        """Train the safety parts, after TD3's own update of this step."""

    def _optimizers(self) -> list[th.optim.Optimizer]:
        """Those that follow ``learning_rate``."""
        return [self.actor.optimizer, self.critic.optimizer]

    # ------------------------------------------------------------------ training

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """TD3's update, with the hooks above (see SB3's ``TD3.train``)."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self._optimizers())
        self._metrics = defaultdict(list)
        for _ in range(gradient_steps):
            self._n_updates += 1
            batch = self._sample(batch_size)
            self._update(batch)
            self._safety_step(batch)
        self._log_metrics()

    def _sample(self, batch_size: int) -> CostBatch:
        batch: CostBatch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore
        return batch

    def _update(self, batch: CostBatch) -> None:
        actor_loss = partial(self._actor_loss, batch)
        self._td3_step(self.policy, batch, self._targets(batch), actor_loss, log="train")

    def _td3_step(
        self,
        policy: TD3Policy,
        batch: CostBatch,
        targets: th.Tensor,
        actor_loss: Callable[[th.Tensor, th.Tensor], th.Tensor],
        log: str,
    ) -> None:
        """TD3's update of any policy, so that an algorithm may train more than one.

        Args:
            policy: what is trained.
            batch: from replay.
            targets: of its critics, ``[B, 1]``.
            actor_loss: of its actions ``[B, A]`` and their values ``[B, 1]``.
            log: what its losses are logged under.
        """
        self._metrics[f"{log}/critic_loss"].append(self._fit_critics(policy, batch, targets))
        if self._n_updates % self.policy_delay == 0:
            if self._n_updates > self.critic_warmup:
                loss = actor_loss(*self._own_actions(policy, batch))
                self._metrics[f"{log}/actor_loss"].append(self._descend(policy, loss))
            self._move_targets(policy)

    def _next_values(self, policy: TD3Policy, batch: CostBatch) -> th.Tensor:
        """Smaller target value ``[B, 1]`` of the smoothed target actions at the next observations."""
        with th.no_grad():
            noise = batch.actions.clone().data.normal_(0, self.target_policy_noise)
            noise = noise.clamp(-self.target_noise_clip, self.target_noise_clip)
            actions = (policy.actor_target(batch.next_observations) + noise).clamp(-1, 1)
            values: th.Tensor = th.cat(policy.critic_target(batch.next_observations, actions), dim=1)
            return values.min(dim=1, keepdim=True).values

    def _fit_critics(self, policy: TD3Policy, batch: CostBatch, targets: th.Tensor) -> float:
        """One step of the critics; returns the loss."""
        policy.critic.optimizer.zero_grad()
        loss = fit(policy.critic, batch, lambda values: sum(F.mse_loss(value, targets) for value in values))
        policy.critic.optimizer.step()
        return loss

    def _own_actions(self, policy: TD3Policy, batch: CostBatch) -> tuple[th.Tensor, th.Tensor]:
        """The actor's actions ``[B, A]`` and the first critic's value ``[B, 1]`` of them; differentiable."""
        actions = policy.actor(batch.observations)
        with frozen(policy.critic):
            return actions, policy.critic.q1_forward(batch.observations, actions)  # type: ignore[arg-type]  # or a dict

    def _descend(self, policy: TD3Policy, loss: th.Tensor) -> float:
        """One step of the actor; returns the loss."""
        policy.actor.optimizer.zero_grad()
        loss.backward()
        policy.actor.optimizer.step()
        return loss.item()

    def _move_targets(self, policy: TD3Policy) -> None:
        for online, target in ((policy.critic, policy.critic_target), (policy.actor, policy.actor_target)):
            self._move_target(online, target)
            own, slow = (get_parameters_by_name(network, ["running_"]) for network in (online, target))
            polyak_update(own, slow, 1.0)  # of batch normalisation
