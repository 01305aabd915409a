"""Safety-Gymnasium's environments as five-tuples."""

import copy
import pickle
import re
import warnings
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from bridge import actions_for, flat, needs_graphics, safety_gymnasium, trajectory
from gymnasium.error import NameNotFound
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3
from stable_baselines3.common.vec_env import SubprocVecEnv

from safe_wrappers import CostMonitor, safety_gym
from safe_wrappers.info import COST, EPISODE_COST, SIMULATION_ERROR, VIOLATION

FAMILIES = (
    "SafetyPointGoal1-v0",
    "SafetyCarPush2-v0",
    "SafetyDoggoButton1-v0",
    "SafetyRacecarCircle2-v0",
    "SafetyAntRun0-v0",
    "SafetyPointFadingEasy1-v0",
    "SafetyCarFadingHard2-v0",
    "SafetyPointGoal0Debug-v0",
    "SafetyAntVelocity-v1",
    "SafetySwimmerVelocity-v0",
)
COPIED = ("SafetyPointPush1-v0", "SafetyHopperVelocity-v1")


@pytest.mark.parametrize("env_id", FAMILIES)
def test_checkers_accept_every_family(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # double precision, infinite bounds: Safety-Gymnasium's spaces
        check_sb3(safety_gym.make(env_id))
        check_gymnasium(safety_gym.make(env_id), skip_render_check=True)


@needs_graphics
def test_vision_passes_the_checker():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_sb3(safety_gym.make("SafetyPointGoal1Vision-v0"))


def test_info_of_every_step():
    env = safety_gym.make("SafetySwimmerVelocity-v1")
    infos = [step[-1] for step in trajectory(env, 60)[1:]]
    assert {type(info[COST]) for info in infos} == {float} and 0 < sum(info[COST] for info in infos) < 60
    assert all(info[VIOLATION] is (info[COST] > 0) for info in infos)
    env = safety_gym.make("SafetyPointGoal1-v0")
    assert set(trajectory(env, 3)[-1][-1]) == {COST, "cost_hazards", VIOLATION}


def test_cost_is_any_of_its_terms():
    env = safety_gym.make("SafetyPointGoal2-v0")
    env.reset(seed=0)
    task = env.unwrapped.task
    task.model.body("hazard0").pos[:2] = task.agent.pos[:2]
    task.data.joint("vase0").qpos[:2] = task.agent.pos[:2] + 0.1
    info = env.step([0.0, 0.0])[-1]
    assert info["cost_hazards"] == info["cost_vases_contact"] == info[COST] == 1.0
    assert info[VIOLATION] is True


@pytest.mark.parametrize("env_id", ["SafetyPointGoal1-v0", "SafetyHalfCheetahVelocity-v1"])
def test_all_ways_to_make_it_are_the_same(env_id):
    name, version = env_id.split("-")
    five = f"{name}Gymnasium-{version}"
    expected = trajectory(safety_gym.make(env_id), 20)
    for env in (
        safety_gym.make(five),
        gym.make(five),
        gym.make(f"safe_wrappers.safety_gym:{five}"),
        gym.make(safety_gym.make(env_id).spec),
    ):
        assert trajectory(env, 20) == expected


def test_time_limit_and_episode_cost():
    env = CostMonitor(safety_gym.make("SafetyPointGoal1-v0", max_episode_steps=7))
    last = trajectory(env, 7)[-2]
    assert last[2:4] == (False, True) and last[-1][EPISODE_COST]["length"] == 7


@pytest.mark.parametrize("env_id", ["SafetyPointCircle1-v0", "SafetyHalfCheetahVelocity-v1"])
def test_longer_time_limits(env_id):
    env = safety_gym.make(env_id, max_episode_steps=1005)
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape)
    assert next(n for n in range(1, 2000) if any(env.step(action)[2:4])) == 1005


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_make_vec_is_its_single_environments(mode):
    envs = safety_gym.make_vec("SafetyPointCircle1-v0", num_envs=2, vectorization_mode=mode)
    first, _ = envs.reset(seed=5)
    actions = np.stack([actions_for(safety_gym.make("SafetyPointCircle1-v0"), 2, seed) for seed in (0, 1)])
    steps = [envs.step(actions[:, t]) for t in range(2)]
    envs.close()
    for i in range(2):
        env = safety_gym.make("SafetyPointCircle1-v0")
        assert flat(env.reset(seed=5 + i)[0]) == flat(first[i])
        for t, (observations, rewards, _, _, infos) in enumerate(steps):
            observation, reward, _, _, info = env.step(actions[i, t])
            assert flat(observation) == flat(observations[i])
            assert (reward, info[COST]) == (rewards[i], infos[COST][i])


