"""``imitate``: start an agent from what a controller does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize
from torch.nn import functional as F

from safe_wrappers.observations import map_entries, take_rows
from sb3_ext.common.buffers import scale_action
from sb3_ext.common.controllers import Controller
from sb3_ext.common.evaluation import announce_moves
from sb3_ext.common.limits import check_probability


def imitate(
    model: BaseAlgorithm,
    controller: Any,
    env: gym.Env | VecEnv | None = None,
    *,
    n_transitions: int = 10_000,
    steps: int = 5_000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    controller_share: float = 1.0,
    controller_observation: Callable[[Any], Any] | None = None,
    seed: int | None = None,
) -> float:
    """Behaviour cloning: fit the mode of an SB3 model's actor to a controller, before ``model.learn``.

    The dual-agent paper starts its comparisons (CPO, safety layer) in this way. Deviations, critics and the model's
    optimisers stay as they are; target actors follow.

    Args:
        model: any SB3 model with a Box of actions (PPO, CPO, SAC, TD3, ...).
        controller: an SB3 model, or a function of batches of raw observations, ``obs[B, ...] -> actions[B, ...]``.
        env: where the observations come from; None: the model's own, in which it then starts a new episode. A model
            under ``VecNormalize`` that is still learning its statistics learns them from these observations, too.
        n_transitions: observations to gather.
        steps: gradient steps.
        batch_size: observations in each.
        learning_rate: of Adam.
        controller_share: probability that the controller makes a step, else the untrained model: below 1, also states
            are seen that the controller alone does not lead to.
        controller_observation: function from batches of the environment's observations to the controller's own.
        seed: of environments and of the choices; None leaves the environments' streams as they are.

    Returns:
        Mean squared error over the observations, of actions scaled to [-1, 1].

    Raises:
        TypeError: if the controller can neither predict nor be called.
        ValueError: if the model has no environment and none is given, the actions are no Box, the controller's
            spaces are others, or what it returns has a wrong shape or is not finite.

    Examples:
        >>> import numpy as np
        >>> from stable_baselines3 import PPO
        >>> def controller(obs):
        ...     return np.clip(-2.0 * obs[:, 2:], -2.0, 2.0)
        >>> model = PPO("MlpPolicy", "Pendulum-v1", seed=0)
        >>> imitate(model, controller, n_transitions=500, steps=300, seed=0) < 0.05
        True
    """
    if not isinstance(model.action_space, spaces.Box):
        raise ValueError(f"imitate needs a Box of actions, got {model.action_space}")
    vec = env if isinstance(env, VecEnv) else model.get_env() if env is None else DummyVecEnv([lambda: Monitor(env)])
    if vec is None:
        raise ValueError("the model has no environment: pass env=")
    check_probability("controller_share", controller_share)
    expert = Controller(controller, model.observation_space, model.action_space, controller_observation)
    observations, actions = _gather(model, expert, vec, n_transitions, controller_share, seed)
    announce_moves(vec, model)
    return _fit(model.policy, observations, actions, steps, batch_size, learning_rate)


def _gather(
    model: BaseAlgorithm, expert: Controller, env: VecEnv, n_transitions: int, share: float, seed: int | None
) -> tuple[Any, NDArray[np.float32]]:
    """Observations as the model sees them (by the last statistics), and the controller's actions there, scaled."""
    rng = np.random.default_rng(seed).spawn(1)[0]  # not that of the environment
    own = unwrap_vec_normalize(env)
    normalizer = model.get_vec_normalize_env() if own is None else own

    def as_seen(raw: Any) -> Any:
        return raw if normalizer is None else normalizer.normalize_obs(raw)

    if seed is not None:
        env.seed(seed)
    obs: Any = env.reset()
    gathered: list[Any] = []
    labels: list[NDArray[Any]] = []
    while len(gathered) * env.num_envs < n_transitions:
        raw = obs if own is None else own.get_original_obs()
        actions = expert(raw)
        gathered.append(raw)
        labels.append(scale_action(actions, env.action_space))
        replaced = rng.random(env.num_envs) >= share
        if replaced.any():
            actions[replaced] = model.predict(as_seen(raw))[0][replaced]
        obs = env.step(actions)[0]
    observations = map_entries(lambda *entries: np.concatenate(entries), *gathered)
    if own is None and normalizer is not None and normalizer.training and normalizer.norm_obs:
        _learn_statistics(normalizer, observations)
    return as_seen(observations), np.concatenate(labels)


def _learn_statistics(normalizer: VecNormalize, observations: Any) -> None:
    """What a step in it does: these observations come from another environment."""
    if isinstance(observations, dict):
        for key, statistics in normalizer.obs_rms.items():
            statistics.update(observations[key])
    else:
        normalizer.obs_rms.update(observations)


def _fit(policy: Any, observations: Any, actions: NDArray[Any], steps: int, batch_size: int, rate: float) -> float:
    obs, _ = policy.obs_to_tensor(observations)
    targets = th.as_tensor(actions, device=policy.device).flatten(1)
    space = policy.action_space
    low, high = (th.as_tensor(bound, device=policy.device).flatten() for bound in (space.low, space.high))

    def error(obs: Any, targets: th.Tensor) -> th.Tensor:
        mode = policy._predict(obs, deterministic=True).flatten(1)
        scaled = mode if policy.squash_output else 2.0 * (mode - low) / (high - low) - 1.0
        return F.mse_loss(scaled, targets)

    policy.set_training_mode(True)
    optimizer = th.optim.Adam(policy.parameters(), lr=rate)  # critics and deviations get no gradient, so they stay
    for _ in range(steps):
        rows = th.randint(len(targets), (batch_size,), device=policy.device)
        optimizer.zero_grad()
        error(take_rows(obs, rows), targets[rows]).backward()
        optimizer.step()
    if hasattr(policy, "actor_target"):
        policy.actor_target.load_state_dict(policy.actor.state_dict())
    policy.set_training_mode(False)
    with th.no_grad():
        return float(error(obs, targets))
