"""``PricedRiskSAC``, the base of the algorithms whose safety critic and multiplier put a price on risk."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th

from sb3_ext.common.buffers import CostBatch
from sb3_ext.common.multipliers import Multiplier, make_multiplier
from sb3_ext.common.risk_sac import RiskSAC
from sb3_ext.common.safety_critic import frozen


class PricedRiskSAC(RiskSAC):
    """``RiskSAC`` that puts a price on risk.

    Args:
        policy: as in SB3.
        env: as in SB3.
        learning_rate: as in SB3.
        multiplier: ``"gradient"``, ``"pid"``, ``"schedule"`` or ``"fixed"``.
        multiplier_kwargs: arguments of that multiplier.
        fixed_multiplier: short for ``multiplier="fixed"`` at this value, which is what the released Recovery RL
            code does in effect for LR and SQRL (its dual variable never reaches the actor).
        **kwargs: see ``RiskSAC``.
    """

    parts: ClassVar[tuple[str, ...]] = (*RiskSAC.parts, "multiplier")
    gradient_multiplier: ClassVar[dict[str, float]] = {}
    """Arguments of a ``"gradient"`` multiplier where ``multiplier_kwargs`` do not say otherwise."""

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any = 3e-4,
        *,
        multiplier: str = "gradient",
        multiplier_kwargs: dict[str, Any] | None = None,
        fixed_multiplier: float | None = None,
        **kwargs: Any,
    ) -> None:
        if fixed_multiplier is not None:
            if multiplier != "gradient" or multiplier_kwargs:
                raise ValueError(
                    f"fixed_multiplier={fixed_multiplier} leaves nothing to multiplier={multiplier!r} and "
                    f"multiplier_kwargs={multiplier_kwargs}: give one or the other"
                )
            multiplier, multiplier_kwargs = "fixed", {"value": fixed_multiplier}
        self.multiplier_name, self.multiplier_kwargs = multiplier, dict(multiplier_kwargs or {})
        self._make_multiplier()  # fail early, before environments are made
        self._excess = 0.0
        super().__init__(policy, env, learning_rate, **kwargs)

    @staticmethod
    def scheduled(kwargs: dict[str, Any], **schedule: Any) -> dict[str, Any]:
        """Arguments of a subclass whose multiplier follows a schedule, and nothing else.

        Raises:
            ValueError: if they hold another multiplier.
        """
        if given := sorted({"multiplier", "multiplier_kwargs", "fixed_multiplier"} & set(kwargs)):
            raise ValueError(f"the multiplier is scheduled here, got {given}: SACLag and RCPO take any multiplier")
        return {**kwargs, "multiplier": "schedule", "multiplier_kwargs": schedule}

    def _setup_safety(self) -> None:
        super()._setup_safety()
        self.multiplier = self._make_multiplier()

    def _make_multiplier(self) -> Multiplier:
        return make_multiplier(self.multiplier_name, self.multiplier_kwargs, **self.gradient_multiplier)

    def _risk_of(self, obs: Any, actions: th.Tensor) -> th.Tensor:
        """Risk ``[B, 1]``, differentiable in the actions; remembers by how much it exceeds the limit."""
        with frozen(self.safety_critic.online):
            risk: th.Tensor = self.safety_critic(obs, actions)
        self._excess = float(risk.detach().mean()) - self.limit
        return risk

    def _progress(self) -> float:
        """Share of the training that is over, for schedules."""
        return 1.0 - self._current_progress_remaining

    def _safety_step(self, batch: CostBatch) -> None:
        self.multiplier.set_progress(self._progress())
        self.multiplier.update(self._excess)
        self._metrics["safety/multiplier"].append(self.multiplier.value)
        self._metrics["safety/excess"].append(self._excess)
        super()._safety_step(batch)
