"""Transitions of any policy."""

import gymnasium as gym
import numpy as np
import pytest
from env_ids import needs_mujoco
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import safe_envs
from safe_wrappers import MissingCostError, RecoveryFilter

NAVIGATION = "safe/Navigation1-v0"


def make(**kwargs):
    return gym.make(NAVIGATION, terminate_on_violation=False, **kwargs)


def test_rows_are_the_steps_of_the_policy():
    right = np.array([0.5, 0.0], dtype=np.float32)
    data = safe_envs.collect_rollouts(make(noise_std=0.0), 25, lambda observation: right, episode_length=10, seed=3)
    assert len(data) == 25 and data.env_id == NAVIGATION
    assert (data.actions == right).all()
    assert np.allclose(data.next_observations - data.observations, [0.5, 0.0], atol=1e-5)
    starts = np.flatnonzero((data.observations[1:] != data.next_observations[:-1]).any(axis=1)) + 1
    assert starts.tolist() == [10, 20]


def test_an_sb3_model_is_a_policy():
    model = PPO("MlpPolicy", make(), seed=0)
    data = safe_envs.collect_rollouts(make(), 15, model, seed=3)
    assert data.actions.shape == (15, 2) and len(np.unique(data.actions[:, 0])) > 10  # samples, not the mode


def test_a_missing_cost_is_zero_where_it_is_said_to_be():
    data = safe_envs.collect_rollouts(gym.make("Pendulum-v1"), 5, missing_cost="zero")
    assert data.costs.tolist() == [0.0] * 5 and data.n_violations == 0


def test_violations_do_not_end_an_episode_that_goes_on():
    data = safe_envs.collect_rollouts(make(), 60, lambda observation: np.array([0.0, 1.0]), episode_length=20)
    assert data.n_violations > 10 and not data.terminals.any()


def test_random_actions_follow_the_seed():
    same = [safe_envs.collect_rollouts(make(), 30, seed=seed).observations for seed in (1, 1, 2)]
    assert np.array_equal(same[0], same[1]) and not np.array_equal(same[0], same[2])


class Reusing(gym.Wrapper):
    """Writes every observation into the same array."""

    def reset(self, **kwargs):
        self.array, info = self.env.reset(**kwargs)
        return self.array, info

    def step(self, action):
        observation, *rest = self.env.step(action)
        self.array[:] = observation
        return self.array, *rest


def test_observations_are_copied():
    plain, reusing = (safe_envs.collect_rollouts(env, 20, seed=2) for env in (make(), Reusing(make())))
    assert np.array_equal(plain.observations, reusing.observations)
    assert np.array_equal(plain.next_observations, reusing.next_observations)


@needs_mujoco
def test_start_and_first_action_are_drawn_independently():
    pairs = []
    for seed in range(60):
        data = safe_envs.collect_rollouts(gym.make("safe/CartPoleLength-v0"), 1, seed=seed)
        pairs.append((data.observations[0, 0], data.actions[0, 0]))
    assert abs(np.corrcoef(np.transpose(pairs))[0, 1]) < 0.5


def test_executed_actions_are_kept():
    filtered = RecoveryFilter(
        make(), risk=lambda obs, actions: np.ones(len(obs)), recovery=lambda obs: np.zeros((len(obs), 2)), eps_risk=0.5
    )
    assert (safe_envs.collect_rollouts(filtered, 5).actions == 0.0).all()


def test_actions_are_recorded_within_their_bounds():
    data = safe_envs.collect_rollouts(make(noise_std=0.0), 5, lambda observation: -observation)
    assert np.array_equal(data.actions, np.clip(-data.observations, -1.0, 1.0))
    assert np.allclose(data.next_observations - data.observations, data.actions, atol=1e-5)


def test_dict_observations():
    env = gym.wrappers.TransformObservation(
        make(), lambda obs: {"at": obs}, gym.spaces.Dict({"at": make().observation_space})
    )
    data = safe_envs.collect_rollouts(env, 7)
    assert data.observations["at"].shape == data.next_observations["at"].shape == (7, 2)
    data.check_spaces(env.observation_space, env.action_space)


def test_a_model_sees_what_its_normalisation_shows_and_raw_observations_are_recorded():
    normalized = VecNormalize(DummyVecEnv([make]), clip_obs=0.5)
    model = PPO("MlpPolicy", normalized, n_steps=32, batch_size=32, seed=0).learn(32)
    seen = []

    class Spy:
        def predict(self, observation):
            seen.append(observation)
            return model.predict(observation)

        def get_vec_normalize_env(self):
            return model.get_vec_normalize_env()

    data = safe_envs.collect_rollouts(make(), 5, Spy())
    assert np.abs(seen).max() <= 0.5 and np.abs(data.observations).max() > 40.0


def test_models_with_memory_and_vectors_are_refused():
    class Remembers:
        def predict(self, observation):
            return np.zeros(2, np.float32), (np.zeros(4),)

    with pytest.raises(ValueError, match="Remembers has a memory"):
        safe_envs.collect_rollouts(make(), 5, Remembers())
    with pytest.raises(TypeError, match="needs one environment, got DummyVecEnv"):
        safe_envs.collect_rollouts(DummyVecEnv([make]), 5)


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match="n_transitions must be >= 1"):
        safe_envs.collect_rollouts(make(), 0)
    with pytest.raises(ValueError, match="episode_length must be >= 1"):
        safe_envs.collect_rollouts(make(), 5, episode_length=0)
    with pytest.raises(MissingCostError):
        safe_envs.collect_rollouts(gym.make("Pendulum-v1"), 5)


def test_every_episode_may_have_a_policy_of_its_own():
    env, made = make(noise_std=0.0), []

    def heading():
        made.append(np.array([0.0, float(len(made) % 2)], np.float32))
        return lambda observation, action=made[-1]: action

    data = safe_envs.collect_rollouts(env, 30, episode_length=10, each_episode=heading)
    assert [data.actions[i, 1] for i in (0, 9, 10, 19, 20, 29)] == [0, 0, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="policy or each_episode, not both"):
        safe_envs.collect_rollouts(env, 5, heading(), each_episode=heading)


def test_random_networks_last_and_keep_to_the_action_space():
    env = gym.make("safe/CartPoleLength-v0")
    first, second = (safe_envs.random_network(env, np.random.default_rng(seed)) for seed in (1, 2))
    observation = env.reset(seed=0)[0]
    assert env.action_space.contains(first(observation))
    assert np.array_equal(first(observation), first(observation)) and not np.array_equal(
        first(observation), second(observation)
    )
    actions = np.array([first(np.full(observation.shape, value)) for value in np.linspace(-3, 3, 50)])
    assert (abs(actions) <= env.action_space.high).all() and np.ptp(actions) > 0.5
    with pytest.raises(ValueError, match="bounded Boxes"):
        safe_envs.random_network(gym.make("CartPole-v1"), np.random.default_rng(0))
