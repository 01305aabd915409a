"""Safety-Gymnasium's own API of six-tuples, on its environments and on ours."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from bridge import actions_for, flat, safety_gymnasium

import safe_envs
from safe_wrappers import FromSixTuple, MissingCostError, ToSixTuple, safety_gym
from safe_wrappers.info import COST

safety_gym.load()  # again: `safe_envs` has registered its environments since
wrappers = safety_gymnasium.wrappers
WRAPPERS = {
    "autoreset": wrappers.SafeAutoResetWrapper,
    "observation": wrappers.SafeNormalizeObservation,
    "reward": wrappers.SafeNormalizeReward,
    "cost": wrappers.SafeNormalizeCost,
    "unsqueeze": wrappers.SafeUnsqueeze,
    "rescale": lambda env: wrappers.SafeRescaleAction(env, -0.5, 0.5),
    "gymnasium": lambda env: wrappers.with_gymnasium_wrappers(env, gym.wrappers.ClipAction),
    "conversions": lambda env: wrappers.Gymnasium2SafetyGymnasium(wrappers.SafetyGymnasium2Gymnasium(env)),
}


def six(env_id):
    return "Safe" + env_id.removeprefix("safe/")


@pytest.fixture(name="register")
def _register():
    registered = []

    def register(env_id, **kwargs):
        gym.register(env_id, **kwargs)
        registered.append(env_id)
        safety_gym.load()

    yield register
    for env_id in registered:
        gym.registry.pop(env_id)
        gym.registry.pop(six(env_id), None)
        safety_gymnasium.utils.registration.safe_registry.discard(six(env_id))


@pytest.mark.parametrize("env_id", safe_envs.ENV_IDS)
def test_ours_are_the_same_in_both_dialects(env_id):
    five, other = gym.make(env_id), safety_gymnasium.make(six(env_id))
    assert flat(five.reset(seed=2)[0]) == flat(other.reset(seed=2)[0])
    for action in actions_for(five, 100):
        observation, reward, terminated, truncated, info = five.step(action)
        values = other.step(action)
        assert flat(values[0]) == flat(observation)
        assert values[1:5] == (reward, info[COST], terminated, truncated)
        if terminated or truncated:
            break
    assert len(gym.make(env_id).spec.additional_wrappers) == 0


def test_new_ones_are_found_and_left_as_they_are(register):
    entry_point = "safe_envs.navigation.navigation:NavigationEnv"
    register("safe/Bridge-v3", entry_point=entry_point, max_episode_steps=9, kwargs={"scene": "navigation1"})
    before = copy.deepcopy(gym.spec("safe/Bridge-v3"))
    env = safety_gymnasium.make("SafeBridge-v3", max_episode_steps=12)
    env.reset(seed=0)
    lengths = next(n for n in range(1, 20) if any(env.step(np.zeros(2, np.float32))[3:5]))
    assert lengths == 12
    assert gym.spec("safe/Bridge-v3") == before
    assert len(gym.make("safe/Bridge-v3").reset(seed=0)) == 2


def test_one_without_cost_says_so(register):
    register("safe/NoCost-v0", entry_point="gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=5)
    env = safety_gymnasium.make("SafeNoCost-v0", disable_env_checker=True)
    env.reset(seed=0)
    with pytest.raises(MissingCostError, match="CostFromFunction"):
        env.step([0.0])


def test_their_registration_gives_five_tuples_too():
    safety_gymnasium.register(id="SafetyMine-v0", entry_point=lambda: ToSixTuple(gym.make("safe/Navigation1-v0")))
    try:
        env = safety_gym.make("SafetyMine-v0", max_episode_steps=5)
        env.reset(seed=0)
        assert len(env.step(env.action_space.sample())) == 5
    finally:
        for env_id in ("SafetyMine-v0", "SafetyMineGymnasium-v0"):
            gym.registry.pop(env_id, None)
        safety_gymnasium.utils.registration.safe_registry.discard("SafetyMine-v0")


def test_converters_are_inverse():
    direct, converted = safety_gymnasium.make("SafetyPointGoal1-v0"), safety_gymnasium.make("SafetyPointGoal1-v0")
    converted = ToSixTuple(FromSixTuple(converted))
    direct.reset(seed=0), converted.reset(seed=0)
    for action in actions_for(direct, 5):
        one, other = direct.step(action), converted.step(action)
        assert flat(one[0]) == flat(other[0]) and one[1:5] == other[1:5]


@pytest.mark.filterwarnings("ignore:.*already contains a cost:UserWarning")  # ours keep it there too
@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("env_id", ["SafetyPointGoal1-v0", "SafeNavigation2-v0"])
def test_their_wrappers_run(env_id, name):
    env = WRAPPERS[name](safety_gymnasium.make(env_id, max_episode_steps=5))
    env.reset(seed=0)
    for _ in range(5):
        values = env.step(0.1 * env.action_space.sample())
    assert len(values) == 6 and np.all(values[4])


def test_their_autoreset_argument():
    env = safety_gymnasium.make("SafetyPointGoal1-v0", max_episode_steps=2, autoreset=True)
    env.reset(seed=0)
    assert ["final_info" in env.step([0.0, 0.0])[-1] for _ in range(4)] == [False, True, False, True]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_vector_make_keeps_the_costs_of_episode_ends(asynchronous):
    env_id, n = "SafeNavigation2-v0", 2
    envs = safety_gymnasium.vector.make(env_id, num_envs=n, asynchronous=asynchronous)
    envs.reset(seed=0)
    singles = [safety_gymnasium.make(env_id) for _ in range(n)]
    for seed, env in enumerate(singles):
        env.reset(seed=seed)
    total = 0.0
    actions = np.array([[1.0, 0.0], [0.8, 0.1]], np.float32)  # into the block
    for _ in range(150):
        _, rewards, costs, terminated, truncated, _ = envs.step(actions)
        for i, env in enumerate(singles):
            _, reward, cost, ended, out_of_time, _ = env.step(actions[i])
            assert (rewards[i], costs[i], terminated[i], truncated[i]) == (reward, cost, ended, out_of_time)
            if ended or out_of_time:
                env.reset()
        total += costs.sum()
    envs.close()
    assert total > 0


def test_their_wrappers_run_on_vectors():
    envs = safety_gymnasium.vector.make("SafetyPointGoal1-v0", num_envs=2, asynchronous=False, max_episode_steps=3)
    envs = wrappers.SafeNormalizeCost(wrappers.SafeNormalizeReward(wrappers.SafeNormalizeObservation(envs)))
    envs.reset(seed=0)
    for _ in range(4):
        observations, rewards, costs, *_ = envs.step(envs.action_space.sample())
    assert observations.shape == (2, 60) and rewards.shape == costs.shape == (2,)


def test_multi_agent_says_so():
    with pytest.raises(NotImplementedError, match="make_ma"):
        safety_gymnasium.make_ma("Ant", "2x4")
