"""DrunkSpider's numbers, worked out by hand."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_envs.core.geometry import Rectangle
from safe_envs.navigation.drunk_spider import DrunkSpiderTask
from safe_envs.navigation.layouts import SPIDER_FINE_TUNE_GOAL, SPIDER_MAPS, GridMap

DIAGONAL = np.hypot(8, 7)


def make(state=None, **kwargs):
    env = gym.make("safe/DrunkSpider-v0", **{"action_noise": 0.0, **kwargs}).unwrapped
    env.reset(seed=0, options={} if state is None else {"state": state})
    return env


def test_short_map_has_two_pits_beside_a_bridge_one_wide():
    assert SPIDER_MAPS["short"].pits == (Rectangle(2, 6, 2, 3), Rectangle(2, 6, 4, 5))
    assert SPIDER_MAPS["short"].extent == Rectangle(0, 8, 0, 7)
    assert SPIDER_MAPS["long"].pits == (Rectangle(2, 8, 2, 3), Rectangle(2, 8, 4, 5))
    assert SPIDER_MAPS["long"].extent == Rectangle(0, 10, 0, 7)


def test_start_goal_and_plain_step():
    env = make()
    assert env.state[:2].tolist() == [0.5, 3.5] and env.scene.goal == (7.5, 3.5)
    observation, reward, terminated, _, info = env.step(np.array([1.0, -0.5]))
    assert observation.tolist() == [1.5, 3.0] and not terminated and info["cost"] == 0.0
    assert reward == pytest.approx(-np.hypot(6.0, 0.5) / DIAGONAL)


def test_the_bridge_can_be_crossed_and_success_pays_30():
    env = make()
    steps = [env.step(np.array([1.0, 0.0])) for _ in range(7)]
    # Distances 6, 5, 4, 3, 2, 1: a distance of exactly 1 is not yet a success.
    assert [step[2] for step in steps] == [False] * 6 + [True]
    assert steps[6][1] == 30.0 and steps[6][4]["is_success"] and not steps[6][4]["constraint_violation"]


@pytest.mark.parametrize(
    ("state", "action", "fallen_at"),
    [
        ((3.5, 3.55), (0.0, 1.0), (3.5, 4.05)),  # into the pit, after five substeps
        ((0.5, 0.55), (0.0, -1.0), (0.5, -0.05)),  # out of the map
        ((7.5, 0.55), (1.0, 0.0), (8.0, 0.55)),
        ((1.95, 4.5), (1.0, -1.0), (2.05, 4.5)),  # x moves first within a substep
    ],
)
def test_falls_end_where_they_begin(state, action, fallen_at):
    env = make(state=state)
    observation, reward, terminated, _, info = env.step(np.array(action))
    np.testing.assert_allclose(observation, fallen_at, rtol=1e-6)
    assert terminated and reward == 0.0 and info["constraint_violation"] and info["cost_fall"] == 1.0
    assert not info["is_success"]
    again, *_ = env.step(-np.array(action))
    assert np.array_equal(again, observation)


def test_a_step_cannot_jump_over_a_pit_corner():
    # The straight line from (1.9, 1.9) to (2.9, 2.9) enters the pit [2, 6) x [2, 3).
    assert make(state=(1.9, 1.9)).step(np.array([1.0, 1.0]))[4]["constraint_violation"]


def test_noise_is_uniform_of_the_stated_total_width_and_clipped():
    task, rng = DrunkSpiderTask(action_noise=0.2), np.random.default_rng(0)
    states = task.states_at(np.full((20_000, 2), 0.5))
    moves = task.simulate(rng, states, np.full((20_000, 2), 0.3))[:, :2] - 0.5
    assert 0.2 <= moves.min() < 0.202 and 0.398 < moves.max() <= 0.4
    assert moves.mean() == pytest.approx(0.3, abs=0.002)
    moves = task.simulate(rng, states, np.ones((20_000, 2)))[:, :2] - 0.5
    assert moves.max() == pytest.approx(1.0) and moves.min() >= 0.9
    assert 0.45 < (moves > 1.0 - 1e-9).mean() < 0.55


def test_released_rewards_add_the_time_limit_wrapper():
    env = make(state=(5.6, 3.5), reward="released")
    assert env.step(np.array([1.0, 0.0]))[1] == 30.0 + 29.0  # success with 29 steps remaining
    env = make(state=(0.5, 0.5), reward="released")
    env.step(np.zeros(2))
    assert env.step(np.array([-1.0, 0.0]))[1] == -(28.0 + 1.0)
    env = make(reward="released", horizon=2)
    plain = -7.0 / DIAGONAL
    assert [env.step(np.zeros(2))[1] for _ in range(2)] == pytest.approx([plain, plain - 30.0])


def test_fine_tune_goal_and_long_layout():
    env = make(goal=SPIDER_FINE_TUNE_GOAL)
    assert env.step(np.zeros(2))[1] == pytest.approx(-6.0 / DIAGONAL)
    env = make(layout="long")
    assert env.step(np.zeros(2))[1] == pytest.approx(-9.0 / np.hypot(10, 7))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"layout": "wide"}, "layout"), ({"action_noise": -0.1}, "action_noise"), ({"reward": "sparse"}, "reward"),
        ({"horizon": 0}, "horizon"), ({"horizon": 2.5}, "integer >= 1, got 2.5"), ({"layout": 1}, "a GridMap or"),
        ({"goal": (1.0,)}, "goal"), ({"goal": (2.5, 2.5)}, "goal"), ({"start": (-1.0, 0.0)}, "start"),
    ],
)  # fmt: skip
def test_bad_arguments_raise(bad, message):
    with pytest.raises(ValueError, match=message):
        DrunkSpiderTask(**bad)


@pytest.mark.parametrize("rows", [(), ("..", "..."), ("..", ".x")])
def test_bad_maps_raise(rows):
    with pytest.raises(ValueError, match="a map must be"):
        GridMap(rows, (0.5, 0.5), (0.5, 0.5))


def test_starting_on_lava_raises():
    with pytest.raises(ValueError, match="floor"):
        make(state=(3.0, 2.5))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_vectorised_way_equals_a_plain_loop(seed):
    task, rng = DrunkSpiderTask(action_noise=0.0), np.random.default_rng(seed)
    positions = rng.uniform(0, [8, 7], (20, 2))
    positions = positions[[task.map.is_floor(tuple(p)) for p in positions]]
    actions = rng.uniform(-1, 1, positions.shape)
    states = task.simulate(rng, task.states_at(positions), actions)
    for position, action, state in zip(positions, actions, states, strict=True):
        end, fallen = walk(task.map, position, action)
        np.testing.assert_allclose(state[:2], end, atol=1e-12)
        assert state[2] == fallen
        assert task.observation_space.contains(state[:2].astype(np.float32))


def walk(grid, position, action):
    here = position.copy()
    for _ in range(10):
        for axis in range(2):
            here[axis] += 0.1 * action[axis]
            if not grid.is_floor(tuple(here)):
                return here, True
    return here, False
