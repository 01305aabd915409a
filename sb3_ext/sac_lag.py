"""SAC-Lagrangian and reward-free switches of its multiplier (RSPO)."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_ext.common.buffers import CostBatch
from sb3_ext.common.priced_risk import PricedRiskSAC


class SACLag(PricedRiskSAC):
    r"""SAC with a Lagrangian penalty on risk ("LR" in Recovery RL, appendix A).

    The actor maximises :math:`\min Q - \alpha \log\pi - \lambda\,(Q_{risk}(s, a) - limit)`, and :math:`\lambda`
    ascends on the excess. Deviation from the released code: the multiplier is learned for real
    (``fixed_multiplier`` gives the released behaviour).

    The arguments that matter most, of ``PricedRiskSAC`` and ``RiskSAC`` in ``sb3_ext.common``: ``cost_limit`` on an
    episode's undiscounted cost, or ``eps_risk`` on the discounted probability of a violation (0.1 if neither is given);
    ``gamma_risk``, the risk's discount; ``multiplier`` (``"gradient"``, ``"pid"``, ``"schedule"``, ``"fixed"``) and
    ``multiplier_kwargs``. SB3's ``SAC`` has the others.

    Examples:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), lambda obs, action, next_obs, info: abs(next_obs[2]) > 6)
        >>> model = SACLag("MlpPolicy", env, cost_limit=10, learning_starts=10).learn(12)
        >>> model.risk(env.observation_space.sample()[None], env.action_space.sample()[None]).shape
        (1,)
    """

    def _actor_loss(self, batch: CostBatch, actions: th.Tensor, soft_value: th.Tensor) -> th.Tensor:
        excess = self._risk_of(batch.observations, actions) - self.limit
        return super()._actor_loss(batch, actions, soft_value) + self.multiplier.value * excess.mean()


class RSPO(SACLag):
    """Risk-sensitive policy optimisation: ``SACLag`` whose multiplier falls linearly to 0 (Recovery RL, appendix A).

    The schedule alone decides the price of risk: whether ``eps_risk`` or ``cost_limit`` is given decides what the
    safety critic predicts, their value only what is logged as excess.

    Args:
        policy: as in SB3.
        env: as in SB3.
        learning_rate: as in SB3.
        multiplier_start: first value of the multiplier (twice LR's in the paper).
        anneal_episodes: episodes after which it is 0, as in the released code; None: at the end of ``learn``.
        **kwargs: see ``RiskSAC``.

    Examples:
        >>> import safe_envs
        >>> data = safe_envs.collect_constraint_data("safe/Navigation1-v0", 500, seed=0)
        >>> model = RSPO("MlpPolicy", "safe/Navigation1-v0", eps_risk=0.3, multiplier_start=100, learning_starts=10)
        >>> _ = model.pretrain(data, steps=5).learn(20)
        >>> model.multiplier.value
        0.0
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any = 3e-4,
        *,
        multiplier_start: float = 10.0,
        anneal_episodes: int | None = None,
        **kwargs: Any,
    ) -> None:
        if anneal_episodes is not None and anneal_episodes < 1:
            raise ValueError(f"anneal_episodes must be >= 1, got {anneal_episodes}")
        self.anneal_episodes = anneal_episodes
        super().__init__(policy, env, learning_rate, **self.scheduled(kwargs, start=multiplier_start, end=0.0))

    def _progress(self) -> float:
        if self.anneal_episodes is None:
            return super()._progress()
        return self.n_episodes / self.anneal_episodes
