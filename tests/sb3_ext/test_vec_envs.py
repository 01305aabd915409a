"""Gymnasium's vector environments as SB3's: the same episodes, costs and last observations."""

import gymnasium as gym
import numpy as np
import pytest
from corridors import Corridor, tiny
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from safe_wrappers import CostFromFunction
from safe_wrappers.info import COST, VIOLATION
from sb3_ext import GymVecEnv, RecoveryRL, SACLag, discounted_limit

ID, STEPS = "safe_envs:safe/Navigation1-v0", 230
SAME_STEP = {"autoreset_mode": AutoresetMode.SAME_STEP}


def single(**kwargs):
    return gym.make(ID, **kwargs)


BACKENDS = {
    "ours": lambda n: GymVecEnv(gym.make_vec(ID, num_envs=n, vectorization_mode="vector_entry_point")),
    "Sync": lambda n: GymVecEnv(SyncVectorEnv([single] * n, **SAME_STEP)),
    "Async": lambda n: GymVecEnv(AsyncVectorEnv([single] * n, **SAME_STEP)),
    "SB3": lambda n: DummyVecEnv([single] * n),
}


def actions(n, space):
    rng = np.random.default_rng(0)
    return rng.uniform(space.low, space.high, (STEPS, n, *space.shape)).astype(np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sums_of_cost_equal_those_of_the_episodes_across_resets(backend):
    env = BACKENDS[backend](3)
    env.seed(0)
    env.reset()
    costs, violations, ends = np.zeros(3), np.zeros(3, int), []
    for action in actions(3, env.action_space):
        obs, _, dones, infos = env.step(action)
        costs += [info[COST] for info in infos]
        violations += [info[VIOLATION] for info in infos]
        for i in np.flatnonzero(dones):
            last = infos[i]["terminal_observation"]
            assert last.shape == obs[i].shape and not np.array_equal(last, obs[i])
            # Only the last step of an episode may violate here, or it is a time-out.
            assert infos[i][VIOLATION] != infos[i]["TimeLimit.truncated"]
            ends.append((i, infos[i][VIOLATION]))
    env.close()
    assert len(ends) >= 6
    for i in range(3):
        assert violations[i] == sum(violated for j, violated in ends if j == i) == costs[i]


def test_a_single_environment_and_the_adapter_walk_alike():
    env, alone = BACKENDS["ours"](1), BACKENDS["SB3"](1)
    for each in (env, alone):
        each.seed(3)
    assert np.allclose(env.reset(), alone.reset(), atol=1e-5)
    for action in actions(1, env.action_space)[:80]:
        (obs, reward, done, infos), (obs_, reward_, done_, infos_) = env.step(action), alone.step(action)
        assert np.allclose(reward, reward_, atol=1e-4) and np.array_equal(done, done_)
        assert infos[0][COST] == infos_[0][COST]
        if done:
            last, last_ = (info[0]["terminal_observation"] for info in (infos, infos_))
            assert np.allclose(last, last_, atol=1e-4)
            break
        assert np.allclose(obs, obs_, atol=1e-4)


def test_seeds_repeat_and_environments_differ():
    starts = []
    for seed in (0, 0, 1):
        env = BACKENDS["ours"](3)
        env.seed(seed)
        starts.append(env.reset())
    assert np.array_equal(starts[0], starts[1]) and not np.array_equal(starts[0], starts[2])
    assert len(np.unique(starts[0], axis=0)) == 3


@pytest.mark.parametrize("cls", [SAC, SACLag, RecoveryRL])
@pytest.mark.filterwarnings("ignore:RecoveryRL starts")
def test_sb3_and_our_algorithms_train_on_it(cls):
    model = tiny(cls, BACKENDS["ours"](4), learning_starts=40).learn(120)
    assert model._n_updates > 0 and model.replay_buffer.size() == 30


def test_limits_find_the_episodes_length():
    assert tiny(SACLag, BACKENDS["ours"](2), cost_limit=1.0).limit == discounted_limit(1.0, 0.99, 100)


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_environments_in_other_processes_survive_being_asked(kind):
    env = GymVecEnv(kind([lambda: TimeLimit(Corridor(), 40)] * 2, **SAME_STEP))
    try:
        assert env.has_attr("_max_episode_steps") is (kind is SyncVectorEnv)
        assert env.has_attr("num_envs") and not env.has_attr("nothing")
        model = tiny(SACLag, env, cost_limit=1.0, episode_length=10).learn(30)
        assert model.limit == discounted_limit(1.0, 0.99, 10)
    finally:
        env.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_reset_modes_are_refused_with_the_remedy(mode):
    with pytest.raises(ValueError, match="SAME_STEP"):
        GymVecEnv(SyncVectorEnv([Corridor], autoreset_mode=mode))


def test_masked_infos_belong_to_their_environments():
    """Only some environments report an entry: the others must not get a default."""

    class Sometimes(Corridor):
        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            if self.x > 0.5:
                info["far"] = {"by": self.x}
            return obs, reward, terminated, truncated, info

    env = GymVecEnv(SyncVectorEnv([Sometimes] * 2, **SAME_STEP))
    env.reset()
    for _ in range(3):
        _, _, _, infos = env.step(np.array([[3.0, 0.0], [0.5, 0.0]], np.float32))
    assert infos[0]["far"]["by"] > 0.5 and "far" not in infos[1]


def with_a_lambda():
    env = gym.make("Pendulum-v1")
    return CostFromFunction(env, lambda obs, action, next_obs, info: float(abs(next_obs[2]) > 6))


def test_specifications_with_nameless_functions_can_be_asked_for_in_other_processes():
    env = SubprocVecEnv([with_a_lambda] * 2)
    try:
        (spec, _) = env.get_attr("spec")
        assert spec.id == "Pendulum-v1" and spec.max_episode_steps == 200
        with pytest.raises(RuntimeError, match=r"lambda.*cannot be pickled: wrap the environment again"):
            again = gym.make(spec)
            again.reset()
            again.step(again.action_space.sample())
        model = RecoveryRL("MlpPolicy", env, cost_limit=10, seed=0)  # asks for the length of an episode
        assert model.limit == discounted_limit(10.0, 0.99, 200)
    finally:
        env.close()
