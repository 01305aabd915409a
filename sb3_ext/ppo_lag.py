"""PPO-Lagrangian, with a multiplier that is learned by gradient ascent or controlled by PID."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

from stable_baselines3 import PPO

from sb3_ext.common.lagrangian import LagrangianOnPolicy

PRICED_TARGET_KL = 0.02
"""As in OmniSafe, whose updates have up to 40 epochs."""


class PPOLag(LagrangianOnPolicy, PPO):
    r"""PPO with a price on cost (Ray, Achiam and Amodei 2019, "Benchmarking safe exploration", section 5).

    PPO maximises its clipped surrogate with the advantages
    :math:`(A - \sum_k \lambda_k A_{c,k}) / (1 + \sum_k \lambda_k)`; before that :math:`\lambda_k` ascends on
    :math:`J_{c,k} - d_k`, the undiscounted cost of an episode beyond its limit. While all multipliers are 0 it is SB3's
    ``PPO``, bit for bit on the same seed.

    Deviations: the multiplier starts at 0 and is projected to >= 0 (there: softplus of a parameter, from 1), so that
    an inert limit changes nothing, and learns with Adam, as fast whatever the rollouts' length (see
    ``multiplier_kwargs``; there 0.05 for 30,000 steps). The advantages of rewards are standardised and those of costs
    centred over the rollout before they are joined (``normalize_advantage``), as in the paper's code; SB3's
    standardisation of each minibatch is left out while a multiplier is above 0, and an update then ends early
    (``priced_target_kl``), as in the paper's code. The cost critic is fitted with its own optimiser, in larger batches
    than PPO's. Time-outs are bootstrapped.

    Args:
        policy: as in SB3.
        env: as in SB3; its steps carry ``info["cost"]``.
        *args: further arguments of SB3's ``PPO``, in its order.
        priced_target_kl: ``target_kl`` of SB3 while a multiplier is above 0, where that is None; None: no early end.
            Without one, a rollout whose costs are large moves the policy too far: on Safety-Gymnasium's
            SafetyPointGoal1 its deviations fell to 0.03 and one update's divergence reached 1 to 2.
        **kwargs: ``cost_limit`` on an episode's undiscounted cost (25, or a dict by the names of costs) and further
            arguments of ``CostOnPolicy``; ``multiplier`` and ``multiplier_kwargs`` of ``LagrangianOnPolicy``; SB3's.

    Examples:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), lambda obs, action, next_obs, info: abs(next_obs[2]) > 6)
        >>> model = PPOLag("MlpPolicy", env, cost_limit=10, n_steps=256, seed=0).learn(512)
        >>> model.multipliers["cost"].value > 0
        True
    """

    target_kl: float | None

    def __init__(
        self, policy: Any, env: Any, *args: Any, priced_target_kl: float | None = PRICED_TARGET_KL, **kwargs: Any
    ) -> None:
        if priced_target_kl is not None and not priced_target_kl > 0.0:
            raise ValueError(f"priced_target_kl must be > 0 or None, got {priced_target_kl}")
        self.priced_target_kl = priced_target_kl
        super().__init__(policy, env, *args, **kwargs)

    @contextlib.contextmanager
    def _settings_of_prices(self) -> Iterator[None]:
        asked = self.target_kl
        self.target_kl = self.priced_target_kl if asked is None else asked
        try:
            with super()._settings_of_prices():
                yield
        finally:
            self.target_kl = asked


class PPOPID(PPOLag):
    """``PPOLag`` whose multiplier a PID controller moves (Stooke, Achiam and Abbeel 2020, algorithm 2).

    Deviation: no clipping of the multiplier other than to >= 0, and the gains apply to costs per episode as they are.

    Args are those of ``PPOLag``; ``multiplier_kwargs`` holds ``kp``, ``ki``, ``kd`` and ``smoothing``.

    Examples:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), lambda obs, action, next_obs, info: abs(next_obs[2]) > 6)
        >>> model = PPOPID("MlpPolicy", env, cost_limit=10, n_steps=256, seed=0).learn(512)
        >>> model.multipliers["cost"].value > 0
        True
    """

    default_multiplier: ClassVar[str] = "pid"
