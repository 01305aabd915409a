"""What the constrained forms of PPO and TRPO share: the costs of a rollout, their advantages and their critic."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import explained_variance

from safe_wrappers.info import COST
from safe_wrappers.observations import map_entries
from sb3_ext.common.cost_critic import CostCritic
from sb3_ext.common.cost_rollout import CostRollout, cost_advantages
from sb3_ext.common.limits import check_cost_limits, fitting
from sb3_ext.common.safe_algorithm import MissingCost, SafeAlgorithm


class CostOnPolicy(SafeAlgorithm, OnPolicyAlgorithm):
    """Mixin for on-policy bases; it comes before the base in the list of parents.

    Costs are gathered while SB3 collects a rollout. ``_learn_costs``, called by the subclass's ``train``, turns them
    into advantages and fits the cost critic. It leaves SB3's random streams, buffer and networks as they are.

    Args:
        policy: as in SB3.
        env: as in SB3; every step's ``info`` must hold the limited costs.
        *args: the base's further arguments.
        cost_limit: highest undiscounted cost of an episode, or one for each of several terms:
            ``{"cost_hazards": 10, "cost_vases": 5}``.
        cost_gamma: discount of the costs in their advantages.
        cost_gae_lambda: of these advantages.
        cost_critic_kwargs: ``net_arch``, ``learning_rate``, ``n_epochs``, ``batch_size`` of ``CostCritic``.
        missing_cost: what a step without cost means: ``"raise"`` or ``"zero"``.
        **kwargs: the base's.

    Raises:
        ValueError: for values out of range.

    Attributes:
        episode_cost: estimate ``[K]`` that the limits are compared with: the mean of the episodes that ended in the
            last rollout. Where none did, it stays as it was, but is never below the mean cost that the episodes
            still running have reached.
        episode_length: steps of the same episodes, in the mean.
    """

    parts: ClassVar[tuple[str, ...]] = ("cost_critic",)
    _costs: CostRollout

    def __init__(
        self,
        policy: Any,
        env: Any,
        *args: Any,
        cost_limit: float | Mapping[str, float] = 25.0,
        cost_gamma: float = 0.99,
        cost_gae_lambda: float = 0.95,
        cost_critic_kwargs: dict[str, Any] | None = None,
        missing_cost: MissingCost = "raise",
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        self.cost_limits = check_cost_limits(cost_limit)
        self._start_counting(missing_cost)
        for name, value in (("cost_gamma", cost_gamma), ("cost_gae_lambda", cost_gae_lambda)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        self.cost_gamma, self.cost_gae_lambda = cost_gamma, cost_gae_lambda
        self.cost_critic_kwargs = dict(cost_critic_kwargs or {})
        super().__init__(policy, env, *args, _init_setup_model=False, **kwargs)  # type: ignore[misc]
        # A stream of its own: SB3's order of batches stays. Without a seed it follows NumPy's, as SB3's order does.
        self.cost_rng = np.random.default_rng(np.random.get_state()[1] if self.seed is None else self.seed)  # type: ignore
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------ set-up

    def _setup_model(self) -> None:
        super()._setup_model()
        self._build_parts()

    def _make_costs(self) -> CostRollout:
        return CostRollout(tuple(self.cost_limits), self.n_envs, self.missing_cost)

    def _setup_safety(self) -> None:
        with fitting("cost_critic_kwargs", CostCritic):
            self.cost_critic = CostCritic(self.policy, len(self.cost_limits), **self.cost_critic_kwargs)

    @classmethod
    def load(cls, path: Any, env: Any = None, *args: Any, cost_limit: Any = None, **kwargs: Any) -> Self:
        """SB3's ``load``; a ``cost_limit`` takes the place of the saved one.

        Raises:
            ValueError: as ``SafeAlgorithm.load``, or if ``cost_limit`` is not on the costs that the model has learned.
        """
        model = super().load(path, env, *args, **kwargs)
        if cost_limit is not None:
            model.cost_limit = cost_limit
        return model

    @property
    def cost_limit(self) -> float | dict[str, float]:
        """The limit, or the limits by the names of the costs; another may be set while the model lives.

        Raises:
            ValueError: if a limit is not on the costs that the model learns, negative or not finite.
        """
        return self.cost_limits[COST] if list(self.cost_limits) == [COST] else dict(self.cost_limits)

    @cost_limit.setter
    def cost_limit(self, cost_limit: float | Mapping[str, float]) -> None:
        limits = check_cost_limits(cost_limit)
        if limits.keys() != self.cost_limits.keys():
            raise ValueError(f"cost_limit must be on {list(self.cost_limits)} as before, got {list(limits)}")
        self.cost_limits.update(limits)  # in the order that the cost critic has learned

    # ------------------------------------------------------------------ costs

    def _reset_counts(self, window: int) -> None:
        super()._reset_counts(window)
        self.episode_cost, self.episode_length = np.zeros(len(self.cost_limits)), 0.0
        self.recent_costs: deque[NDArray[np.float64]] = deque(maxlen=window)

    def collect_rollouts(self, env: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> bool:
        """SB3's, with the costs of this rollout gathered from its beginning on."""
        self._costs.start()
        complete = super().collect_rollouts(env, callback, *args, **kwargs)
        if not complete:  # SB3 forgets the step at which the callback stopped
            step = callback.locals
            self._update_info_buffer(step["infos"], step["dones"])
            self._last_obs, self._last_episode_starts = step["new_obs"], step["dones"]
        return complete

    def _learn_costs(self) -> NDArray[np.float64]:
        """Advantages ``[T, N, K]`` of the costs of this rollout, on which the cost critic is then fitted."""
        self._compare_episodes()
        observations = map_entries(_flattened, self.rollout_buffer.observations)
        with self._random_streams_kept():  # an extractor may draw, e.g. with dropout
            values = self._cost_values(observations)
            costs = self._bootstrapped_costs()
            advantages = cost_advantages(costs, values, self._continues(), self.cost_gamma, self.cost_gae_lambda)
            returns = (advantages + values[:-1]).reshape(-1, len(self.cost_limits))
            loss = self.cost_critic.update(observations, returns, self.cost_rng)
        self._costs.start()  # observations of time-outs are not kept until the next rollout
        self.logger.record("safety/cost_critic_loss", loss)
        explained = explained_variance(values[:-1].reshape(returns.shape).ravel(), returns.ravel())
        self.logger.record("safety/cost_explained_variance", float(explained))
        return advantages

    def _cost_values(self, observations: Any) -> NDArray[np.float32]:
        """Values ``[T + 1, N, K]``, in one forward pass instead of one a step."""
        values = self.cost_critic.predict(observations)
        values = np.concatenate([values, self.cost_critic.predict(self._last_obs)])
        return values.reshape(-1, self.n_envs, len(self.cost_limits))

    def _continues(self) -> NDArray[np.floating]:
        """1.0 where the episode went on after the step, else 0.0, ``[T, N]``."""
        assert self._last_episode_starts is not None
        return 1.0 - np.concatenate([self.rollout_buffer.episode_starts[1:], self._last_episode_starts[None]])

    def _bootstrapped_costs(self) -> NDArray[np.float64]:
        """Costs ``[T, N, K]``; a time-out gets the value of its last observation, as SB3 does it for rewards."""
        costs, timeouts = np.stack(self._costs.costs), self._costs.timeouts
        if timeouts:
            values = self.cost_critic.predict(map_entries(_stacked, *(timeout.observation for timeout in timeouts)))
            for timeout, value in zip(timeouts, values, strict=True):
                costs[timeout.step, timeout.env] += self.cost_gamma * value
        return costs

    def _compare_episodes(self) -> None:
        """Compare the costs of episodes with the limits."""
        self._costs_are_news = bool(self._costs.finished)
        if self._costs_are_news:
            self.recent_costs.extend(self._costs.finished)
            self.episode_cost = np.mean(self._costs.finished, axis=0)
            self.episode_length = float(np.mean(self._costs.lengths))
        else:
            self.episode_cost = np.maximum(self.episode_cost, self._costs.running.mean(axis=0))
            self.episode_length = max(self.episode_length, self._costs.running_length)
        for name, cost in zip(self.cost_limits, self.episode_cost, strict=True):
            self.logger.record(self._key("ep_cost", name), float(cost))

    @property
    def _limits(self) -> NDArray[np.float64]:
        return np.array(list(self.cost_limits.values()))

    def _key(self, metric: str, name: str) -> str:
        """Key of a log: ``safety/multiplier``, or ``safety/multiplier/cost_hazards`` where there are several limits."""
        return f"safety/{metric}" if len(self.cost_limits) == 1 else f"safety/{metric}/{name}"

    def dump_logs(self, iteration: int = 0) -> None:
        """Write SB3's logs and the costs."""
        self._record_costs()
        if self.recent_costs:
            within = np.all(np.array(self.recent_costs) <= self._limits, axis=1)
            self.logger.record("safety/share_within_limits", float(within.mean()))
        super().dump_logs(iteration)


def _flattened(entries: NDArray[Any]) -> NDArray[Any]:
    """``[T, N, ...]`` -> ``[T * N, ...]``."""
    return entries.reshape(-1, *entries.shape[2:])


def _stacked(*entries: NDArray[Any]) -> NDArray[Any]:
    return np.stack(entries)
