"""The safety critic: how likely, or how costly, the future is after an action."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from torch.nn import functional as F

from safe_wrappers.risk import RiskKind
from sb3_ext.common.buffers import CostBatch, scale_action
from sb3_ext.common.ensembles import EnsembleMLP, GeneratedMLP
from sb3_ext.common.features import ScaledFeatures, as_tensors
from sb3_ext.common.optim import FusedAdam


class RiskNetwork(ScaledFeatures):
    """An ensemble over (features, action)."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_dim: int,
        n_critics: int,
        net_arch: Sequence[int],
        features_extractor_class: type[BaseFeaturesExtractor] | None,
        features_extractor_kwargs: dict[str, Any] | None,
        latent_dim: int | None = None,
    ) -> None:
        super().__init__(observation_space, features_extractor_class, features_extractor_kwargs)
        n_inputs = self.features.features_dim + action_dim
        self.heads = (
            EnsembleMLP(n_critics, n_inputs, net_arch)
            if latent_dim is None
            else GeneratedMLP(n_critics, n_inputs, net_arch, latent_dim)
        )

    def forward(self, obs: Any, actions: th.Tensor) -> th.Tensor:
        """Raw outputs ``[n, B]``."""
        return self.heads(self.inputs(obs, actions))

    def inputs(self, obs: Any, actions: th.Tensor) -> th.Tensor:
        """What the ensemble sees, ``[B, in]``."""
        return th.cat([self.scaled(obs), actions.flatten(1)], dim=1)


