"""Reward-constrained policy optimisation, and the risk-sensitive SAC of SQRL's comparison."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_ext.common.buffers import CostBatch
from sb3_ext.common.priced_risk import PricedRiskSAC


class RCPO(PricedRiskSAC):
    r"""SAC whose reward is charged for risk: :math:`r - \lambda\,Q_{risk}(s, a)` (Tessler et al. 2018).

    As in Recovery RL's comparison (appendix A) the charge enters the target of the reward critics, at terminal
    transitions too, and :math:`\lambda` ascends on the excess of the risk of replayed actions.

    The arguments that matter most, of ``PricedRiskSAC`` and ``RiskSAC`` in ``sb3_ext.common``: ``cost_limit`` on an
    episode's undiscounted cost, or ``eps_risk`` on the discounted probability of a violation (0.1 if neither is given);
    ``gamma_risk``, the risk's discount; ``multiplier`` (``"gradient"``, ``"pid"``, ``"schedule"``, ``"fixed"``) and
    ``multiplier_kwargs``. SB3's ``SAC`` has the others.

    Examples:
        >>> import safe_envs
        >>> data = safe_envs.collect_constraint_data("safe/Navigation1-v0", 500, seed=0)
        >>> price = {"value": 1000.0, "learning_rate": 3e-5}
        >>> model = RCPO("MlpPolicy", "safe/Navigation1-v0", eps_risk=0.3, multiplier_kwargs=price, learning_starts=10)
        >>> model.pretrain(data, steps=5).learn(20).num_timesteps
        20
    """

    def _rewards(self, batch: CostBatch) -> th.Tensor:
        return batch.rewards - self.multiplier.value * self._risk_of(batch.observations, batch.actions)


class RiskSensitiveSAC(RCPO):
    """``RCPO`` with a multiplier that grows linearly to a fixed value (SQRL, section 7; its released schedule).

    As in ``RSPO``, the value of the limit decides nothing.

    Args:
        policy: as in SB3.
        env: as in SB3.
        learning_rate: as in SB3.
        multiplier_end: last value.
        anneal_updates: updates that it takes to get there.
        **kwargs: see ``RiskSAC``.

    Examples:
        >>> import safe_envs
        >>> model = RiskSensitiveSAC("MlpPolicy", "safe/DrunkSpider-v0", anneal_updates=10, learning_starts=10)
        >>> model.learn(30).multiplier.value
        10.0
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any = 3e-4,
        *,
        multiplier_end: float = 10.0,
        anneal_updates: int = 10_000,
        **kwargs: Any,
    ) -> None:
        if anneal_updates < 1:
            raise ValueError(f"anneal_updates must be >= 1, got {anneal_updates}")
        schedule = self.scheduled(kwargs, start=0.0, end=multiplier_end, duration=anneal_updates)
        super().__init__(policy, env, learning_rate, **schedule)
