"""Evaluation that counts harm beside return."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakValueDictionary

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize

from safe_wrappers.info import INTERVENED, SUCCESS, UNPENALISED_REWARD
from safe_wrappers.monitor import EpisodeCosts
from sb3_ext.common.buffers import forget_last_step

_MOVED: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""Simulators that ``announce_moves`` was called for, by identity, until a model of this package learns on in them."""


@dataclass(frozen=True)
class SafetyEvaluation:
    """One row per episode, all arrays ``[n_episodes]``.

    Attributes:
        returns: undiscounted sums of reward.
        costs: undiscounted sums of cost.
        lengths: steps.
        violations: whether any step violated the constraint.
        successes: whether the episode ended in success.
        interventions: steps on which a filter, in the agent or in a wrapper, replaced the action.
    """

    returns: NDArray[np.float64]
    costs: NDArray[np.float64]
    lengths: NDArray[np.int64]
    violations: NDArray[np.bool_]
    successes: NDArray[np.bool_]
    interventions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.returns)

    @property
    def violation_rate(self) -> float:
        """Share of the episodes that violated."""
        return float(self.violations.mean())

    @property
    def success_rate(self) -> float:
        """Share of the episodes that succeeded."""
        return float(self.successes.mean())

    @property
    def intervention_rate(self) -> float:
        """Share of the steps on which a filter intervened."""
        return float(self.interventions.sum() / self.lengths.sum())

    def summary(self) -> dict[str, float]:
        """Means over the episodes and the three rates."""
        return {
            "return": float(self.returns.mean()),
            "cost": float(self.costs.mean()),
            "length": float(self.lengths.mean()),
            "violation_rate": self.violation_rate,
            "success_rate": self.success_rate,
            "intervention_rate": self.intervention_rate,
        }


Step = Callable[[Any, NDArray[Any], NDArray[np.bool_], list[dict[str, Any]]], None]
"""Called as ``on_step(observations, actions, dones, infos)``, observations being those that were acted on."""


def evaluate_safely(
    model: Any,
    env: gym.Env | VecEnv,
    n_eval_episodes: int = 10,
    *,
    deterministic: bool = True,
    missing_cost: str = "raise",
    seed: int | None = None,
    on_step: Step | None = None,
) -> SafetyEvaluation:
    """Run the deployed agent and count return, cost, violations, successes and interventions.

    Episodes are shared out over the environments beforehand, so that short episodes are not over-represented.
    Rewards are reported as the environment gives them: before ``CostPenalty`` lowered them, and also under
    ``VecNormalize``, whose statistics stay as they are.
    A model's own training environment may be used between calls of ``learn``, for other agents, too: a model of this
    package then starts a new episode when it learns on. A callback needs an environment of its own. A ``MaskablePPO``
    of sb3-contrib sees the masks of an environment that has them (``safe_wrappers.ActionMask``), as it did while it
    learned.

    Args:
        model: anything with SB3's ``predict``.
        env: an environment or a VecEnv.
        n_eval_episodes: episodes in all.
        deterministic: the policy's mode, or samples of it.
        missing_cost: what a step without cost means: ``"raise"`` or ``"zero"``.
        seed: seed of the environments; without it every evaluation sees other episodes.
        on_step: sees every step.

    Raises:
        ValueError: if ``n_eval_episodes`` is below 1, or the model learned under ``VecNormalize`` and ``env`` has none.
        MissingCostError: if a step has no cost.

    Examples:
        >>> from stable_baselines3 import SAC
        >>> model = SAC("MlpPolicy", "safe_envs:safe/Navigation2-v0", seed=0)
        >>> result = evaluate_safely(model, model.get_env(), n_eval_episodes=2, seed=0)
        >>> len(result), result.intervention_rate
        (2, 0.0)
    """
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be >= 1, got {n_eval_episodes}")
    vec = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: Monitor(env)])
    normalizer = unwrap_vec_normalize(vec)
    if _sees_normalized(model) and not shows_normalized(vec):
        raise ValueError(
            "the model is trained under VecNormalize, env shows raw observations: wrap it in one with the same "
            "statistics (VecNormalize.load), or pass model.get_env()"
        )
    if seed is not None:
        vec.seed(seed)
    announce_moves(vec, model)
    with _statistics_kept(normalizer):
        return _run_episodes(model, vec, n_eval_episodes, deterministic, missing_cost, on_step)


