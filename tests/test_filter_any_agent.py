"""The claim that the recovery filter is drop-in: on agents that were trained without any cost."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise

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


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_the_filter_makes_an_agent_that_knows_no_obstacles_safe(name):
    agent = AGENTS[name]()
    plain = evaluate_safely(agent, gym.make(ENV_ID), N_EPISODES, seed=HELD_OUT_SEED)
    env = RecoveryFilter.from_model(gym.make(ENV_ID), pretrained_filter("safe/Navigation2-v0"))
    filtered = evaluate_safely(agent, env, N_EPISODES, seed=HELD_OUT_SEED)
    print(name, plain.summary(), filtered.summary())
    assert plain.violation_rate >= 0.3, "the agent must be unsafe for the test to mean anything"
    assert filtered.violation_rate <= plain.violation_rate / 2
    assert filtered.success_rate >= plain.success_rate
    assert filtered.intervention_rate < 0.5
