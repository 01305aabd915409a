"""Sums of cost, violations and interventions over episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat, TypedDict

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from safe_wrappers.info import EPISODE_COST, INTERVENED, check_missing_cost, read_cost, read_violation


class EpisodeCost(TypedDict):
    """What one finished episode cost: the value of ``info["episode_cost"]``."""

    cost: float
    violations: int
    interventions: int
    length: int


class EpisodeCosts:
    """Adds up the costs of ``n_envs`` environments that run side by side, episode by episode.

    The one place where per-step costs become episode costs: ``CostMonitor``, callbacks and evaluation use it.
    Vector environments must reset within the step that ends an episode, as SB3's do; a next-step reset of Gymnasium's
    (its default) is a step without a cost, and would be counted.

    Args:
        n_envs: number of environments.
        missing_cost: ``"raise"``, or ``"zero"`` to count a step without a cost as safe.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> costs = EpisodeCosts(n_envs=2)
        >>> costs.add([{"cost": 1.0}, {"cost": 0.0}], dones=[False, False])
        []
        >>> costs.add([{"cost": 0.5}, {"cost": 0.0}], dones=[True, False])
        [{'cost': 1.5, 'violations': 2, 'interventions': 0, 'length': 2}]
    """

    def __init__(self, n_envs: int = 1, missing_cost: str = "raise") -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, got {n_envs}")
        self.n_envs = n_envs
        self.missing_cost = check_missing_cost(missing_cost)
        self.reset()

    def reset(self) -> None:
        """Forget the unfinished episodes of all environments."""
        self._running = [_empty() for _ in range(self.n_envs)]

    def add(self, infos: Sequence[Mapping[str, Any]], dones: Sequence[bool] | NDArray[np.bool_]) -> list[EpisodeCost]:
        """Count one step of every environment.

        Args:
            infos: ``n_envs`` step infos.
            dones: ``[n_envs]``, whether the episode ended (terminated or truncated) with this step.

        Returns:
            The episodes that ended, in the order of the environments (that of ``np.flatnonzero(dones)``).

        Raises:
            MissingCostError: if a step has no cost and ``missing_cost="raise"``; nothing is counted then.
            ValueError: if a cost is negative or not finite, or the number of rows is not ``n_envs``.
        """
        if len(infos) != self.n_envs or len(dones) != self.n_envs:
            raise ValueError(f"expected {self.n_envs} infos and dones, got {len(infos)} and {len(dones)}")
        steps = [self._read(info) for info in infos]
        finished = []
        for i, (step, done) in enumerate(zip(steps, dones, strict=True)):
            self._running[i] = _sum(self._running[i], step)
            if done:
                finished.append(self._running[i])
                self._running[i] = _empty()
        return finished

    def _read(self, info: Mapping[str, Any]) -> EpisodeCost:
        return EpisodeCost(
            cost=read_cost(info, self.missing_cost),
            violations=int(read_violation(info, self.missing_cost)),
            interventions=int(bool(info.get(INTERVENED, False))),
            length=1,
        )


def _empty() -> EpisodeCost:
    return EpisodeCost(cost=0.0, violations=0, interventions=0, length=0)


def _sum(first: EpisodeCost, second: EpisodeCost) -> EpisodeCost:
    return EpisodeCost(
        cost=first["cost"] + second["cost"],
        violations=first["violations"] + second["violations"],
        interventions=first["interventions"] + second["interventions"],
        length=first["length"] + second["length"],
    )


class CostMonitor(gym.Wrapper, RecordConstructorArgs):
    """Writes ``info["episode_cost"]`` on the last step of every episode.

    It is a dictionary with ``cost`` (undiscounted sum), ``violations`` and ``interventions`` (numbers of
    steps) and ``length``. The key is its own because SB3's ``Monitor`` and ``VecMonitor`` overwrite
    ``info["episode"]``.

    To be put around everything that filters actions, writes costs or ends episodes (``TimeLimit`` as well): it sees
    only what is inside.

    Args:
        env: environment whose steps carry ``info["cost"]``.
        missing_cost: ``"raise"``, or ``"zero"`` to count a step without a cost as safe.

    Raises:
        ValueError: if ``missing_cost`` is neither; in ``step``, if a cost is negative or not finite.
        MissingCostError: in ``step``, if the step has no cost and ``missing_cost="raise"``.

    Example:
        >>> import gymnasium as gym
        >>> from safe_wrappers import CostFromFunction, CostMonitor
        >>> env = gym.make("Pendulum-v1", max_episode_steps=3)
        >>> env = CostMonitor(CostFromFunction(env, lambda obs, action, next_obs, info: 0.5))
        >>> _ = env.reset(seed=0)
        >>> for _ in range(3):
        ...     *_, info = env.step(env.action_space.sample())
        >>> info["episode_cost"]
        {'cost': 1.5, 'violations': 3, 'interventions': 0, 'length': 3}
    """

    def __init__(self, env: gym.Env, missing_cost: str = "raise") -> None:
        self._costs = EpisodeCosts(1, missing_cost)
        RecordConstructorArgs.__init__(self, missing_cost=missing_cost)
        gym.Wrapper.__init__(self, env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and start counting from zero."""
        self._costs.reset()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment; the last step of an episode gets the summary."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        for summary in self._costs.add([info], [terminated or truncated]):
            info = {**info, EPISODE_COST: summary}
        return observation, reward, terminated, truncated, info
