"""Dual-agent safety correction: a safe agent that stays as close to a baseline as safety allows."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.td3.policies import TD3Policy

from safe_wrappers.observations import map_entries, take_rows
from sb3_ext.common.buffers import CostBatch, normalised, scale_action
from sb3_ext.common.controllers import Controller
from sb3_ext.common.limits import check_probability, safe_steps
from sb3_ext.common.multipliers import GradientMultiplier
from sb3_ext.common.safe_algorithm import MissingCost
from sb3_ext.common.safe_td3 import SafeTD3
from sb3_ext.common.vec_envs import episode_limit

EXPLORATION = 0.1
"""Deviation of the noise on scaled actions, of the authors' later code; the paper prints none."""


class DualAgent(SafeTD3):
    r"""Safety correction from a baseline (Zhang, Yan et al., "Safety Correction from Baseline", algorithm 1).

    The baseline agent maximises the reward, learned by TD3 beside the safe one or given. The safe agent solves
    equation 14: it minimises the distance :math:`D = E \|\pi_S(s) - \pi_B(s)\|_2^2` of its actions (scaled to
    [-1, 1]) from the baseline's, subject to :math:`E\,Q_I(s, \pi_S(s)) \geq \Gamma`, where :math:`Q_I` is the
    discounted number of safe steps (equation 2: a step is safe where its cost is 0; the paper's description of its
    environments says the reverse). :math:`\lambda` ascends on :math:`\Gamma - Q_I` (equation 17). In training each
    step is made by one of the two, chosen by chance.

    ``predict`` deploys the safe agent, ``model.baseline.predict`` the other. SB3's ``policy`` is the safe agent with
    the twin critics of :math:`Q_I`; ``train/*`` in the logs belongs to it, ``baseline/*`` to the learned baseline.

    Deviations: algorithm 1 never masks ends. Here the reward critics and :math:`Q_I` go through time-outs, and what
    ends an episode for good counts as unsafe ever after (unless ``safe_ends``). :math:`\lambda` moves with the actor,
    at every ``policy_delay``-th step, on the :math:`Q_I` that the actor's step was computed from. :math:`Q_I` starts at
    the value of an agent that is always safe: from 0 (the paper does not say) it is below :math:`\Gamma` until the
    critic has been fitted, and :math:`\lambda` climbs without any unsafe step. Where a wrapper replaces actions,
    :math:`Q_I` learns from the executed ones.

    Args:
        policy: as in SB3's TD3, for both agents; two hidden layers (400, 300), ReLU and tanh unless ``policy_kwargs``
            say otherwise.
        env: as in SB3.
        learning_rate: of all networks.
        baseline: ``None`` learns it; a trained SB3 model, or a function ``obs[B, ...] -> actions[B, ...]`` of raw
            observations without memory, is used as it is.
        baseline_observation: function from batches of the environment's observations to the baseline's own.
        eps_risk: highest accepted probability of an unsafe step (the paper's :math:`\delta`).
        gamma_risk: discount of :math:`Q_I`, in [0, 1) (:math:`\bar\gamma`; not printed, "small"); ``gamma`` is that
            of the learned baseline.
        horizon: the time limit ``T`` of the episodes: :math:`\Gamma` of equation 9, and :math:`Q_I` counts to the
            time-out. ``None``: equation 7, and :math:`Q_I` goes through time-outs.
        safe_ends: a step without cost that ends the episode for good (a goal) is followed by safe steps only.
        baseline_share: probability that the baseline acts in a step of training.
        multiplier_learning_rate: of :math:`\lambda`, which starts at 0.
        action_noise: as in SB3; by default Gaussian with deviation 0.1 (of scaled actions).
        **kwargs: ``SafeTD3``'s arguments.

    Raises:
        TypeError: if the baseline can neither predict nor be called.
        ValueError: for values outside the stated ranges; if the baseline has other spaces than the environment; in
            training, if it returns actions of a wrong shape or not finite.

    Examples:
        >>> import gymnasium as gym
        >>> import numpy as np
        >>> from safe_wrappers import CostFromFunction
        >>> env = CostFromFunction(gym.make("Pendulum-v1"), lambda obs, action, next_obs, info: abs(next_obs[2]) > 6)
        >>> def controller(obs):
        ...     return np.clip(2.0 * obs[:, 2:], -2.0, 2.0)
        >>> model = DualAgent("MlpPolicy", env, baseline=controller, learning_starts=10).learn(12)
        >>> observation = np.array([1.0, 0.0, 0.5], dtype=np.float32)
        >>> model.predict(observation)[0].shape, model.baseline.predict(observation)[0].tolist()
        ((1,), [1.0])
    """

    default_missing_cost: ClassVar[MissingCost] = "raise"
    parts: ClassVar[tuple[str, ...]] = ("baseline_policy", "multiplier")
    learned_with: ClassVar[tuple[str, ...]] = ("gamma_risk", "horizon", "safe_ends")
    given_again: ClassVar[tuple[str, ...]] = ("baseline", "baseline_observation")

    baseline: Any
    baseline_policy: TD3Policy | None
    multiplier: GradientMultiplier

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any = 1e-3,
        *,
        baseline: Any = None,
        baseline_observation: Callable[[Any], Any] | None = None,
        eps_risk: float = 0.05,
        gamma_risk: float = 0.9,
        horizon: int | None = None,
        safe_ends: bool = False,
        baseline_share: float = 0.5,
        multiplier_learning_rate: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        safe_steps(eps_risk, gamma_risk, horizon)  # checks them
        if not (math.isfinite(multiplier_learning_rate) and multiplier_learning_rate >= 0.0):
            raise ValueError(f"multiplier_learning_rate must be finite and >= 0, got {multiplier_learning_rate}")
        if horizon is not None and safe_ends:
            raise ValueError("safe_ends=True needs horizon=None: how many steps would have followed is not known")
        self.eps_risk, self.gamma_risk, self.horizon, self.safe_ends = eps_risk, gamma_risk, horizon, safe_ends
        self.baseline_share = check_probability("baseline_share", baseline_share)
        self.multiplier_learning_rate = multiplier_learning_rate
        self.baseline, self.baseline_observation = baseline, baseline_observation
        self.learns_baseline = baseline is None
        super().__init__(policy, env, learning_rate, **kwargs)

    @property
    def required_value(self) -> float:
        r""":math:`\Gamma`, the least accepted :math:`Q_I`."""
        return safe_steps(self.eps_risk, self.gamma_risk, self.horizon)

    # ------------------------------------------------------------------ set-up

    def _setup_safety(self) -> None:
        if self.action_noise is None:
            shape = self._action_shape
            self.action_noise = NormalActionNoise(np.zeros(shape), np.full(shape, EXPLORATION))
        safe_steps(self.eps_risk, self.gamma_risk, self.horizon)  # load may have brought another eps_risk
        self._check_horizon()
        self.multiplier = GradientMultiplier(0.0, self.multiplier_learning_rate, space="linear", optimizer="sgd")
        self._presume_safety()
        self.baseline_policy = None
        if self.learns_baseline:
            if not (self.baseline is None or isinstance(self.baseline, TD3Policy)):
                raise ValueError("this model learns its baseline, none can be given to load()")
            self.baseline = self.baseline_policy = self._make_baseline_policy()
        else:
            self.baseline = self._make_controller()
        self._tell_baseline()

    def _check_horizon(self) -> None:
        limit = None if self.env is None else episode_limit(self.env)
        if self.horizon is not None and limit not in (None, self.horizon):
            warnings.warn(
                f"horizon={self.horizon}, but episodes of this environment have {limit} steps: Gamma of equation 9 "
                f"holds for episodes of the horizon; use horizon={limit}",
                stacklevel=5,
            )

    @th.no_grad()
    def _presume_safety(self) -> None:
        """Q_I begins at the value of an agent that is always safe, above Gamma: lambda waits for something unsafe."""
        always = safe_steps(0.0, self.gamma_risk, self.horizon)
        for critic in (self.critic, self.critic_target):
            for network in critic.q_networks:
                *_, last = network.children()
                last.bias.fill_(always)  # type: ignore[operator]

    def _make_baseline_policy(self) -> TD3Policy:
        policy = self.policy_class(self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs)
        assert isinstance(policy, TD3Policy)
        return policy.to(self.device)

    def _make_controller(self) -> Controller:
        assert isinstance(self.action_space, spaces.Box)
        if self.baseline is None:  # of a file
            raise ValueError(
                "its baseline could not be saved with it; pass the same one again: load(path, baseline=...)"
            )
        if isinstance(self.baseline, Controller):
            controller = copy.copy(self.baseline)  # it may serve others, in other environments
            if self.baseline_observation is not None:
                raise ValueError("a Controller has its own observe: pass baseline_observation with what it was made of")
            for name in ("observation_space", "action_space"):
                if getattr(controller, name) != getattr(self, name):
                    raise ValueError(
                        f"the {controller.name} was made for the {name.replace('_', ' ')} {getattr(controller, name)}, "
                        f"the environment has {getattr(self, name)}"
                    )
        else:
            observe = self.baseline_observation
            controller = Controller(self.baseline, self.observation_space, self.action_space, observe, "baseline")
        return controller

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """SB3's ``set_env``; the baseline then sees this environment, too."""
        super().set_env(env, force_reset)
        self._tell_baseline()

    def _tell_baseline(self) -> None:
        """Whose observations it is asked with."""
        self._note_normalization()
        if self.learns_baseline:
            self.baseline.normalized_observations = self.normalized_observations
        elif self.env is not None:
            self.baseline.see_through(self.get_vec_normalize_env())

    def _excluded_save_params(self) -> list[str]:
        excluded = [*super()._excluded_save_params(), "baseline_observation"]  # the controller holds it
        if self.learns_baseline:
            return [*excluded, "baseline"]
        if self.baseline.can_be_saved:
            return excluded
        warnings.warn(
            f"the {self.baseline.name} cannot be pickled and is not saved: load(path, baseline=...) needs it again",
            stacklevel=4,
        )
        return [*excluded, "baseline"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        if self.baseline_policy is not None:
            state_dicts += ["baseline_policy.actor.optimizer", "baseline_policy.critic.optimizer"]
        return state_dicts, tensors

    # ------------------------------------------------------------------ acting

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """The safe agent's action (see SB3's ``predict``)."""
        actions, state = super().predict(observation, state, episode_start, deterministic)
        if self._proposing:  # lines 11 to 15
            chosen = np.random.random(len(actions)) < self.baseline_share
            if chosen.any():
                actions[chosen] = self._baseline_actions(observation, chosen)
        return actions, state

    def _baseline_actions(self, observation: Any, chosen: NDArray[np.bool_]) -> NDArray[Any]:
        """In training: a given baseline then gets what ``VecNormalize`` saw, which cannot always be computed back."""
        if self.learns_baseline:
            actions: NDArray[Any] = self.baseline.predict(take_rows(observation, chosen))[0]
            return actions
        raw = observation if self._vec_normalize_env is None else self._last_original_obs
        return self.baseline(take_rows(raw, chosen))

    # ------------------------------------------------------------------ training

    def _optimizers(self) -> list[th.optim.Optimizer]:
        policy = self.baseline_policy
        own = [] if policy is None else [policy.actor.optimizer, policy.critic.optimizer]
        return [*super()._optimizers(), *own]

    def _sample(self, batch_size: int) -> CostBatch:
        if self.learns_baseline or self._vec_normalize_env is None:
            return super()._sample(batch_size)
        batch: CostBatch = self.replay_buffer.sample(batch_size)  # type: ignore[assignment,union-attr]
        return normalised(batch, self._vec_normalize_env)

    def _update(self, batch: CostBatch) -> None:
        if self.baseline_policy is not None:
            self._learn_baseline(self.baseline_policy, batch)
        super()._update(batch._replace(actions=batch.executed_actions))
        self._metrics["safety/multiplier"].append(self.multiplier.value)

    def _learn_baseline(self, policy: TD3Policy, batch: CostBatch) -> None:
        """Lines 21 to 24."""
        policy.set_training_mode(True)
        targets = batch.rewards + (1.0 - batch.dones) * self.gamma * self._next_values(policy, batch)
        self._td3_step(policy, batch, targets, lambda _, value: -value.mean(), log="baseline")

    def _targets(self, batch: CostBatch) -> th.Tensor:
        """Line 27."""
        safe = (batch.costs == 0.0).float()
        ends = batch.dones
        if self.horizon is not None:
            assert batch.timeouts is not None
            ends = th.maximum(batch.dones, batch.timeouts)
        targets = safe + (1.0 - ends) * self.gamma_risk * self._next_values(self.policy, batch)
        if self.safe_ends:
            targets = targets + batch.dones * safe * self.gamma_risk / (1.0 - self.gamma_risk)
        return targets

    def _actor_loss(self, batch: CostBatch, actions: th.Tensor, value: th.Tensor) -> th.Tensor:
        """The Lagrangian of equation 15 without its constant; lambda then ascends on the same values (equation 17)."""
        distance = (actions - self._imitated(batch)).square().sum(dim=1).mean()
        loss, safe_value = distance - self.multiplier.value * value.mean(), value.mean().item()
        self.multiplier.update(self.required_value - safe_value)
        self._metrics["safety/imitation_loss"].append(distance.item())
        self._metrics["safety/value"].append(safe_value)
        return loss

    def _imitated(self, batch: CostBatch) -> th.Tensor:
        """The baseline's actions ``[B, A]``, scaled."""
        if self.baseline_policy is not None:
            with th.no_grad():
                actions: th.Tensor = self.baseline_policy.actor(batch.observations)
                return actions
        raw = batch.observations if batch.raw_observations is None else batch.raw_observations
        rows = map_entries(lambda entries: entries.cpu().numpy(), raw)
        scaled = scale_action(self.baseline(rows), self.action_space)
        return th.as_tensor(scaled, device=self.device).flatten(1)

    def _log_metrics(self) -> None:
        self.logger.record("safety/required_value", self.required_value)
        super()._log_metrics()
