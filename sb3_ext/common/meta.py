"""Model-agnostic meta-learning (MAML, Finn et al. 2017) of a safety critic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sb3_ext.common.fused import unfused
from sb3_ext.common.safety_critic import SafetyCritic

RATES_LEARNING_RATE = 1e-3
"""Of Adam on the inner step sizes, where they are learned (released code of MESA)."""
MAX_GRADIENT_NORM = 40.0
"""The meta-gradient is scaled down to this (released code of MESA)."""

Weights = dict[str, th.Tensor]


class Labelled(NamedTuple):
    """Transitions with the targets of their risk: observations ``[B, ...]``, actions ``[B, A]``, targets ``[B, 1]``."""

    observations: Any
    actions: th.Tensor
    targets: th.Tensor


class MetaLearner:
    r"""Finds weights of a safety critic from which one step on a task's data leads far (MESA, algorithm 2, phase 1).

    .. math::
        \psi'_j = \psi - \alpha_1 \nabla_\psi L(\psi, B^{in}_j), \qquad
        \psi \leftarrow \psi - \alpha_2 \nabla_\psi \frac{1}{K} \sum_j L(\psi'_j, B^{out}_j)

    The second derivative is taken in full; :math:`\alpha_2` is the rate of Adam.

    Args:
        critic: whose online weights are learned; its target network is not moved here.
        inner_lr: :math:`\alpha_1`, of plain gradient descent, > 0.
        outer_lr: :math:`\alpha_2`, > 0.
        inner_steps: gradient steps on the inner batch, >= 1.
        learn_inner_lr: learn a step size for every weight, starting from ``inner_lr`` (the released code).

    Raises:
        ValueError: for rates or steps out of range.
    """

    def __init__(
        self,
        critic: SafetyCritic,
        inner_lr: float = 1e-3,
        outer_lr: float = 1e-5,
        inner_steps: int = 1,
        learn_inner_lr: bool = False,
    ) -> None:
        check_meta_settings(inner_lr, outer_lr, inner_steps)
        self.critic, self.inner_lr, self.inner_steps = critic, inner_lr, inner_steps
        self.weights: Weights = {k: p for k, p in critic.online.named_parameters() if p.requires_grad}
        # Their softplus is the step size, which so stays positive.
        start = math.log(math.expm1(inner_lr))
        self._log_rates = [
            nn.Parameter(th.full_like(weight, start), requires_grad=learn_inner_lr) for weight in self.weights.values()
        ]
        groups: list[dict[str, Any]] = [{"params": list(self.weights.values()), "lr": outer_lr}]
        if learn_inner_lr:
            groups.append({"params": self._log_rates, "lr": RATES_LEARNING_RATE})
        self.optimizer = th.optim.Adam(groups)

    def adapted(self, batch: Labelled, differentiable: bool = False) -> Weights:
        """The critic's weights after the inner steps on a batch.

        Args:
            batch: of one task.
            differentiable: keep the graph, so that a loss of the result has a gradient at the critic's weights.
        """
        weights = dict(self.weights)
        for _ in range(self.inner_steps):
            gradients = th.autograd.grad(self.loss(weights, batch), list(weights.values()), create_graph=differentiable)
            steps = zip(weights.items(), self._rates(), gradients, strict=True)
            weights = {key: weight - rate * gradient for (key, weight), rate, gradient in steps}
        return weights

    def loss(self, weights: Weights, batch: Labelled) -> th.Tensor:
        """The safety critic's loss (equation 6.1) under other weights."""
        outputs = functional_call(self.critic.online, weights, (batch.observations, batch.actions))
        return self.critic.loss_of(outputs, batch.targets)

    def update(self, tasks: Sequence[tuple[Labelled, Labelled]]) -> float:
        """One step of the outer loop; returns the mean loss after adaptation.

        Args:
            tasks: an inner and an outer batch of each task.
        """
        self.optimizer.zero_grad()
        total = 0.0
        with unfused(self.critic.online):
            for inner, outer in tasks:  # one graph at a time
                loss = self.loss(self.adapted(inner, differentiable=True), outer) / len(tasks)
                loss.backward()
                total += loss.item()
        nn.utils.clip_grad_norm_(self.weights.values(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return total

    def _rates(self) -> Sequence[th.Tensor | float]:
        if not self._log_rates[0].requires_grad:
            return [self.inner_lr] * len(self._log_rates)
        return [F.softplus(rate) for rate in self._log_rates]


def check_meta_settings(inner_lr: float, outer_lr: float, inner_steps: int) -> None:
    """Check the arguments of ``MetaLearner``.

    Raises:
        ValueError: naming the one that is out of range.
    """
    for name, value in (("inner_lr", inner_lr), ("outer_lr", outer_lr)):
        if not (math.isfinite(value) and value > 0.0):
            raise ValueError(f"{name} must be > 0, got {value}")
    if inner_steps < 1:
        raise ValueError(f"inner_steps must be >= 1, got {inner_steps}")
