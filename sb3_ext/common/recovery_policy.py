"""The model-free recovery policy: descends the risk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from torch import nn

from sb3_ext.common.features import ScaledFeatures
from sb3_ext.common.optim import FusedAdam
from sb3_ext.common.safety_critic import SafetyCritic, frozen


class RecoveryActor(ScaledFeatures):
    """Gaussian policy with a tanh mean, trained to minimise the risk (Recovery RL, section 4.3).

    The paper calls it DDPG; its code samples from a Gaussian with a learned deviation that does not depend on the
    state, which is what is done here. The deviation is in scaled units (the released code does not scale it, so
    that in environments with small actions its noise covers the whole range).

    Args:
        observation_space: any space that SB3 has a features extractor for.
        action_space: Box.
        net_arch: hidden layers.
        learning_rate: of Adam.
        initial_std: deviation at the start, of actions scaled to [-1, 1].
        features_extractor_class: SB3 extractor; None: by the space.
        features_extractor_kwargs: its arguments.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        net_arch: Sequence[int] = (256, 256),
        learning_rate: float = 3e-4,
        initial_std: float = 0.1,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, features_extractor_class, features_extractor_kwargs)
        self.config: dict[str, Any] = dict(
            net_arch=tuple(net_arch), learning_rate=learning_rate, initial_std=initial_std,
            features_extractor_class=features_extractor_class, features_extractor_kwargs=features_extractor_kwargs,
        )  # fmt: skip
        action_dim = int(np.prod(action_space.shape or (1,)))
        self.mean = nn.Sequential(*create_mlp(self.features.features_dim, action_dim, list(net_arch)), nn.Tanh())
        for layer in self.mean:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.log_std = nn.Parameter(th.full((action_dim,), math.log(initial_std)))
        self.optimizer = FusedAdam(self.parameters(), lr=learning_rate, fused=True)

    def forward(self, obs: Any, deterministic: bool = False) -> th.Tensor:
        """Actions ``[B, A]`` in [-1, 1]; differentiable."""
        mean = self.mean(self.scaled(obs))
        if deterministic:
            return mean
        std = self.log_std.exp().clamp_min(1e-6)
        return (mean + std * th.randn_like(mean)).clamp(-1.0, 1.0)

    def act(self, obs: Any, deterministic: bool) -> th.Tensor:
        """Actions ``[B, A]`` without gradient."""
        with th.no_grad():
            return self.forward(obs, deterministic)

    def update(self, obs: Any, critic: SafetyCritic) -> float:
        """One gradient step down the risk of the own actions; returns that risk."""
        with frozen(critic.online):
            risk = critic(obs, self.forward(obs)).mean()
        self.optimizer.zero_grad()
        risk.backward()
        self.optimizer.step()
        return float(risk.detach())
