"""The push: panda-gym's trajectory, contacts, goals for HER, layouts, and the scripted controllers."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from env_ids import needs_bullet

import safe_envs
from safe_envs.manipulation.push_layout import LAYOUTS, PushLayout
from safe_wrappers.info import COST, SUCCESS, VIOLATION

pytestmark = needs_bullet
DATA = Path(__file__).parent / "data" / "panda_gym_push.npz"
PUSH, GOAL = "safe/PandaPush-v0", "safe/PandaPushGoal-v0"
AS_PANDA_GYM = {"obstacle": False, "observe": "angular_velocity", "layout": "panda-gym"}
STILL = np.zeros(3)
ON_TOP = np.array([0.0, 0.0, 0.039])


def make(env_id=PUSH, **kwargs):
    return gym.make(env_id, **kwargs).unwrapped


def play(env, policy, seed):
    observation, _ = env.reset(seed=seed)
    infos, reward = [], 0.0
    for _ in range(50):
        observation, reward, terminated, truncated, info = env.step(policy(observation))
        assert not (terminated or truncated)
        infos.append(info)
    return reward, infos


@pytest.fixture(params=["PushController", "DragController"])
def controller(request):
    return getattr(safe_envs, request.param)()


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_trajectory_is_that_of_panda_gym_in_every_episode(render_mode):
    recorded = np.load(DATA)
    env = make(GOAL, render_mode=render_mode, **AS_PANDA_GYM)
    for _ in range(2):
        observation, _ = env.reset(seed=0)
        assert np.array_equal(observation["observation"], recorded["reset_observation"])
        assert np.array_equal(observation["desired_goal"], recorded["desired_goal"])
        for i, action in enumerate(recorded["actions"]):
            observation, reward, *_ = env.step(action)
            assert np.array_equal(observation["observation"], recorded["observations"][i])
            assert reward == recorded["rewards"][i]
        play(env, safe_envs.PushController(), 5)  # panda-gym's own next episode would begin with this one's contacts


@pytest.mark.parametrize("observe", ["obstacle", "angular_velocity"])
def test_both_forms_observe_the_same_entries(observe):
    flat, goal = make(PUSH, observe=observe), make(GOAL, observe=observe)
    observation, entries = flat.reset(seed=3)[0], goal.reset(seed=3)[0]
    assert flat.observation_space.shape == (21,) and goal.observation_space["observation"].shape == (18,)
    for _ in range(3):
        assert np.array_equal(observation, np.concatenate([entries["observation"], entries["desired_goal"]]))
        assert np.array_equal(observation[6:9], entries["achieved_goal"])
        state = flat.state
        sixth = state.obstacle if observe == "obstacle" else state.cube_angular_velocity
        expected = np.concatenate([*state[:5], sixth, flat.start.goal])
        assert np.array_equal(observation, expected.astype(np.float32))
        observation, entries = flat.step([0.5, 0.2, -0.9])[0], goal.step([0.5, 0.2, -0.9])[0]


def push_cube(env, towards, speed=0.5):
    direction = (towards - env.state.cube) / np.linalg.norm(towards - env.state.cube)
    env.sim.resetBaseVelocity(env._scene._cube, (speed * direction).tolist())


def test_cube_that_slides_into_the_obstacle_costs_while_they_touch():
    env = make()
    env.reset(seed=0)
    costs, gaps = [], []
    for _ in range(25):
        push_cube(env, env.start.goal)
        *_, info = env.step(STILL)
        costs.append(info[COST])
        gaps.append(np.linalg.norm((env.state.obstacle - env.state.cube)[:2]))
        assert info["cost_contact"] == info[COST] and info[VIOLATION] == (info[COST] > 0)
    first = costs.index(1.0)
    # Two cubes of 0.04 m whose centres are further apart than a diagonal cannot touch.
    assert first > 0 and min(gaps[:first]) > 0.04 and costs[0] == 0.0
    assert np.linalg.norm((env.state.obstacle - env.start.obstacle)[:2]) > 0.02  # it is pushed along


@pytest.mark.parametrize("resting_contact", [True, False])
def test_a_cube_that_rests_against_the_obstacle_costs_or_does_not(resting_contact):
    env = make(resting_contact=resting_contact)
    env.reset(seed=0)
    env.sim.move(env._scene._cube, env.start.obstacle - np.array([0.0399, 0.0, 0.0]))
    env.step(STILL)  # they are pressed apart, and stay in contact
    assert [env.step(STILL)[4][COST] for _ in range(10)] == [float(resting_contact)] * 10
    assert env.sim.is_touching(env._scene._cube, env._scene._obstacle)
    push_cube(env, env.state.obstacle)
    assert env.step(STILL)[4][COST] == 1.0


def test_arm_that_touches_the_obstacle_costs_in_any_substep():
    env = make()
    env.reset(seed=1)
    over = env.start.obstacle
    infos = []
    for _ in range(40):
        way = over - env.state.gripper
        way[2] = -0.1 if np.linalg.norm(way[:2]) < 0.01 else 0.0  # down, once it is above
        infos.append(env.step(np.clip(way * 20, -1, 1))[4])
    assert infos[0][COST] == 0.0 and any(info[COST] == 1.0 for info in infos)
    assert np.allclose(env.state.cube, env.start.cube, atol=1e-3)


def test_success_needs_the_target_and_an_untouched_obstacle():
    env = make()
    for touch, expected in ((False, True), (True, False)):
        env.reset(seed=0)
        if touch:
            env.sim.move(env._scene._cube, env.start.obstacle + ON_TOP)
            assert env.step(STILL)[4][COST] == 1.0
        env.sim.move(env._scene._cube, env.start.goal)
        _, reward, terminated, _, info = env.step(STILL)
        assert (reward, terminated, info[SUCCESS], info[COST]) == (0.0, False, expected, 0.0)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(STILL)
    assert reward == -1.0 and info[SUCCESS] is False


def test_rewards_of_relabelled_goals_in_batches():
    env = make(GOAL)
    achieved = np.zeros((4, 3), np.float32)
    desired = np.array([[0, 0, 0], [0.049, 0, 0], [0.051, 0, 0], [0, 0.04, 0.04]], np.float32)
    assert env.compute_reward(achieved, desired, [{}] * 4).tolist() == [0.0, 0.0, -1.0, -1.0]
    observation, _ = env.reset(seed=0)
    observation, reward, *_ = env.step(STILL)
    assert reward == env.compute_reward(observation["achieved_goal"], observation["desired_goal"], {})


def test_her_learns_from_it():
    from stable_baselines3 import SAC, HerReplayBuffer

    model = SAC("MultiInputPolicy", GOAL, replay_buffer_class=HerReplayBuffer, learning_starts=50, batch_size=16)
    model.learn(55)
    assert model.num_timesteps == 55


def test_obstacle_stands_at_the_midpoint_or_beside_it():
    rng = np.random.default_rng(0)
    layout = LAYOUTS["reachable"]
    offsets = []
    for _ in range(300):
        start = layout.sample(rng, lateral_offset=0.0)
        assert np.array_equal(start.obstacle, (start.cube + start.goal) / 2)
        assert np.abs(start.cube[:2]).max() <= 0.12 and np.linalg.norm(start.goal - start.cube) >= 0.2
        start = layout.sample(rng, lateral_offset=0.03)
        aside = start.obstacle - (start.cube + start.goal) / 2
        assert abs(aside @ (start.goal - start.cube)) < 1e-12 and aside[2] == 0.0
        offsets.append(np.linalg.norm(aside))
    assert 0.028 < max(offsets) <= 0.03 and min(offsets) < 0.002


def test_without_obstacle_nothing_costs_and_nothing_tells_where_it_would_be():
    env, other = make(obstacle=False), make()
    observation, with_obstacle = env.reset(seed=4)[0], other.reset(seed=4)[0]
    assert np.array_equal(np.delete(observation, slice(15, 18)), np.delete(with_obstacle, slice(15, 18)))
    for _ in range(15):
        push_cube(env, env.start.goal)
        observation, *_, info = env.step(STILL)
        assert info[COST] == 0.0 and not observation[15:18].any()


def test_an_agent_that_learned_without_the_obstacle_sees_none():
    without, env = make(GOAL, obstacle=False), make()
    expected, observation = without.reset(seed=4)[0], env.reset(seed=4)[0]
    assert observation[15:18].any()
    found = safe_envs.as_goal_observation(observation[None], obstacle=False)
    assert all(np.array_equal(found[name][0], expected[name]) for name in expected)
    assert observation[15:18].any()  # it is not changed


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lateral_offset": -0.1}, "lateral_offset"),
        ({"lateral_offset": np.nan}, "lateral_offset"),
        ({"lateral_offset": 0.2}, "stays on the table"),
        ({"observe": "everything"}, "observe"),
        ({"layout": "moon"}, "reachable"),
        ({"layout": "panda-gym"}, "min_distance"),
    ],
)
def test_bad_arguments_raise(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@pytest.mark.parametrize(
    "change", [{"min_distance": 0.9}, {"min_distance": -1.0}, {"table_width": 0.2}, {"xy_range": 0.24}]
)
def test_bad_layouts_raise(change):
    arguments = {"xy_range": 0.15, "min_distance": 0.2, "table_width": 0.7, "table_friction": None}
    with pytest.raises(ValueError, match=next(iter(change))):
        PushLayout(**{**arguments, **change})


def test_controller_reaches_the_target_and_minds_no_obstacle(controller):
    free, obstructed = make(obstacle=False), make()
    assert sum(play(free, controller, seed)[0] == 0.0 for seed in range(8)) >= 7
    blocked = [play(obstructed, controller, seed)[1] for seed in range(4)]
    assert sum(any(info[COST] for info in infos) for infos in blocked) >= 2
    assert not any(infos[-1][SUCCESS] and any(info[COST] for info in infos) for infos in blocked)


def test_controller_stands_noise_and_a_bias_of_its_actions(controller):
    """What imitates it is never exact."""
    free, rng = make(obstacle=False), np.random.default_rng(0)
    arrived = 0
    for seed in range(6):
        bias = 0.1 * rng.normal(size=3)
        noisy = lambda observation, bias=bias: np.clip(controller(observation) + rng.normal(bias, 0.1), -1, 1)  # noqa: E731
        arrived += play(free, noisy, seed)[0] == 0.0
    assert arrived >= 5


def test_controller_never_jumps(controller):
    """On straight ways of the gripper around the cube, in steps of some 0.1 mm."""
    rng = np.random.default_rng(0)
    observation = make().reset(seed=0)[0]
    low, high = observation[6:9] + np.array([[-0.1, -0.1, -0.02], [0.1, 0.1, 0.1]])
    for _ in range(50):
        ways = np.repeat(observation[None], 3000, axis=0)
        ways[:, :3] = np.linspace(rng.uniform(low, high), rng.uniform(low, high), 3000)
        assert np.abs(np.diff(controller(ways), axis=0)).max() < 0.05


def test_controller_takes_batches_and_dicts(controller):
    env, goal_env = make(), make(GOAL)
    flat = np.stack([env.reset(seed=seed)[0] for seed in range(4)])
    singles = np.stack([controller(row) for row in flat])
    assert np.array_equal(controller(flat), singles) and singles.dtype == np.float32
    assert np.array_equal(controller(goal_env.reset(seed=2)[0]), singles[2])
    assert np.abs(singles).max() <= 1.0


def test_dragged_cube_follows_the_gripper_sideways_and_a_pushed_one_does_not():
    """Why the one can be led around an obstacle by small corrections, and the other cannot."""
    assert sideways(safe_envs.DragController()) > 3 * sideways(safe_envs.PushController())


def sideways(controller):
    """How far a correction of 0.5, at right angles to the way, leads the cube aside, in m; on average."""
    env, ways = make(obstacle=False), []
    for seed in range(4):
        observation, _ = env.reset(seed=seed)
        start = observation[6:8]
        along = observation[18:20] - start
        aside = np.array([-along[1], along[0]]) / np.linalg.norm(along)
        moved = []
        for _ in range(50):
            is_moving = np.linalg.norm(observation[6:8] - start) > 0.01
            correction = np.append(0.5 * aside, 0.0) if is_moving and len(moved) < 5 else np.zeros(3)
            if is_moving:
                moved.append((observation[6:8] - start) @ aside)
            observation = env.step(np.clip(controller(observation) + correction, -1, 1))[0]
        ways.append(moved[5] - moved[0])
    return np.mean(ways)


def test_picture_shows_cube_target_and_obstacle():
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    red, green, blue = np.moveaxis(env.render().astype(int), -1, 0)
    assert ((red > 100) & (green < 60) & (blue < 60)).sum() > 50
    assert ((green > 90) & (red < 60) & (blue < 90)).sum() > 50
    assert ((red > 120) & (green > 100) & (blue < 60)).sum() > 50
