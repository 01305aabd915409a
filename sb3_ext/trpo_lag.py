"""TRPO-Lagrangian, with a multiplier that is learned by gradient ascent or controlled by PID."""

from __future__ import annotations

from typing import ClassVar

from sb3_contrib import TRPO

from sb3_ext.common.lagrangian import LagrangianOnPolicy


class TRPOLag(LagrangianOnPolicy, TRPO):
    r"""TRPO with a price on cost (Ray, Achiam and Amodei 2019, "Benchmarking safe exploration", section 5).

    The natural-gradient step of TRPO with the advantages
    :math:`(A - \sum_k \lambda_k A_{c,k}) / (1 + \sum_k \lambda_k)`; multipliers and deviations are those of ``PPOLag``
    but for the early end of updates, which here the trust region limits.
    While all multipliers are 0 it is sb3-contrib's ``TRPO``, bit for bit on the same seed.

    Beside sb3-contrib's arguments of ``TRPO``: ``cost_limit`` on an episode's undiscounted cost (25, or a dict by the
    names of costs) and further arguments of ``CostOnPolicy``; ``multiplier`` and ``multiplier_kwargs`` of
    ``LagrangianOnPolicy``.

    Examples:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), lambda obs, action, next_obs, info: abs(next_obs[2]) > 6)
        >>> model = TRPOLag("MlpPolicy", env, cost_limit=10, n_steps=256, seed=0).learn(512)
        >>> model.multipliers["cost"].value > 0
        True
    """


class TRPOPID(TRPOLag):
    """``TRPOLag`` whose multiplier a PID controller moves (Stooke, Achiam and Abbeel 2020, algorithm 2).

    Args are those of ``TRPOLag``; ``multiplier_kwargs`` holds ``kp``, ``ki``, ``kd`` and ``smoothing``.

    Examples:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), lambda obs, action, next_obs, info: abs(next_obs[2]) > 6)
        >>> model = TRPOPID("MlpPolicy", env, cost_limit=10, n_steps=256, seed=0).learn(512)
        >>> model.multipliers["cost"].value > 0
        True
    """

    default_multiplier: ClassVar[str] = "pid"