def _run_episodes(
    model: Any, vec: VecEnv, n_episodes: int, deterministic: bool, missing_cost: str, on_step: Step | None
) -> SafetyEvaluation:
    costs, normalizer = EpisodeCosts(vec.num_envs, missing_cost=missing_cost), unwrap_vec_normalize(vec)
    quota = np.array([(n_episodes + i) // vec.num_envs for i in range(vec.num_envs)])
    returns, interventions = np.zeros(vec.num_envs), np.zeros(vec.num_envs, dtype=int)
    rows: list[tuple[Any, ...]] = []
    obs = vec.reset()
    state, starts = None, np.ones(vec.num_envs, dtype=bool)
    masked = _takes_masks(model) and is_masking_supported(vec)
    while quota.any():
        masks = {"action_masks": get_action_masks(vec)} if masked else {}
        actions, state = model.predict(obs, state=state, episode_start=starts, deterministic=deterministic, **masks)
        acted_on = obs
        obs, rewards, dones, infos = vec.step(actions)
        if on_step is not None:
            on_step(acted_on, actions, dones, infos)
        returns += _raw_rewards(rewards, infos, normalizer)
        interventions += interventions_of(model, infos)
        finished = iter(costs.add(infos, dones))
        for i in np.flatnonzero(dones):
            episode = next(finished)
            if quota[i] > 0:
                success = bool(infos[i].get(SUCCESS, False))
                rows.append(
                    (
                        returns[i],
                        episode["cost"],
                        episode["length"],
                        episode["violations"] > 0,
                        success,
                        interventions[i],
                    )
                )
                quota[i] -= 1
            returns[i] = interventions[i] = 0
        starts = dones
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return SafetyEvaluation(**dict(zip([f.name for f in fields(SafetyEvaluation)], columns, strict=True)))


@contextlib.contextmanager
def _statistics_kept(normalizer: VecNormalize | None) -> Iterator[None]:
    """What is seen within changes no statistics."""
    if normalizer is None:
        yield
        return
    training, normalizer.training = normalizer.training, False
    try:
        yield
    finally:
        normalizer.training = training


def shares_environments(first: Any, second: Any) -> bool:
    """Whether stepping one (an environment or a VecEnv) moves the other, as far as this process can see."""
    return not _simulators(first).keys().isdisjoint(_simulators(second))


def announce_moves(env: Any, model: Any = None) -> None:
    """Who learns in these environments begins a new episode: ``model`` at once, others here when they learn on."""
    _MOVED.update(_simulators(env))
    if shares_environments(env, getattr(model, "env", None)):
        forget_last_step(model)


def were_moved(env: Any) -> bool:
    """Whether someone has announced moves of these environments since it was last asked."""
    return any([_MOVED.pop(identity, None) is not None for identity in _simulators(env)])  # all of them are asked


def _simulators(env: Any) -> dict[int, Any]:
    """What moves below all wrappers, by identity: not all environments can be hashed."""
    if env is None:
        return {}
    inner = getattr(env, "unwrapped", env)
    below = getattr(inner, "envs", []) if isinstance(inner, VecEnv) else []
    return {id(each): each for each in (inner, *(e.unwrapped for e in below))}


def shows_normalized(env: Any) -> bool:
    """Whether the observations of an environment or a VecEnv are those of a ``VecNormalize``."""
    normalizer = unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None
    return normalizer is not None and normalizer.norm_obs


def _takes_masks(model: Any) -> bool:
    return "action_masks" in inspect.signature(model.predict).parameters


def _sees_normalized(model: Any) -> bool:
    env = model.get_vec_normalize_env() if hasattr(model, "get_vec_normalize_env") else None
    if env is None and getattr(model, "env", None) is None:  # loaded without one, or a model's baseline
        return getattr(model, "normalized_observations", False)
    return env is not None and env.norm_obs


def _raw_rewards(
    rewards: NDArray[Any], infos: list[dict[str, Any]], normalizer: VecNormalize | None
) -> NDArray[np.float64]:
    given = rewards if normalizer is None else normalizer.get_original_reward()
    return np.array([info.get(UNPENALISED_REWARD, r) for info, r in zip(infos, given, strict=True)], dtype=float)


def interventions_of(model: Any, infos: list[dict[str, Any]]) -> NDArray[np.int64]:
    """Whether the agent's own filter or one among the wrappers replaced the last actions, 0 or 1, ``[n_envs]``."""
    own = getattr(model, "last_intervened", None)
    own = np.zeros(len(infos), dtype=bool) if own is None or len(own) != len(infos) else own
    return np.array(
        [bool(a) or bool(info.get(INTERVENED, False)) for a, info in zip(own, infos, strict=True)], dtype=int
    )
