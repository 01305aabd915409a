"""Recovery RL, model-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from safe_wrappers.transitions import Transitions
from sb3_ext.common.buffers import CostBatch, unscale_action
from sb3_ext.common.export import ExportedFilter
from sb3_ext.common.limits import fitting
from sb3_ext.common.recovery_policy import RecoveryActor
from sb3_ext.common.risk_sac import RiskSAC
from sb3_ext.common.safety_critic import SafetyCritic
from sb3_ext.common.selectors import ThresholdRecovery

TUNED_RECOVERY: dict[str, Any] = {"scale_inputs": True, "composite": True, "risk_kwargs": {"tau": 0.005}}
"""Arguments with which ``RecoveryRL`` learns Navigation 2; with the published ones (the defaults) it goes nowhere there
for 60 episodes, see docs/results.md. Also for ``MESA`` and ``MultiTask``."""


class RecoveryRL(RiskSAC):
    """Recovery RL (Thananjeyan et al. 2021, algorithm 1) with a model-free recovery policy.

    SAC proposes; where the safety critic's risk of the proposal exceeds ``eps_risk``, a recovery policy that
    descends that risk acts instead (equation 4.1). SAC learns as if its proposal had been executed (relabelling,
    section 4.1), the safety critic and the recovery policy from what was executed and from offline data.

    Deviations: the temperature is fixed at 0.2 unless ``ent_coef`` is given (as in the released code, not in
    SB3); with ``deterministic=True`` the recovery policy acts with its mean; SAC's networks start as SB3's do (the
    released code: Xavier), and updates begin after ``learning_starts`` steps (there: once a batch is full).

    Args:
        policy: as in SB3.
        env: as in SB3.
        learning_rate: as in SB3.
        relabel: train SAC on its proposals (the paper) or on the executed actions (its ablation).
        recovery_kwargs: further arguments of ``RecoveryActor``.
        **kwargs: of ``RiskSAC``: ``eps_risk``, the risk above which the recovery policy acts (0.1), ``gamma_risk``, its
            discount (0.8), ``scale_inputs``, ``composite``, ``risk_kwargs`` and others; SB3's of ``SAC``.

    Examples:
        >>> import numpy as np
        >>> import safe_envs
        >>> data = safe_envs.collect_constraint_data("safe/Navigation2-v0", 500, seed=0)
        >>> model = RecoveryRL("MlpPolicy", "safe/Navigation2-v0", gamma_risk=0.65, eps_risk=0.1)
        >>> _ = model.pretrain(data, steps=10).learn(20)
        >>> model.recovery(np.zeros((3, 2), dtype=np.float32)).shape
        (3, 2)
    """

    parts: ClassVar[tuple[str, ...]] = (*RiskSAC.parts, "recovery_policy")

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any = 3e-4,
        *,
        relabel: bool = True,
        recovery_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.recovery_kwargs = dict(recovery_kwargs or {})
        kwargs.setdefault("ent_coef", 0.2)
        super().__init__(policy, env, learning_rate, **kwargs)
        self.relabel = relabel

    def _setup_safety(self) -> None:
        super()._setup_safety()
        with fitting("recovery_kwargs", RecoveryActor):
            self.recovery_policy = RecoveryActor(
                self.observation_space, self.action_space, **{**self._extractor_kwargs(), **self.recovery_kwargs}
            ).to(self.device)
        self.selector = ThresholdRecovery(self.safety_critic, self.recovery_policy, lambda: self.limit)

    def recovery(self, obs: Any) -> NDArray[Any]:
        """Recovery actions ``[B, ...]``, environment units, for observations ``[B, ...]`` as ``predict`` takes them."""
        actions = self.recovery_policy.act(self.safety_critic.tensors(obs), deterministic=True).cpu().numpy()
        return unscale_action(actions.reshape(-1, *self._action_shape), self.action_space)

    def as_filter(self) -> ExportedFilter:
        """What the model knows of danger, for raw observations; wrappers' ``from_model`` uses it."""
        return ExportedFilter.from_model(self)

    def export_filter(self, path: str | Path) -> ExportedFilter:
        """Write what ``safe_wrappers.RecoveryFilter.from_model`` needs, observation statistics included."""
        exported = self.as_filter()
        exported.save(path)
        return exported

    def _fit_normalisation(self, dataset: Transitions) -> None:
        super()._fit_normalisation(dataset)
        if self.scale_inputs:
            self.recovery_policy.standardise_like(self.safety_critic.online)

    def use_critic(self, critic: SafetyCritic) -> Self:
        """See ``RiskSAC.use_critic``; the recovery policy's inputs are scaled alike."""
        super().use_critic(critic)
        own, theirs = self.recovery_policy, self.safety_critic.online
        if own.observation_mean.shape == theirs.observation_mean.shape:  # else the extractors differ
            own.standardise_like(theirs)
        return self

    def _follow_risk(self, batch: CostBatch) -> None:
        risk = self.recovery_policy.update(batch.observations, self.safety_critic)
        self._metrics["safety/recovery_risk"].append(risk)
