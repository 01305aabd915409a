"""Value functions of the costs: one network with a head for each limited term."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn
from torch.nn import functional as F

from safe_wrappers.observations import map_entries, n_rows

PREDICTED_AT_ONCE = 4096  # observations; bounds the memory that a rollout of images takes


class CostCritic(nn.Module):
    """Discounted costs to come, ``[B, K]``, of observations as a rollout buffer holds them.

    It is made like the value function of ``policy`` but shares nothing with it: its parameters are not among the
    policy's, whose gradients SB3 clips together.

    Args:
        policy: whose features extractor class, hidden layers and activation are taken over.
        n_costs: number of heads ``K``.
        net_arch: hidden layers; None: those of the policy's value function.
        learning_rate: of Adam.
        n_epochs: passes over each rollout.
        batch_size: of these passes. It is larger than PPO's, because small batches are mostly overhead.
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        n_costs: int,
        *,
        net_arch: Sequence[int] | None = None,
        learning_rate: float = 1e-3,
        n_epochs: int = 10,
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        if n_epochs < 1 or batch_size < 1:
            raise ValueError(f"n_epochs and batch_size must be >= 1, got {n_epochs} and {batch_size}")
        if net_arch is None:
            net_arch = policy.net_arch.get("vf", []) if isinstance(policy.net_arch, dict) else policy.net_arch
        self.observation_space, self.normalize_images = policy.observation_space, policy.normalize_images
        self.n_epochs, self.batch_size = n_epochs, batch_size
        self.features = policy.make_features_extractor()
        layers = create_mlp(self.features.features_dim, n_costs, list(net_arch), policy.activation_fn)
        self.value = nn.Sequential(*layers)
        if policy.ortho_init:
            self.apply(partial(ActorCriticPolicy.init_weights, gain=np.sqrt(2)))
        # It starts at 0: an environment that never costs anything gives advantages of exactly 0 from the beginning.
        for parameter in self.value[-1].parameters():
            nn.init.zeros_(parameter)
        self.to(policy.device)
        self.optimizer = th.optim.Adam(self.parameters(), lr=learning_rate, fused=True)

    def forward(self, obs: Any) -> th.Tensor:
        """Values ``[B, K]`` of observation tensors; differentiable."""
        obs = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        return self.value(self.features(obs))

    def predict(self, observations: Any) -> NDArray[np.float32]:
        """Values ``[B, K]`` of observations ``[B, ...]``, an array or a dict of arrays."""
        self.train(False)
        rows = np.arange(n_rows(observations))
        parts = [rows[start : start + PREDICTED_AT_ONCE] for start in range(0, len(rows), PREDICTED_AT_ONCE)]
        with th.no_grad():
            return th.cat([self(self._tensors(observations, part)) for part in parts]).cpu().numpy()

    def update(self, observations: Any, returns: NDArray[np.floating], rng: np.random.Generator) -> float:
        """Fit the returns ``[B, K]``; gives the mean of the losses."""
        self.train(True)
        targets, losses = th.as_tensor(returns, dtype=th.float32), []
        for _ in range(self.n_epochs):
            order = rng.permutation(len(returns))
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                values = self(self._tensors(observations, rows))
                loss = F.mse_loss(values, targets[rows].to(values.device))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                losses.append(loss.detach())
        return float(th.stack(losses).mean())

    def _tensors(self, observations: Any, rows: NDArray[np.intp]) -> Any:
        device = next(self.parameters()).device
        # A copy: NumPy's memory is aligned now this way and now that way, and so is the rounding of products with it.
        return map_entries(lambda entries: th.tensor(entries[rows], device=device), observations)
