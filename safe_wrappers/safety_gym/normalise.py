"""Bases of Safety-Gymnasium's ``SafeNormalize...`` wrappers, with the methods that Gymnasium's had until 1.0."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import utils
from numpy.typing import NDArray

RunningMeanStd: Any = utils.RunningMeanStd  # untyped


class _Normalize(gym.Wrapper):
    def __init__(self, env: gym.Env, epsilon: float = 1e-8) -> None:
        super().__init__(env)
        self.epsilon = epsilon
        self.num_envs: int = getattr(env, "num_envs", 1)
        self.is_vector_env: bool = getattr(env, "is_vector_env", False)


class NormalizeObservation(_Normalize):
    """Running mean 0 and variance 1 of the observations."""

    def __init__(self, env: gym.Env, epsilon: float = 1e-8) -> None:
        super().__init__(env, epsilon)
        space: Any = getattr(env, "single_observation_space", env.observation_space)
        self.obs_rms = RunningMeanStd(shape=space.shape)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and normalise the first observation."""
        observation, info = self.env.reset(**kwargs)
        if self.is_vector_env:
            return self.normalize(observation), info
        return self.normalize(np.array([observation]))[0], info

    def normalize(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Normalise a batch of observations, which also counts for the statistics."""
        self.obs_rms.update(observations)
        return (observations - self.obs_rms.mean) / np.sqrt(self.obs_rms.var + self.epsilon)


class NormalizeReward(_Normalize):
    """Rewards over the standard deviation of their discounted sum."""

    def __init__(self, env: gym.Env, gamma: float = 0.99, epsilon: float = 1e-8) -> None:
        super().__init__(env, epsilon)
        self.gamma = gamma
        self.return_rms = RunningMeanStd(shape=())
        self.returns = np.zeros(self.num_envs)

    def normalize(self, rewards: NDArray[Any]) -> NDArray[Any]:
        """Scale a batch of rewards, after ``returns`` counted for the statistics."""
        self.return_rms.update(self.returns)
        return rewards / np.sqrt(self.return_rms.var + self.epsilon)
