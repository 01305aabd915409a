"""Every registered environment keeps the contracts of Gymnasium, SB3 and this package."""

import copy
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from env_ids import batched_env, copyable_env, every_env
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

import safe_envs
from safe_wrappers.info import COST, COST_TERM_PREFIX, SUCCESS, VIOLATION

# Positions in Navigation follow a Gaussian, velocities in PyBullet the solver: there is no honest finite bound.
ALLOWED_WARNINGS = (
    "A Box observation space minimum value is -infinity",
    "A Box observation space maximum value",
    "depth is an image but its `dtype` is (float32)",  # in [0, 1]; for SB3 with normalized_images=True
    "depth is an image but the upper and lower bounds",
)


def play(env, actions):
    steps = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        steps.append((plain(observation), reward, terminated, truncated, info))
        if terminated or truncated:
            steps.append(plain(env.reset()[0]))
    return steps


def plain(observation):
    if isinstance(observation, dict):
        return {key: value.tobytes() for key, value in observation.items()}
    return observation.tobytes()


def random_actions(env, n, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *env.action_space.shape)).astype(np.float32)


@every_env
def test_gymnasium_and_sb3_checkers_have_nothing_to_say(env_id):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_gymnasium(gym.make(env_id, render_mode="rgb_array").unwrapped)
        check_sb3(gym.make(env_id).unwrapped)  # which looks for compute_reward on the very object
    messages = [str(warning.message) for warning in caught]
    assert not [m for m in messages if not any(allowed in m for allowed in ALLOWED_WARNINGS)]


@every_env
def test_module_prefix_makes_the_same_environment(env_id):
    assert gym.make(f"safe_envs:{env_id}").spec.id == env_id


def test_registering_again_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        safe_envs.register_envs()


@every_env
def test_same_seed_same_trajectory_and_reset_without_seed_goes_on(env_id):
    runs = []
    for _ in range(2):
        env = gym.make(env_id)
        first, _ = env.reset(seed=7)
        runs.append([plain(first), *play(env, random_actions(env, 150))])
    assert runs[0] == runs[1]
    if "Spider" not in env_id:  # which always starts at the same place
        assert plain(env.reset()[0]) != plain(env.reset()[0])


@every_env
def test_a_seed_gives_the_same_trajectory_after_other_episodes(env_id):
    env = gym.make(env_id)
    env.reset(seed=7)
    first = play(env, random_actions(env, 45))
    for seed in (1, 2):
        env.reset(seed=seed)
        play(env, random_actions(env, 60, seed))
    env.reset(seed=7)
    assert play(env, random_actions(env, 45)) == first


@copyable_env
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_go_on_identically(env_id, duplicate):
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=1)
    play(env, random_actions(env, 17))
    env.render()
    twin = duplicate(env)
    assert twin.unwrapped._renderer is None
    assert np.array_equal(twin.render(), env.render())
    assert play(env, random_actions(env, 150, seed=1)) == play(twin, random_actions(env, 150, seed=1))


@batched_env
def test_vector_copies_go_on_identically(env_id):
    envs = gym.make_vec(env_id, num_envs=3)
    envs.reset(seed=1)
    twins = pickle.loads(pickle.dumps(envs))
    for actions in random_actions(envs, 120):
        ours, theirs = envs.step(actions), twins.step(actions)
        assert all(np.array_equal(a, b) for a, b in zip(ours[:4], theirs[:4], strict=True))


@every_env
def test_info_contract_on_every_step(env_id):
    env = gym.make(env_id)
    env.reset(seed=0)
    for action in random_actions(env, 300):
        _, reward, terminated, truncated, info = env.step(action)
        terms = [value for key, value in info.items() if key.startswith(COST_TERM_PREFIX)]
        assert set(info) == {COST, VIOLATION, SUCCESS, *(COST_TERM_PREFIX + n for n in env.unwrapped.cost_names)}
        total = min(1.0, sum(terms)) if env.unwrapped.cost_aggregate == "any" else sum(terms)
        assert type(info[COST]) is float and info[COST] == total and all(type(t) is float for t in terms)
        assert type(info[VIOLATION]) is bool and info[VIOLATION] == (info[COST] > 0)
        assert type(info[SUCCESS]) is bool
        assert type(reward) is float and type(terminated) is bool and type(truncated) is bool
        if terminated or truncated:
            env.reset()


@every_env
def test_bad_actions_raise_and_leave_the_state_alone(env_id):
    env, twin = gym.make(env_id).unwrapped, gym.make(env_id).unwrapped
    for each in (env, twin):
        each.reset(seed=0)
    good = np.full(env.action_space.shape, 0.5)
    for action, message in [
        (np.where(np.arange(good.size) == good.size - 1, np.nan, good), "finite"),
        (good + np.inf, "finite"),
        (good[1:], "shape"),
        (good[None], "shape"),
        ("left", "numbers"),
        (None, "shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            env.step(action)
    assert play(env, [good] * 3) == play(twin, [good] * 3)


@batched_env
def test_bad_vector_actions_raise_and_leave_the_states_alone(env_id):
    envs = gym.make_vec(env_id, num_envs=2)
    envs.reset(seed=0)
    states = envs._states.copy()
    for action in (np.zeros(2), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="an action must"):
            envs.step(action)
    assert np.array_equal(envs._states, states)


@every_env
def test_actions_are_clipped(env_id):
    results = []
    for scale in (1.0, 1e6):
        env = gym.make(env_id, disable_env_checker=True)
        env.reset(seed=0)
        action = scale * np.resize([1.0, -1.0], env.action_space.shape)
        results.append(plain(env.step(action)[0]))
    assert results[0] == results[1]


@every_env
def test_stepping_before_reset_raises(env_id):
    with pytest.raises(ResetNeeded):
        env = gym.make(env_id).unwrapped
        env.step(np.zeros(env.action_space.shape))


@batched_env
def test_stepping_copies_before_reset_raises(env_id):
    with pytest.raises(ResetNeeded):
        gym.make_vec(env_id, num_envs=2).step(np.zeros((2, 2)))


@batched_env
@pytest.mark.parametrize("state", [[0.0], [np.nan, 0.0], "here", 1.0, [[1.0, 2.0], [3.0, 4.0]]])
def test_bad_start_states_raise(env_id, state):
    with pytest.raises(ValueError, match="finite"):
        gym.make(env_id).reset(options={"state": state})


@every_env
def test_unknown_reset_options_raise_and_change_nothing(env_id):
    env = gym.make(env_id)
    env.reset(seed=0)
    before = env.unwrapped.np_random.bit_generator.state
    with pytest.raises(ValueError, match=r"reset options must be among \[.*\], got \['start'\]"):
        env.unwrapped.reset(seed=1, options={"start": [0.0, 0.0]})
    assert env.unwrapped.np_random.bit_generator.state == before


@batched_env
def test_unknown_reset_options_of_copies_raise(env_id):
    with pytest.raises(ValueError, match=r"\['state', 'reset_mask'\], got \['start'\]"):
        gym.make_vec(env_id, num_envs=2).reset(options={"start": [0.0, 0.0]})


@every_env
def test_time_limit_truncates_without_terminating(env_id):
    falls_by_itself = "CartPole" in env_id
    env = gym.make(env_id, **({"terminate_on_violation": False} if falls_by_itself else {}))
    env.reset(seed=0)
    still = np.zeros(env.action_space.shape, dtype=np.float32)
    ends = [env.step(still)[2:4] for _ in range(env.spec.max_episode_steps)]
    assert ends == [(False, False)] * (len(ends) - 1) + [(False, True)]
