"""A price on each cost, for any on-policy algorithm that learns from advantages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sb3_ext.common.cost_on_policy import CostOnPolicy
from sb3_ext.common.multipliers import Multiplier, make_multiplier

LEARNING_RATE, LEARNING_RATE_STEPS = 0.1, 20_000
"""Of the multiplier, for a rollout of so many steps. OmniSafe has 0.035 and learns for ten million steps; SB3's users
for about one."""


class LagrangianOnPolicy(CostOnPolicy):
    """``CostOnPolicy`` that puts a price on each cost.

    Before the policy learns from a rollout, each multiplier moves by how much the cost of the episodes that ended in
    it exceeds the limit (before the first one has ended, by how much a running one does already), and the advantages
    become (A - sum of multiplier * A_c) / (1 + sum of multipliers). With all multipliers at 0 they stay as they are,
    and with ``normalize_advantage`` the base standardises them by minibatches. Where there is a price it does not:
    those of rewards are then standardised, and those of costs centred, over the rollout.

    Args:
        policy: as in SB3.
        env: as in SB3.
        *args: the base's further arguments.
        multiplier: ``"gradient"``, ``"pid"``, ``"schedule"`` or ``"fixed"``; None: ``default_multiplier`` of the class.
        multiplier_kwargs: arguments of that multiplier. ``"gradient"`` starts at 0, is projected to >= 0 and, unless
            they say otherwise, learns with a rate of 0.1 for a rollout of 20,000 steps, and as much less as the
            rollouts are shorter: the price rises as fast per step, whatever their length.
        **kwargs: see ``CostOnPolicy``.

    Attributes:
        multipliers: by the name of the limited cost: ``model.multipliers["cost"].value``.
    """

    parts: ClassVar[tuple[str, ...]] = (*CostOnPolicy.parts, "multipliers")
    default_multiplier: ClassVar[str] = "gradient"
    normalize_advantage: bool

    def __init__(
        self,
        policy: Any,
        env: Any,
        *args: Any,
        multiplier: str | None = None,
        multiplier_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.multiplier_name = self.default_multiplier if multiplier is None else multiplier
        self.multiplier_kwargs = dict(multiplier_kwargs or {})
        self._make_multiplier(n_steps=1)  # fail early, before environments are made
        super().__init__(policy, env, *args, **kwargs)

    def _setup_safety(self) -> None:
        super()._setup_safety()
        self.multipliers = nn.ModuleDict()
        for name in self.cost_limits:
            self.multipliers[name] = self._make_multiplier(self.n_steps * self.n_envs)

    def _make_multiplier(self, n_steps: int) -> Multiplier:
        """A new multiplier for rollouts of so many steps."""
        rate = LEARNING_RATE * n_steps / LEARNING_RATE_STEPS
        return make_multiplier(
            self.multiplier_name, self.multiplier_kwargs, value=0.0, space="linear", learning_rate=rate
        )

    def train(self) -> None:
        """Learn the costs, move the multipliers, then let the base learn from the priced advantages."""
        advantages = self._learn_costs()
        self._move_multipliers()
        with self._settings_of_prices() if self._price(advantages) else contextlib.nullcontext():
            super().train()

    @contextlib.contextmanager
    def _settings_of_prices(self) -> Iterator[None]:
        """Standardised once more, a rollout without cost would make whole steps of the cost critic's errors."""
        asked, self.normalize_advantage = self.normalize_advantage, False
        try:
            yield
        finally:
            self.normalize_advantage = asked

    def _prices(self) -> list[tuple[str, Multiplier]]:
        return cast(list[tuple[str, Multiplier]], list(self.multipliers.items()))  # a ModuleDict forgets the type

    def _move_multipliers(self) -> None:
        excess = self.episode_cost - self._limits
        for (name, price), over in zip(self._prices(), excess, strict=True):
            price.set_progress(1.0 - self._current_progress_remaining)
            # Before the first episode has ended, a low cost only means that it is young.
            if self._costs_are_news or (self.n_episodes == 0 and over > 0.0):
                price.update(float(over))
            self.logger.record(self._key("multiplier", name), price.value)
        met = any(np.all(costs <= self._limits) for costs in self.recent_costs)
        self.logger.record("safety/infeasible", float(bool(self.recent_costs) and not met))

    def _price(self, advantages: NDArray[np.float64]) -> bool:
        """Take the priced costs from the advantages; False where nothing has a price."""
        prices = np.array([price.value for _, price in self._prices()])
        if not prices.any():
            return False
        rewards = self.rollout_buffer.advantages
        if self.normalize_advantage:
            # A multiplier of 1 then means the same early, with small returns, and late, with large ones.
            rewards = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
            advantages = advantages - advantages.mean(axis=(0, 1))
        self.rollout_buffer.advantages = ((rewards - advantages @ prices) / (1.0 + prices.sum())).astype(np.float32)
        return True
