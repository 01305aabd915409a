"""The same costs arrive, whichever way an environment is run, across resets."""

import gymnasium as gym
import numpy as np
import pytest
from env_ids import batched_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import DummyVecEnv

from safe_wrappers.info import COST, COST_TERM_PREFIX, SUCCESS, VIOLATION

EPISODES, COPIES = 3, 2
QUIET_NAVIGATION = {"noise_std": 0.0, "start_std": 0.0}

# (ID, arguments that take the chance out, action that leads to harm, cost of an episode worked out by hand)
HARMFUL = [
    ("safe/Navigation1-v0", QUIET_NAVIGATION, (1.0, 1.0), 1.0),
    # y = 5 is reached after 5 of the 100 steps; the agent stays there until the time limit.
    ("safe/Navigation1-v0", {**QUIET_NAVIGATION, "terminate_on_violation": False}, (1.0, 1.0), 96.0),
    ("safe/Navigation2-v0", QUIET_NAVIGATION, (1.0, 0.0), 1.0),
    ("safe/DrunkSpider-v0", {"action_noise": 0.0}, (0.6, 1.0), 1.0),
]
harmful = pytest.mark.parametrize(("env_id", "kwargs", "action", "episode_cost"), HARMFUL)


def single(env_id, kwargs, action):
    env = gym.make(env_id, **kwargs)
    for _ in range(EPISODES * COPIES):
        env.reset()
        done = False
        while not done:
            _, _, terminated, truncated, info = env.step(np.array(action))
            done = terminated or truncated
            yield info[COST]


def dummy_vec_env(env_id, kwargs, action):
    envs = DummyVecEnv([lambda: gym.make(env_id, **kwargs)] * COPIES)
    envs.reset()
    ended = 0
    while ended < EPISODES * COPIES:
        _, _, dones, infos = envs.step(np.tile(action, (COPIES, 1)))
        ended += dones.sum()
        yield from (info[COST] for info in infos)


def vector(env_id, kwargs, action, **mode):
    envs = gym.make_vec(env_id, num_envs=COPIES, **mode, **kwargs)
    envs.reset(seed=0)
    ended = 0
    while ended < EPISODES * COPIES:
        _, _, terminated, truncated, infos = envs.step(np.tile(action, (COPIES, 1)))
        ended += (terminated | truncated).sum()
        if COST in infos:
            yield from infos[COST][infos[f"_{COST}"]]
        if "final_info" in infos and mode:  # ours repeats there what it has already reported
            yield from infos["final_info"][COST][infos["_final_info"]]
    envs.close()


def sync(mode):
    kwargs = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": mode}}
    return lambda *args: vector(*args, **kwargs)


def asynchronous(*args):
    return vector(*args, vectorization_mode="async")


BACKENDS = {
    "single": single,
    "ours": vector,
    "sync next step": sync(AutoresetMode.NEXT_STEP),
    "sync same step": sync(AutoresetMode.SAME_STEP),
    "async": asynchronous,
    "sb3": dummy_vec_env,
}


@harmful
@pytest.mark.parametrize("backend", BACKENDS)
def test_step_costs_sum_to_episode_costs(backend, env_id, kwargs, action, episode_cost):
    assert sum(BACKENDS[backend](env_id, kwargs, action)) == episode_cost * EPISODES * COPIES


@harmful
def test_infos_at_the_end_of_episodes_are_those_of_sync_vector_env(env_id, kwargs, action, episode_cost):
    ours = gym.make_vec(env_id, num_envs=COPIES, **kwargs)
    theirs = gym.make_vec(
        env_id, num_envs=COPIES, vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}, **kwargs,
    )  # fmt: skip
    starts = (ours.reset(seed=0)[0], theirs.reset(seed=0)[0])
    assert np.array_equal(*starts)
    # The second copy stays where it is, so that the episodes end at different times.
    actions = np.stack([action, np.zeros(2)])
    ends = 0
    for _ in range(110):
        mine, other = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:4], other[:4], strict=True):
            assert np.array_equal(a, b) and a.dtype == b.dtype
        assert ("final_info" in mine[4]) == ("final_info" in other[4])
        if "final_info" in mine[4]:
            ends += 1
            assert_same_final(mine[4], other[4])
    assert ends >= 1


