"""The costs of one rollout: gathered step by step, then turned into advantages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from safe_wrappers.info import read_term
from safe_wrappers.monitor import EpisodeCost, EpisodeCosts
from safe_wrappers.observations import take_rows


class Timeout(NamedTuple):
    """An episode that its time limit ended."""

    step: int
    env: int
    observation: Any  # the last one, which SB3 replaces by the first of the next episode


class CostRollout(EpisodeCosts):
    """The costs of every step since ``start``, for ``K`` limited terms, and the episodes that ended.

    Args:
        names: keys of ``info``, ``"cost"`` or ``"cost_<term>"``.
        n_envs: number of environments.
        missing_cost: ``"raise"``, or ``"zero"`` to count a step without a cost as safe.

    Attributes:
        costs: per step an array ``[n_envs, K]``.
        finished: per episode that ended its undiscounted costs ``[K]``.
        lengths: per episode that ended its steps.
        timeouts: those of them that a time limit ended.
        running: undiscounted costs ``[n_envs, K]`` of the episodes that still run, older rollouts included.
    """

    def __init__(self, names: Sequence[str], n_envs: int, missing_cost: str = "raise") -> None:
        self.names = tuple(names)
        super().__init__(n_envs, missing_cost)
        self.start()

    def start(self) -> None:
        """Begin a new rollout; episodes that run go on."""
        self.costs: list[NDArray[np.float64]] = []
        self.finished: list[NDArray[np.float64]] = []
        self.lengths: list[int] = []
        self.timeouts: list[Timeout] = []

    def reset(self) -> None:
        """Forget the unfinished episodes of all environments."""
        super().reset()
        self.running = np.zeros((self.n_envs, len(self.names)))

    @property
    def running_length(self) -> float:
        """Mean steps of the episodes that still run."""
        return float(np.mean([episode["length"] for episode in self._running]))

    def add(self, infos: Sequence[Mapping[str, Any]], dones: Sequence[bool] | NDArray[np.bool_]) -> list[EpisodeCost]:
        """Count one step of every environment; see ``EpisodeCosts.add``."""
        costs = np.array([[read_term(info, name, self.missing_cost) for name in self.names] for info in infos])
        episodes = super().add(infos, dones)
        self.running += costs
        for i, episode in zip(np.flatnonzero(dones).tolist(), episodes, strict=True):
            self.finished.append(self.running[i].copy())
            self.lengths.append(episode["length"])
            self.running[i] = 0.0
            if infos[i].get("TimeLimit.truncated", False) and infos[i].get("terminal_observation") is not None:
                self.timeouts.append(Timeout(len(self.costs), i, infos[i]["terminal_observation"]))
        self.costs.append(costs)
        return episodes


def cost_advantages(
    costs: NDArray[np.floating],
    values: NDArray[np.floating],
    continues: NDArray[np.floating],
    gamma: float,
    gae_lambda: float,
) -> NDArray[np.float64]:
    r"""Generalised advantage estimates ``[T, N, K]`` of the costs.

    Args:
        costs: ``[T, N, K]``; where a time limit ended the episode, with the discounted value of its last observation.
        values: ``[T + 1, N, K]``, of the observations that were acted on and of the one after the rollout.
        continues: ``[T, N]``, 0.0 where the episode ended with the step, else 1.0.
        gamma: discount.
        gae_lambda: :math:`\lambda` of the estimate.

    Examples:
        >>> costs, values = np.array([[[1.0]], [[2.0]]]), np.array([[[0.5]], [[0.0]], [[4.0]]])
        >>> cost_advantages(costs, values, np.array([[1.0], [1.0]]), gamma=0.5, gae_lambda=0.5).ravel()
        array([1.5, 4. ])
    """
    follows = continues[..., None] * gamma
    deltas = costs + follows * values[1:] - values[:-1]
    decay = follows * gae_lambda
    advantages = np.empty(deltas.shape)
    last = np.zeros(deltas.shape[1:])
    for step in reversed(range(len(deltas))):
        last = deltas[step] + decay[step] * last
        advantages[step] = last
    return advantages


class CostRolloutSamples(NamedTuple):
    """SB3's ``RolloutBufferSamples`` with the advantages of the costs ``[B, K]``."""

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    cost_advantages: th.Tensor

    def every(self, n: int) -> CostRolloutSamples:
        """Every ``n``-th sample."""
        return CostRolloutSamples(*(take_rows(column, slice(None, None, n)) for column in self))


class CostRolloutStorage(RolloutBuffer):
    """What the two buffers below add to SB3's: ``cost_advantages``, an array ``[T, N, K]`` that ``train`` sets."""

    cost_advantages: NDArray[np.float32]

    def get(self, batch_size: int | None = None) -> Any:
        """As SB3's, with ``CostRolloutSamples``."""
        if not self.generator_ready:
            self.cost_advantages = self.swap_and_flatten(self.cost_advantages)
        return super().get(batch_size)

    def _get_samples(self, batch_inds: NDArray[np.intp], env: VecNormalize | None = None) -> Any:
        return CostRolloutSamples(
            *super()._get_samples(batch_inds, env), self.to_torch(self.cost_advantages[batch_inds])
        )


class CostRolloutBuffer(CostRolloutStorage):
    """SB3's ``RolloutBuffer`` with the advantages of the costs."""


class CostDictRolloutBuffer(CostRolloutStorage, DictRolloutBuffer):
    """SB3's ``DictRolloutBuffer`` with the advantages of the costs."""
