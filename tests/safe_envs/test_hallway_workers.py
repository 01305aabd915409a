"""Hallways in worker processes: the same trajectories however many there are, and an agent that learns in them."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from env_ids import needs_mujoco
from stable_baselines3.common.vec_env import DummyVecEnv

from safe_envs import WorkerVectorEnv
from safe_wrappers import PreviousFeedback
from safe_wrappers.info import COST
from sb3_ext import GymVecEnv, RecurrentSACLag

pytestmark = needs_mujoco
SIZES = {"cnn_channels": (4, 4, 4), "cnn_embedding": 8, "gru_size": 8, "hidden": (8,)}


def lived(num_workers):
    """Images, rewards and costs of 40 steps of four environments, whose episodes have 15."""
    shorter = {"max_episode_steps": 15}
    envs = WorkerVectorEnv("safe/HallwayHumanoidsPoint-v0", num_envs=4, num_workers=num_workers, env_kwargs=shorter)
    rng, found = np.random.default_rng(0), [envs.reset(seed=5)[0]["depth"]]
    for _ in range(40):
        obs, rewards, *_, infos = envs.step(rng.uniform(-1, 1, (4, 2)).astype(np.float32))
        found += [obs["depth"], obs["proprioception"], rewards, infos[COST]]
    envs.close()
    return [np.array(each) for each in found]


def test_the_number_of_workers_changes_nothing():
    alone = lived(1)
    for num_workers in (2, 3):
        assert all(map(np.array_equal, alone, lived(num_workers)))


def make_env():
    return PreviousFeedback(gym.make("safe_envs:safe/HallwayWallsPoint-v0"))


@pytest.fixture
def envs():
    found = [DummyVecEnv([make_env] * 4), GymVecEnv(WorkerVectorEnv(make_env, num_envs=4, num_workers=2))]
    yield found
    for env in found:
        env.close()


def test_an_agent_learns_in_workers_as_in_one_process(envs):
    weights = []
    for env in envs:
        model = RecurrentSACLag(
            "MultiInputPolicy", env, policy_kwargs=SIZES, batch_size=4, horizon=5, buffer_size=4000,
            learning_starts=40, train_freq=10, gradient_steps=2, seed=0, device="cpu",
        ).learn(160)  # fmt: skip
        assert model._n_updates > 0
        weights.append(list(model.policy.parameters()))
    assert all(map(th.equal, *weights))
