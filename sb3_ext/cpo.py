"""Constrained policy optimisation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import TRPO
from sb3_contrib.common.utils import conjugate_gradient_solver, flat_grad
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.utils import explained_variance
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from sb3_ext.common.cost_on_policy import CostOnPolicy
from sb3_ext.common.cost_rollout import (
    CostDictRolloutBuffer,
    CostRolloutBuffer,
    CostRolloutSamples,
    CostRolloutStorage,
)
from sb3_ext.common.trust_region import MAX_LIMITS, TrustRegionStep, trust_region_step

Surrogates = Callable[[], tuple[th.Tensor, th.Tensor]]
"""The surrogate objectives ``[1 + K]`` of reward and costs, and the divergence from the old policy."""
ALIKE = 1.0 - 1e-3
"""Most that two limits are taken to agree: what is left between two of the same cost is the solver's rounding."""


class CPO(CostOnPolicy, TRPO):
    r"""Constrained policy optimisation (Achiam, Held, Tamar and Abbeel 2017).

    Each update solves problem (10): the largest gain of the surrogate objective within the trust region
    :math:`\frac{1}{2} x^T H x \leq \delta` whose costs stay within their limits to first order, by the closed form
    of equations (11) and (12); where no step can, the recovery step (14) reduces the cost. A backtracking line search
    (section 6.1) then makes sure of divergence, costs and, where the limits were met, of the objective. Everything
    else is sb3-contrib's ``TRPO``, whose step it takes where no limit matters.

    Deviations: the limit is on the undiscounted cost of an episode, so that its excess is divided by the episodes'
    mean length before it meets the per-step surrogate (the released Safety Starter Agents do the same). Any number of
    limits up to 8, where the paper prints the solution for one. A limit that the policy cannot influence at all is
    left out of the step. Time-outs are bootstrapped. No cost shaping (section 6.3).

    ``safety/infeasible`` in the log is 1.0 after an update whose limits no step could meet, by the surrogates of its
    own rollout. These promise more than they keep where a rollout holds a few episodes only: give it more
    (``n_steps``), or let a margin make up for it, as Safety Starter Agents can.

    Args:
        policy: as in SB3.
        env: as in SB3.
        *args: the base's further arguments.
        margin_learning_rate: with every rollout in which episodes ended, ``margin`` grows by this share of their mean
            excess, never below 0, and the steps keep that much below the limit.
        **kwargs: ``cost_limit`` on an episode's undiscounted cost (25, or a dict by the names of costs) and further
            arguments of ``CostOnPolicy``; sb3-contrib's of ``TRPO``.

    Attributes:
        margin: ``[K]``, in the unit of the limits.

    Raises:
        ValueError: if the rate is negative.

    Examples:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), lambda obs, action, next_obs, info: abs(next_obs[2]) > 6)
        >>> model = CPO("MlpPolicy", env, cost_limit=10, n_steps=256, seed=0).learn(512)
        >>> model.last_step.feasible
        True
    """

    rollout_buffer: CostRolloutStorage
    last_step: TrustRegionStep | None = None

    def __init__(self, policy: Any, env: Any, *args: Any, margin_learning_rate: float = 0.0, **kwargs: Any) -> None:
        if not margin_learning_rate >= 0.0:
            raise ValueError(f"margin_learning_rate must be >= 0, got {margin_learning_rate}")
        super().__init__(policy, env, *args, **kwargs)
        self.margin_learning_rate, self.margin = margin_learning_rate, np.zeros(len(self.cost_limits))

    def _setup_model(self) -> None:
        if len(self.cost_limits) > MAX_LIMITS:
            raise ValueError(f"CPO takes at most {MAX_LIMITS} limits, got {len(self.cost_limits)}; PPOLag takes any")
        if self.rollout_buffer_class is None:
            wide = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = CostDictRolloutBuffer if wide else CostRolloutBuffer
        if not issubclass(self.rollout_buffer_class, CostRolloutStorage):
            raise ValueError(
                f"rollout_buffer_class must be a CostRolloutStorage, got {self.rollout_buffer_class.__name__}"
            )
        super()._setup_model()

    def train(self) -> None:
        """One step of the policy, then the updates of the value function."""
        advantages = self._learn_costs()
        advantages -= advantages.mean(axis=(0, 1))
        self.rollout_buffer.cost_advantages = advantages.astype(np.float32)
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        actor_params = self._policy_step()
        value_loss = self._value_steps(actor_params)
        self._n_updates += 1
        self.logger.record("train/value_loss", value_loss)
        values, returns = self.rollout_buffer.values, self.rollout_buffer.returns
        self.logger.record("train/explained_variance", explained_variance(values.flatten(), returns.flatten()))
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    # ------------------------------------------------------------------ policy

    def _policy_step(self) -> list[nn.Parameter]:
        """Take the constrained step; gives the parameters that it may move."""
        excess = self._widened_excess() / max(self.episode_length, 1.0)
        (rollout,) = self.rollout_buffer.get(batch_size=None)
        surrogates = self._surrogates(rollout.every(self.sub_sampling_factor))
        params, direction, step = self._search_direction(surrogates, excess)
        excess[list(step.helpless)] = -np.inf  # or an exceeded one would reject every step
        success, gain, divergence = self._line_search(surrogates, params, direction, excess, not step.recovers)
        self.last_step = step
        self.logger.record("train/policy_objective", gain)
        self.logger.record("train/kl_divergence_loss", divergence)
        self.logger.record("train/is_line_search_success", float(success))
        self.logger.record("safety/infeasible", float(not step.feasible))
        for name, price in zip(self.cost_limits, step.multipliers, strict=True):
            self.logger.record(self._key("multiplier", name), float(price))
        return params

    def _widened_excess(self) -> NDArray[np.float64]:
        """By how much the cost of an episode exceeds limit and margin, which then moves."""
        excess = self.episode_cost - self._limits
        if self._costs_are_news:
            self.margin = np.maximum(self.margin + self.margin_learning_rate * excess, 0.0)
        for name, margin in zip(self.cost_limits, self.margin, strict=True):
            self.logger.record(self._key("margin", name), float(margin))
        widened: NDArray[np.float64] = excess + self.margin
        return widened

    def _surrogates(self, rollout: CostRolloutSamples) -> Surrogates:
        actions = rollout.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        rewards = rollout.advantages
        if self.normalize_advantage:
            rewards = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
        advantages = th.cat([rewards[None], rollout.cost_advantages.T])
        with th.no_grad():
            old = copy.copy(self.policy.get_distribution(rollout.observations))

        def surrogates() -> tuple[th.Tensor, th.Tensor]:
            distribution = self.policy.get_distribution(rollout.observations)
            ratio = th.exp(distribution.log_prob(actions) - rollout.old_log_prob)
            return (advantages * ratio).mean(dim=1), kl_divergence(distribution, old).mean()

        return surrogates

    def _search_direction(
        self, surrogates: Surrogates, excess: NDArray[np.float64]
    ) -> tuple[list[nn.Parameter], th.Tensor, TrustRegionStep]:
        objectives, divergence = surrogates()
        params, reward_gradient, divergence_gradient, _ = self._compute_actor_grad(divergence, objectives[0])
        gradients = [flat_grad(objective, params, retain_graph=True) for objective in objectives[1:]]
        fisher = partial(self.hessian_vector_product, params, divergence_gradient)
        natural = conjugate_gradient_solver(fisher, reward_gradient, max_iter=self.cg_max_steps)
        curvature = float(natural @ fisher(natural))
        with self._random_streams_kept():  # the solver draws where it starts; TRPO draws once
            costs = th.stack([_solve(fisher, gradient, self.cg_max_steps) for gradient in gradients])
        towards = th.stack(gradients)
        r, s = (towards @ natural).double().cpu().numpy(), (towards @ costs.T).double().cpu().numpy()
        s = np.where(np.eye(len(s)), s, ALIKE * (s + s.T) / 2.0)
        step = trust_region_step(curvature, r, s, excess, self.target_kl)
        weights = th.as_tensor(step.costs, dtype=costs.dtype, device=costs.device)
        return params, step.reward * natural + weights @ costs, step

    def _line_search(
        self,
        surrogates: Surrogates,
        params: list[nn.Parameter],
        direction: th.Tensor,
        excess: NDArray[np.float64],
        feasible: bool,
    ) -> tuple[bool, float, float]:
        """Shorten the step until it is acceptable; gives whether it came to that, the objective and the divergence."""
        start = parameters_to_vector(params).detach().clone()
        with th.no_grad():
            before = surrogates()[0].double().cpu().numpy()
            for trial in range(self.line_search_max_iter):
                shortened = self.line_search_shrinking_factor**trial
                _assign(params, start + shortened * direction)
                objectives, divergence = surrogates()
                after = objectives.double().cpu().numpy()
                if float(divergence) < self.target_kl and acceptable(before, after, excess, feasible):
                    return True, float(after[0]), float(divergence)
            _assign(params, start)
        return False, float(before[0]), 0.0

    def _value_steps(self, actor_params: list[nn.Parameter]) -> float:
        """TRPO's updates of the value function, which leave what it shares with the actor alone."""
        losses = []
        for _ in range(self.n_critic_updates):
            for rollout in self.rollout_buffer.get(self.batch_size):
                loss = F.mse_loss(rollout.returns, self.policy.predict_values(rollout.observations).flatten())
                losses.append(loss.item())
                self.policy.optimizer.zero_grad()
                loss.backward()
                for param in actor_params:
                    param.grad = None
                self.policy.optimizer.step()
        return float(np.mean(losses))


