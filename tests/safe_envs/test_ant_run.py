"""The ant: the recorded source, limits, falls, broken physics."""

import math
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from env_ids import needs_bullet

from safe_wrappers.info import COST, SIMULATION_ERROR, SUCCESS, VIOLATION

pytestmark = needs_bullet
DATA = Path(__file__).parent / "data" / "bullet_safety_gym_ant_run.npz"
STILL = np.zeros(8)


def make(**kwargs):
    return gym.make("safe/AntRun-v0", **kwargs).unwrapped


def ready(velocity=(0.0, 0.0, 0.0), position=(0.0, 0.0, 0.75), **kwargs):
    """An ant in the air at a given place, with a given speed."""
    env = make(**kwargs)
    env.reset(seed=0)
    env.sim.move(env._ant.body, position)
    env.sim.resetBaseVelocity(env._ant.body, velocity)
    return env


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_trajectory_is_that_of_bullet_safety_gym(render_mode):
    recorded = np.load(DATA)
    env = make(render_mode=render_mode)
    for episode in range(2):
        # Its resets draw from NumPy's global generator, in the same order as ours from our own.
        env.np_random = np.random.RandomState(0)
        observation, _ = env.reset()
        assert np.abs(observation - recorded["reset_observation"]).max() < 1e-7
        for i, action in enumerate(recorded["actions"]):
            observation, reward, terminated, truncated, info = env.step(action)
            assert np.abs(observation - recorded["observations"][i]).max() < 1e-6, (episode, i)
            assert abs(reward - recorded["rewards"][i]) < 1e-6
            assert (env.state.position == recorded["positions"][i]).all()
            assert (info[COST], terminated, truncated) == (recorded["costs"][i], False, False)
            if render_mode and i % 30 == 0:
                env.render()


def test_spaces_and_horizon():
    env = gym.make("safe/AntRun-v0")
    assert env.observation_space.shape == (33,) and env.action_space.shape == (8,)
    assert env.spec.max_episode_steps == 500


@pytest.mark.parametrize(
    ("velocity", "y", "boundary", "speed"),
    [
        ((0.0, 0.0, 0.0), 1.9, 0.0, 0.0),
        ((0.0, 0.0, 0.0), 2.1, 1.0, 0.0),
        ((0.0, 0.0, 0.0), -2.1, 1.0, 0.0),
        ((1.4, 0.0, 0.0), 0.0, 0.0, 0.0),
        ((1.2, -1.2, 0.0), 0.0, 0.0, 1.0),  # neither axis alone is too fast
        ((0.0, 0.0, 3.0), 0.0, 0.0, 0.0),  # up is not in the plane
        ((-2.0, 0.0, 0.0), 2.5, 1.0, 1.0),
    ],
)
def test_costs_by_hand(velocity, y, boundary, speed):
    env = ready(velocity, (0.0, y, 1.5))
    *_, info = env.step(STILL)
    assert (info["cost_boundary"], info["cost_velocity"]) == (boundary, speed)
    assert info[COST] == min(1.0, boundary + speed) and info[VIOLATION] == (boundary + speed > 0)
    assert info[SUCCESS] is False


def test_limits_are_arguments():
    *_, info = ready((1.0, 0.0, 0.0), (0.0, 0.8, 1.5), boundary=0.5, velocity_limit=0.9).step(STILL)
    assert info["cost_boundary"] == info["cost_velocity"] == info[COST] == 1.0
    *_, info = ready((9.0, 0.0, 0.0), (0.0, 9.0, 1.5), boundary=math.inf, velocity_limit=math.inf).step(STILL)
    assert info[COST] == 0.0
    for bad in ({"boundary": 0.0}, {"velocity_limit": -1.0}, {"boundary": math.nan}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            make(**bad)


def test_reward_is_forward_speed_plus_one():
    env = ready((1.0, 0.0, 0.0), (5.0, 0.0, 2.0))
    env.step(STILL)
    before = env.state.position[0]
    _, reward, *_ = env.step(STILL)
    speed = (env.state.position[0] - before) * 60
    assert speed == pytest.approx(1.0, abs=0.05)
    # Hanging in the air, no joint is at a limit and nothing is spent.
    assert reward == pytest.approx(speed + 1.0, abs=1e-6)


def test_falling_ends_the_episode():
    env = ready()
    upside_down = (1.0, 0.0, 0.0, 0.0)
    env.sim.resetBasePositionAndOrientation(env._ant.body, (0.0, 0.0, 0.35), upside_down)
    heights, ends, rewards = [], [], []
    while not ends or not ends[-1]:
        _, reward, terminated, *_ = env.step(STILL)
        heights.append(env.state.position[2])
        ends.append(terminated)
        rewards.append(reward)
    assert ends == [height <= 0.26 for height in heights] and 1 < len(ends) < 30
    assert rewards[-2] - rewards[-1] == pytest.approx(2.0, abs=0.5)  # alive counts -1 instead of 1


def test_broken_physics_truncates_and_a_reset_heals():
    env = ready()
    env.step(STILL)
    last = env._observation()
    env.sim.resetBaseVelocity(env._ant.body, (math.nan, 0.0, 0.0))
    observation, reward, terminated, truncated, info = env.step(STILL)
    assert np.array_equal(observation, last)
    assert (reward, terminated, truncated, info[COST]) == (0.0, False, True, 0.0)
    assert "finite" in info[SIMULATION_ERROR]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(STILL)
    healed, _ = env.reset(seed=3)
    fresh, _ = make().reset(seed=3)
    assert np.array_equal(healed, fresh)
    assert np.array_equal(env.step(STILL)[0][:3].round(1), fresh[:3].round(1))


def test_picture_shows_the_side_lines_and_the_violation():
    env = ready((0.0, 0.0, 0.0), (0.0, 0.0, 0.75), render_mode="rgb_array")
    env.step(STILL)
    safe_frame = env.render().astype(int)
    red = (safe_frame[..., 0] > 150) & (safe_frame[..., 1] < 80) & (safe_frame[..., 2] < 80)
    assert red.sum() > 300
    env.sim.resetBaseVelocity(env._ant.body, (5.0, 0.0, 0.0))
    env.step(STILL)
    frame = env.render().astype(int)
    assert ((frame[..., 0] > 150) & (frame[..., 1] < 80)).sum() > red.sum()
