"""A price on each cost, for any on-policy algorithm that learns from advantages."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sb3_ext.common.cost_on_policy import CostOnPolicy
from sb3_ext.common.multipliers import Multiplier, make_multiplier


class LagrangianOnPolicy(CostOnPolicy):
    """``CostOnPolicy`` that puts a price on each cost.

    Before the policy learns from a rollout, each multiplier moves by how much the cost of its episodes exceeds the
    limit, and the advantages become (A - sum of multiplier * A_c) / (1 + sum of multipliers). With all multipliers at
    0 the advantages stay as they are.

    Args:
        policy: as in SB3.
        env: as in SB3.
        *args: the base's further arguments.
        multiplier: ``"gradient"``, ``"pid"``, ``"schedule"`` or ``"fixed"``; None: ``default_multiplier`` of the class.
        multiplier_kwargs: arguments of that multiplier. ``"gradient"`` starts at 0, is projected to >= 0 and learns
            with a rate of 0.035 unless they say otherwise.
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
        gradient = {"value": 0.0, "space": "linear", "learning_rate": 0.035}
        defaults = gradient if self.multiplier_name == "gradient" else {}
        self.multiplier_kwargs = defaults | (multiplier_kwargs or {})
        make_multiplier(self.multiplier_name, self.multiplier_kwargs)  # fail early, before environments are made
        super().__init__(policy, env, *args, **kwargs)

    def _setup_safety(self) -> None:
        super()._setup_safety()
        self.multipliers = nn.ModuleDict()
        for name in self.cost_limits:
            self.multipliers[name] = make_multiplier(self.multiplier_name, self.multiplier_kwargs)

    def train(self) -> None:
        """Learn the costs, move the multipliers, then let the base learn from the priced advantages."""
        advantages = self._learn_costs()
        self._move_multipliers()
        self._price(advantages)
        super().train()

    def _prices(self) -> list[tuple[str, Multiplier]]:
        return cast(list[tuple[str, Multiplier]], list(self.multipliers.items()))  # a ModuleDict forgets the type

    def _move_multipliers(self) -> None:
        excess = self.episode_cost - self._limits
        for (name, price), over in zip(self._prices(), excess, strict=True):
            price.set_progress(1.0 - self._current_progress_remaining)
            if self.n_episodes > 0 or over > 0.0:  # before that, a low cost only means that an episode is young
                price.update(float(over))
            self.logger.record(self._key("multiplier", name), price.value)
        met = any(np.all(costs <= self._limits) for costs in self.recent_costs)
        self.logger.record("safety/infeasible", float(bool(self.recent_costs) and not met))

    def _price(self, advantages: NDArray[np.float64]) -> None:
        prices = np.array([price.value for _, price in self._prices()])
        if not prices.any():
            return
        rewards = self.rollout_buffer.advantages
        if self.normalize_advantage:
            # A multiplier of 1 then means the same early, with small returns, and late, with large ones.
            rewards = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
            advantages = advantages - advantages.mean(axis=(0, 1))
        self.rollout_buffer.advantages = ((rewards - advantages @ prices) / (1.0 + prices.sum())).astype(np.float32)