class SafetyCritic(nn.Module):
    r"""Ensemble estimate of the risk :math:`Q_{risk}(s, a)`.

    ``kind="probability"``: discounted probability of a future constraint violation, in [0, 1], with the target
    :math:`c + (1 - c)\,\gamma_{risk}\,(1 - done)\,\max_i Q'_i(s', a')`, where ``c`` says whether *s'* violates the
    constraint (Recovery RL, equations 3.2 and 3.3; SQRL, section 5.1; both label the current state in print and
    the next one in their code, and the published thresholds belong to the code).
    ``kind="return"``: discounted sum of the costs, >= 0 in truth, with the target
    :math:`cost + \gamma_{risk}\,(1 - done)\,\max_i Q'_i(s', a')`.
    ``done`` is no time-out. The estimate is the maximum over the ensemble, pessimistic on purpose.

    Args:
        observation_space: any space that SB3 has a features extractor for.
        action_space: Box; actions are scaled to [-1, 1] where tensors are taken, and in its own units by ``risk``.
        kind: see above.
        gamma_risk: discount of the risk, in [0, 1].
        net_arch: hidden layers.
        n_critics: members of the ensemble.
        learning_rate: of Adam.
        tau: target network's rate.
        loss: ``"mse"``, or ``"bce"`` (cross-entropy as in the released SQRL; probability kind only).
        features_extractor_class: SB3 extractor; None: by the space. The critic always has its own.
        features_extractor_kwargs: its arguments.
        latent_dim: generate the weights from latent vectors of this size (see ``GeneratedMLP``); None: plain weights.

    Raises:
        ValueError: for values outside the stated ranges.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        kind: RiskKind = "probability",
        gamma_risk: float = 0.8,
        net_arch: Sequence[int] = (256, 256),
        n_critics: int = 2,
        learning_rate: float = 3e-4,
        tau: float = 2e-4,
        loss: Literal["mse", "bce"] = "mse",
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        latent_dim: int | None = None,
    ) -> None:
        super().__init__()
        _validate(action_space, kind, gamma_risk, loss, tau, n_critics)
        self.config: dict[str, Any] = dict(
            kind=kind, gamma_risk=gamma_risk, net_arch=tuple(net_arch), n_critics=n_critics,
            learning_rate=learning_rate, tau=tau, loss=loss,
            features_extractor_class=features_extractor_class, features_extractor_kwargs=features_extractor_kwargs,
            latent_dim=latent_dim,
        )  # fmt: skip
        self.observation_space, self.action_space = observation_space, action_space
        self.kind, self.gamma_risk, self.loss, self.tau = kind, gamma_risk, loss, tau
        action_dim = int(np.prod(action_space.shape or (1,)))
        self.online = RiskNetwork(
            observation_space, action_dim, n_critics, net_arch, features_extractor_class, features_extractor_kwargs,
            latent_dim,
        )  # fmt: skip
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.optimizer = FusedAdam(self.online.parameters(), lr=learning_rate, fused=True)

    @property
    def device(self) -> th.device:
        """Device of the weights."""
        return self.online.observation_mean.device

    def members(self, obs: Any, actions: th.Tensor) -> th.Tensor:
        """Estimates of the ensemble's members, ``[n, B]``; differentiable."""
        return self._activate(self.online(obs, actions))

    def forward(self, obs: Any, actions: th.Tensor) -> th.Tensor:
        """Pessimistic risk ``[B, 1]`` of observation tensors and scaled actions ``[B, A]``; differentiable."""
        return self.members(obs, actions).amax(dim=0).unsqueeze(1)

    def targets(self, batch: CostBatch, next_actions: th.Tensor) -> th.Tensor:
        """Bellman targets ``[B, 1]``."""
        with th.no_grad():
            following = self._activate(self.target(batch.next_observations, next_actions)).amax(0).unsqueeze(1)
            bootstrap = self.gamma_risk * (1.0 - batch.dones) * following
            if self.kind == "probability":
                return batch.violations + (1.0 - batch.violations) * bootstrap
            return batch.costs + bootstrap

    def loss_of(self, outputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
        """Loss of the network's raw outputs ``[n, B]`` for targets ``[B, 1]``, summed over the members."""
        expected = targets.squeeze(1).expand_as(outputs)
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(outputs, expected) * len(outputs)
        return F.mse_loss(self._activate(outputs), expected) * len(outputs)

    def update(self, batch: CostBatch, next_actions: th.Tensor) -> float:
        """One gradient step and one target update; returns the loss.

        Args:
            batch: transitions; their *executed* actions are used.
            next_actions: actions ``[B, A]`` at the next observations, scaled.
        """
        targets = self.targets(batch, next_actions)
        inputs = self.online.inputs(batch.observations, batch.executed_actions)
        self.optimizer.zero_grad()
        loss = self.online.heads.fit(inputs, lambda outputs: self.loss_of(outputs, targets))
        self.optimizer.step()
        self.update_target(self.tau)
        return loss

    def update_target(self, tau: float) -> None:
        """Move the target network towards the online one (``tau=1`` copies it)."""
        with th.no_grad():
            th._foreach_lerp_(list(self.target.parameters()), list(self.online.parameters()), tau)
            for own, other in zip(self.target.buffers(), self.online.buffers(), strict=True):
                own.copy_(other)

    def scale_inputs(self, observations: Any) -> None:
        """Standardise the features of the observations by the mean and deviation of these rows ``[N, ...]``.

        Features that are constant in them are only shifted.
        """
        if self.online.learns_features:
            raise ValueError("scale_inputs standardises flat observations; this critic learns its features")
        self.online.standardise(self.tensors(observations))
        self.target.standardise_like(self.online)

    def risk(self, obs: Any, action: NDArray[Any]) -> NDArray[np.float32]:
        """Risk ``[B]`` of observations ``[B, ...]`` (or a dict of them) and actions ``[B, ...]``, environment units."""
        actions = th.as_tensor(scale_action(np.asarray(action), self.action_space), device=self.device)
        with th.no_grad():
            return self.forward(self.tensors(obs), actions.flatten(1)).squeeze(1).cpu().numpy()

    def tensors(self, obs: Any) -> Any:
        """Batched NumPy observations as tensors on the critic's device."""
        return as_tensors(obs, self.observation_space, self.device)

    def _activate(self, outputs: th.Tensor) -> th.Tensor:
        return th.sigmoid(outputs) if self.kind == "probability" else outputs


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Graphs built in this block do not reach the module's weights: gradients flow through it for less."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _validate(
    action_space: spaces.Space[Any], kind: str, gamma_risk: float, loss: str, tau: float, n_critics: int
) -> None:
    if not 0.0 < tau <= 1.0:
        raise ValueError(f"tau must be in (0, 1], got {tau}")
    if n_critics < 1:
        raise ValueError(f"n_critics must be >= 1, got {n_critics}")
    if not isinstance(action_space, spaces.Box):
        raise ValueError(
            f"a SafetyCritic needs a Box action space, got {action_space}; PPOLag, TRPOLag and CPO take any"
        )
    if kind not in ("probability", "return"):
        raise ValueError(f"kind must be 'probability' or 'return', got {kind!r}")
    if not 0.0 <= gamma_risk <= 1.0:
        raise ValueError(f"gamma_risk must be in [0, 1], got {gamma_risk}")
    if loss not in ("mse", "bce") or (loss == "bce" and kind == "return"):
        raise ValueError(f"loss must be 'mse', or 'bce' with kind='probability'; got {loss!r} with kind={kind!r}")