def acceptable(
    before: NDArray[np.float64], after: NDArray[np.float64], excess: NDArray[np.float64], feasible: bool
) -> bool:
    """Whether the surrogates ``[1 + K]`` of reward and costs allow a step that is inside the trust region.

    Costs that are exceeded must fall and the others may only use what is left to their limit; where no step meets all
    limits, the exceeded ones must fall together, weighted by their excess. The objective must rise unless a limit is
    exceeded.

    Examples:
        >>> before = np.array([0.0, 0.0])
        >>> acceptable(before, np.array([1.0, 0.2]), np.array([-0.3]), feasible=True)
        True
        >>> acceptable(before, np.array([1.0, 0.4]), np.array([-0.3]), feasible=True)
        False
        >>> acceptable(before, np.array([-1.0, -0.1]), np.array([0.2]), feasible=True)
        True
    """
    changes = after[1:] - before[1:]
    exceeded = np.maximum(excess, 0.0)
    if not exceeded.any():
        return bool(after[0] > before[0] and np.all(changes <= -excess))
    if feasible:
        return bool(np.all(changes <= np.maximum(-excess, 0.0)))
    return bool(exceeded @ changes < 0.0)


def _assign(params: list[nn.Parameter], vector: th.Tensor) -> None:
    # Not torch's vector_to_parameters: it makes them views of the vector, and rounding depends on where they then lie.
    for param, part in zip(params, vector.split([param.numel() for param in params]), strict=True):
        param.copy_(part.view_as(param))


def _solve(product: Callable[[th.Tensor], th.Tensor], gradient: th.Tensor, max_iter: int) -> th.Tensor:
    """Solve for a gradient of any scale: the solver's start and tolerance are meant for lengths around 1."""
    scale = gradient.norm()
    if scale == 0.0:
        return th.zeros_like(gradient)
    return scale * conjugate_gradient_solver(product, gradient / scale, max_iter=max_iter)
