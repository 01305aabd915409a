"""What all PyBullet environments share: worlds of their own, crashes, copies, a missing PyBullet."""

import copy
import gc
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from env_ids import BULLET_IDS, needs_bullet
from stable_baselines3.common.vec_env import SubprocVecEnv

import safe_envs
from safe_wrappers.info import COST

every_bullet_env = pytest.mark.parametrize("env_id", BULLET_IDS)


def connected():
    import pybullet

    return [i for i in range(100) if pybullet.getConnectionInfo(physicsClientId=i)["isConnected"]]


def actions(env, n, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *env.action_space.shape))


def numbers(observation):
    return np.concatenate([*observation.values()]) if isinstance(observation, dict) else observation


def rollout(env, n=10, seed=0):
    first, _ = env.reset(seed=seed)
    return np.stack([numbers(first), *(numbers(env.step(action)[0]) for action in actions(env, n))])


@pytest.fixture(autouse=True)
def _only_our_worlds():
    gc.collect()


@needs_bullet
@every_bullet_env
def test_two_environments_never_share_a_world(env_id):
    first, second = gym.make(env_id), gym.make(env_id)
    expected = rollout(first), rollout(second, seed=1)
    assert first.unwrapped.sim.client_id != second.unwrapped.sim.client_id
    first.reset(seed=0)
    second.reset(seed=1)
    for i, (a, b) in enumerate(zip(actions(first, 10), actions(second, 10), strict=True)):
        assert np.array_equal(numbers(first.step(a)[0]), expected[0][i + 1])
        assert np.array_equal(numbers(second.step(b)[0]), expected[1][i + 1])


@needs_bullet
def test_fifty_environments_leave_nothing_behind():
    before = connected()
    for _ in range(50):
        env = gym.make("safe/AntRun-v0")
        env.reset(seed=0)
        assert len(connected()) == len(before) + 1
        env.close()
        env.close()
    assert connected() == before
    env = gym.make("safe/AntRun-v0")
    env.reset(seed=0)
    del env  # never closed
    gc.collect()
    assert connected() == before


@needs_bullet
@every_bullet_env
def test_making_one_starts_no_simulator(env_id):
    before = connected()
    env = gym.make(env_id)
    assert connected() == before
    env.close()


@needs_bullet
def test_a_closed_environment_does_not_close_the_next_one():
    first = gym.make("safe/AntRun-v0").unwrapped
    first.reset(seed=0)
    world = first.sim
    first.close()
    second = gym.make("safe/AntRun-v0").unwrapped
    expected = rollout(second)
    assert world.client_id == -1
    with pytest.raises(Exception, match="closed"):
        world.stepSimulation()
    second.reset(seed=0)
    del first, world
    gc.collect()
    assert np.array_equal(rollout(second), expected)


@needs_bullet
@every_bullet_env
def test_closed_environments_start_again_at_a_reset(env_id):
    env = gym.make(env_id).unwrapped
    expected = rollout(env)
    env.close()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(env.action_space.shape))
    with pytest.raises(gym.error.ResetNeeded):
        _ = env.sim
    assert np.array_equal(rollout(env), expected)


@needs_bullet
@every_bullet_env
def test_a_crash_names_environment_and_step(env_id):
    import pybullet

    env = gym.make(env_id, disable_env_checker=True)
    expected = rollout(env)
    env.reset(seed=0)
    still = np.zeros(env.action_space.shape)
    env.step(still)
    env.step(still)
    pybullet.disconnect(physicsClientId=env.unwrapped.sim.client_id)
    with pytest.raises(safe_envs.SimulatorCrashedError, match=f"{env_id} failed at step 3"):
        env.step(still)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(still)
    assert np.array_equal(rollout(env), expected)


@needs_bullet
@every_bullet_env
def test_a_crash_in_reset_is_named_too(env_id, monkeypatch):
    import pybullet

    env = gym.make(env_id, disable_env_checker=True)
    expected = rollout(env)
    with monkeypatch.context() as patch:
        patch.setattr(pybullet, "connect", lambda mode: -1)
        pybullet.disconnect(physicsClientId=env.unwrapped.sim.client_id)
        with pytest.raises(safe_envs.SimulatorCrashedError, match=f"{env_id} failed at step 0: no physics server"):
            env.reset()
    assert np.array_equal(rollout(env), expected)


@needs_bullet
@every_bullet_env
def test_pickles_are_fresh_and_deep_copies_refused(env_id):
    env = gym.make(env_id, render_mode="rgb_array")
    expected = rollout(env)
    twin = pickle.loads(pickle.dumps(env))
    with pytest.raises(gym.error.ResetNeeded):
        twin.unwrapped.step(np.zeros(env.action_space.shape))
    assert twin.unwrapped.render_mode == "rgb_array"
    assert np.array_equal(rollout(twin), expected)
    with pytest.raises(TypeError, match=r"gym\.make"):
        copy.deepcopy(env)


@needs_bullet
def test_pickles_keep_the_arguments():
    env = gym.make("safe/AntRun-v0", boundary=0.5).unwrapped
    assert pickle.loads(pickle.dumps(env))._boundary == 0.5
    env = gym.make("safe/PandaPush-v0", lateral_offset=0.02, obstacle=True, observe="angular_velocity").unwrapped
    twin = pickle.loads(pickle.dumps(env))
    assert (twin._lateral_offset, twin._observe) == (0.02, "angular_velocity")


@needs_bullet
@every_bullet_env
def test_drawing_changes_no_trajectory(env_id):
    plain, drawn = gym.make(env_id), gym.make(env_id, render_mode="rgb_array")
    plain.reset(seed=0)
    drawn.reset(seed=0)
    for i, action in enumerate(actions(plain, 25)):
        if i % 8 == 0:
            drawn.render()
        ours, theirs = plain.step(action), drawn.step(action)
        assert np.array_equal(numbers(ours[0]), numbers(theirs[0])) and ours[1:] == theirs[1:]


@needs_bullet
@pytest.mark.parametrize("env_id", ["safe/AntRun-v0", "safe/PandaPush-v0"])
def test_subprocesses_give_the_same_trajectories(env_id):
    singles = [rollout(gym.make(env_id), n=6, seed=seed) for seed in (3, 4)]
    vec = SubprocVecEnv([lambda: gym.make(env_id)] * 2, start_method="fork")
    vec.seed(3)  # the second copy gets 4
    observations = [vec.reset()]
    for action in actions(gym.make(env_id), 6):
        observation, _, _, infos = vec.step(np.stack([action, action]))
        observations.append(observation)
        assert all(COST in info for info in infos)
    vec.close()
    assert np.array_equal(np.stack(observations, axis=1), np.stack(singles))


@needs_bullet
def test_nothing_is_printed_at_making():
    program = (
        "import gymnasium as gym, safe_envs\n"
        "for i in ('safe/AntRun-v0', 'safe/PandaPush-v0'):\n    e = gym.make(i); e.reset(seed=0); e.close()\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == ""


@pytest.mark.parametrize(("env_id", "module"), [("safe/AntRun-v0", "pybullet"), ("safe/PandaPush-v0", "panda_gym")])
def test_missing_libraries_name_the_install_line(env_id, module):
    program = f"""
import sys
sys.modules[{module!r}] = None
import gymnasium as gym, safe_envs
try:
    gym.make({env_id!r})
except gym.error.DependencyNotInstalled as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "sb3-safe[bullet]"' in result.stdout