def assert_same_final(mine, other):
    assert np.array_equal(mine["_final_info"], other["_final_info"])
    assert np.array_equal(mine["_final_obs"], other["_final_obs"])
    assert mine["final_info"].keys() == other["final_info"].keys()
    for key, value in other["final_info"].items():
        assert np.array_equal(mine["final_info"][key], value) and mine["final_info"][key].dtype == value.dtype
    for a, b in zip(mine["final_obs"], other["final_obs"], strict=True):
        assert np.array_equal(a, b) if b is not None else a is None


@batched_env
def test_one_copy_equals_the_single_environment_across_resets(env_id):
    env, envs = gym.make(env_id), gym.make_vec(env_id, num_envs=1)
    assert np.array_equal(env.reset(seed=5)[0], envs.reset(seed=5)[0][0])
    for action in np.random.default_rng(0).uniform(-1, 1, (400, 2)):
        observation, reward, terminated, truncated, info = env.step(action)
        batch, rewards, terminations, truncations, infos = envs.step(action[None])
        assert (reward, terminated, truncated) == (rewards[0], terminations[0], truncations[0])
        assert all(infos[key][0] == value and infos[f"_{key}"].all() for key, value in info.items())
        if terminated or truncated:
            assert np.array_equal(infos["final_obs"][0], observation)
            observation, _ = env.reset()
        assert np.array_equal(batch[0], observation)


@batched_env
def test_vector_infos_are_complete_and_fresh(env_id):
    envs = gym.make_vec(env_id, num_envs=5)
    envs.reset(seed=0)
    names = [COST, VIOLATION, SUCCESS, *(COST_TERM_PREFIX + name for name in envs.task.cost_names)]
    previous = None
    for action in np.random.default_rng(0).uniform(-1, 1, (100, 5, 2)):
        result = envs.step(action)
        infos = result[4]
        assert all(infos[name].shape == (5,) and infos[f"_{name}"].all() for name in names)
        assert infos[COST].dtype == np.float64 and infos[VIOLATION].dtype == bool and infos[SUCCESS].dtype == bool
        assert previous is None or not np.shares_memory(previous, result[0])
        previous = result[0]


def test_gymnasium_tools_take_our_vector_environment():
    envs = gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec("safe/Navigation1-v0", num_envs=2))
    envs = gym.wrappers.vector.DictInfoToList(envs)
    envs.reset(seed=0)
    for _ in range(7):
        *_, infos = envs.step(np.tile([1.0, 1.0], (2, 1)))
        for info in infos:
            assert COST in info
            if "episode" in info:
                assert info["final_info"][COST] == 1.0 and info["episode"]["l"] <= 7


def test_reset_mask_resets_only_those():
    envs = gym.make_vec("safe/Navigation1-v0", num_envs=3)
    envs.reset(seed=0)
    before, *_ = envs.step(np.ones((3, 2)))
    mask = np.array([False, True, False])
    after, _ = envs.reset(options={"reset_mask": mask, "state": [1.0, 2.0]})
    assert np.array_equal(after[~mask], before[~mask]) and after[1].tolist() == [1.0, 2.0]
    assert envs._steps.tolist() == [1, 0, 1]
    for bad in (np.zeros(3, dtype=bool), np.ones(2, dtype=bool), np.ones(3)):
        with pytest.raises(ValueError, match="reset_mask"):
            envs.reset(options={"reset_mask": bad})
    with pytest.raises(ValueError, match="first reset"):
        gym.make_vec("safe/Navigation1-v0", num_envs=3).reset(options={"reset_mask": mask})


@pytest.mark.parametrize("bad", [{"num_envs": 0}, {"max_episode_steps": 0}])
def test_bad_vector_arguments_raise(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        gym.make_vec("safe/Navigation1-v0", **bad)