def test_processes_that_import_nothing_else():
    envs = SubprocVecEnv([partial(safety_gym.make, "SafetyPointGoal1-v0")], start_method="forkserver")
    envs.seed(0)
    expected = safety_gym.make("SafetyPointGoal1-v0").reset(seed=0)[0]
    assert np.allclose(envs.reset()[0], expected)
    envs.close()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("env_id", COPIED)
def test_copies_go_on_as_the_original_does(env_id, clone):
    env = safety_gym.make(env_id)
    actions = actions_for(env, 40)
    env.reset(seed=1)
    for action in actions[:20]:
        env.step(action)
    twin = clone(env)
    for action in actions[20:]:
        one, other = env.step(action), twin.step(action)
        assert flat(one[0]) == flat(other[0]) and one[1:] == other[1:]
    assert flat(env.reset()[0]) == flat(twin.reset()[0])


def test_the_global_generator_is_left_alone():
    before = np.random.get_state()
    safety_gym.make("SafetyPointGoal1-v0").reset()
    after = np.random.get_state()
    assert np.array_equal(after[1], before[1]) and after[2:] == before[2:]


def test_the_registry_is_left_alone():
    env = safety_gym.make("SafetyPointGoal1-v0")
    env.unwrapped.config["lidar_num_bins"] = 3
    assert "lidar_num_bins" not in gym.spec("SafetyPointGoal1-v0").kwargs["config"]


@pytest.mark.parametrize("action", [[0.0], [0.0, np.nan], [[0.0, 0.0]]])
def test_bad_actions_are_refused_before_they_do_anything(action):
    env = safety_gym.make("SafetyPointGoal1-v0").env.env.env  # below Gymnasium's own checks
    env.reset(seed=0)
    before = env.unwrapped.task.data.qpos.copy()
    with pytest.raises(ValueError, match=r"finite and of shape \(2,\)"):
        env.step(action)
    assert np.array_equal(env.unwrapped.task.data.qpos, before)


@pytest.mark.parametrize("env_id", ["SafetyPointGoal1-v0", "SafetyHopperVelocity-v1"])
def test_unstable_physics_truncates(env_id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs its warning there
    env = safety_gym.make(env_id)
    env.reset(seed=0)
    data = getattr(env.unwrapped, "task", env.unwrapped).data
    data.qvel[0] = np.inf
    *_, truncated, info = env.step(env.action_space.sample())
    assert truncated and "MuJoCo met an infinite" in info[SIMULATION_ERROR]
    env.reset()
    assert SIMULATION_ERROR not in env.step(env.action_space.sample())[-1]


def test_an_exception_in_the_physics_truncates():
    env = safety_gym.make("SafetyPointGoal1-v0")
    env.reset(seed=0)
    terms = {key for key in env.step([0.0, 0.0])[-1] if key.startswith("cost_")}
    env.unwrapped.task.simulation_forward = lambda action: True
    _, reward, terminated, truncated, info = env.step([0.0, 0.0])
    assert (reward, terminated, truncated, info[COST]) == (-10.0, False, True, 0.0)
    assert info[SIMULATION_ERROR] == "MuJoCo raised an exception" and "cost_exception" not in info
    assert terms and all(info[term] == 0.0 for term in terms)  # a limit on a term goes on counting


def test_unknown_ids_name_the_nearest():
    with pytest.raises(NameNotFound, match=r"'SafetyPointGoals1-v0'; nearest: SafetyPointGoal1-v0"):
        safety_gym.make("SafetyPointGoals1-v0")
    with pytest.raises(NameNotFound, match=r"env_ids\(\)"):
        safety_gym.make_vec("CartPole-v1")


@pytest.mark.parametrize("env_id", ["SafetyPointRace1-v0", "SafetyCarRace0Vision-v0"])
def test_race_tasks_say_what_is_missing(env_id):
    with pytest.raises(FileNotFoundError, match=r"village_floor.PNG.*Circle"):
        safety_gym.make(env_id)
    with pytest.raises(FileNotFoundError, match=r"village_floor.PNG"):
        safety_gymnasium.make(env_id)


def test_the_documentation_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "safety_gym.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec("\n".join(blocks), {"__name__": "docs"})
    assert "cost_hazards" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [
    pytest.param(env_id, marks=needs_graphics if "Vision" in env_id else ())
    for env_id in safety_gym.env_ids() if not re.match(r"Safety(Point|Car|Doggo|Racecar|Ant)Race", env_id)
])  # fmt: skip
def test_every_id(env_id):
    env = safety_gym.make(env_id)
    env.reset(seed=0)
    for action in actions_for(env, 3):
        observation, reward, *_, info = env.step(action)
    assert env.observation_space.contains(observation) and type(reward) is float and info[COST] >= 0
    env.close()
