"""The claim that the recovery filter is drop-in: on agents that were trained without any cost."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv

from safe_wrappers import RecoveryFilter
from sb3_ext import GymVecEnv, evaluate_safely, pretrained_filter

ENV_ID = "safe_envs:safe/Navigation2-v0"
HELD_OUT_SEED, N_EPISODES = 1000, 20


def empty_world():
    return GymVecEnv(gym.make_vec(ENV_ID, num_envs=16, obstacles=()))


def off_policy(cls, **kwargs):
    return cls("MlpPolicy", empty_world(), seed=0, gamma=0.95, learning_starts=1000, train_freq=16, gradient_steps=16,
               learning_rate=3e-4, policy_kwargs={"net_arch": [64, 64]}, **kwargs).learn(20_000)  # fmt: skip


AGENTS = {
    "PPO": lambda: PPO("MlpPolicy", empty_world(), n_steps=100, batch_size=200, gamma=0.95, seed=0).learn(60_000),
    "SAC": lambda: off_policy(SAC),
    "TD3": lambda: off_policy(TD3, action_noise=NormalActionNoise(np.zeros(2), np.full(2, 0.5))),
}


class CarelessDriver:
    """Scripted agent that knows of the block, passes it too closely, and shakes: it arrives now and then."""

    corner, goal, shaking = np.array([-20.0, 10.5]), np.zeros(2), 0.5

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        way = np.where(obs[:, :1] < self.corner[0], self.corner, self.goal) - obs
        action = way / np.abs(way).max(axis=1, keepdims=True) + self.rng.normal(0.0, self.shaking, obs.shape)
        return np.clip(action, -1.0, 1.0).astype(np.float32), None


def with_and_without_filter(agent):
    """Evaluations over the same held-out episodes, each with a seed of its own."""
    shipped = pretrained_filter("safe/Navigation2-v0")

    def protected():
        return RecoveryFilter.from_model(gym.make(ENV_ID), shipped)

    # SB3 gives environment i the seed HELD_OUT_SEED + i, and each plays one episode.
    plain, filtered = (
        evaluate_safely(agent, DummyVecEnv([make] * N_EPISODES), N_EPISODES, seed=HELD_OUT_SEED)
        for make in (lambda: gym.make(ENV_ID), protected)
    )
    print(plain.summary(), filtered.summary())
    assert plain.violation_rate >= 0.3, "the agent must be unsafe for the test to mean anything"
    assert filtered.violation_rate <= plain.violation_rate / 2
    assert filtered.intervention_rate < 0.5
    return plain, filtered


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_the_filter_makes_an_agent_that_knows_no_obstacles_safe(name):
    # Without the filter these crash in every episode, so there are no successes that it could cost them.
    with_and_without_filter(AGENTS[name]())


def test_the_filter_costs_an_agent_none_of_its_successes():
    plain, filtered = with_and_without_filter(CarelessDriver())
    assert 0.2 < plain.success_rate < 0.8 and filtered.success_rate >= plain.success_rate
