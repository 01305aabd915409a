"""Navigation's numbers, worked out by hand from the released code's definition."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_envs.core.geometry import Rectangle, Scene
from safe_envs.navigation.navigation import NavigationTask

STILL = np.zeros(2)


def make(env_id="safe/Navigation1-v0", state=(0.0, 0.0), **kwargs):
    env = gym.make(env_id, **{"noise_std": 0.0, **kwargs}).unwrapped
    env.reset(seed=0, options={"state": state})
    return env


def test_reward_is_minus_the_distance_before_the_step():
    _, reward, terminated, _, info = make(state=(-3.0, 4.0)).step(np.array([1.0, 0.0]))
    assert (reward, terminated, info["is_success"]) == (-5.0, False, False)


def test_success_lags_one_step_behind_arriving():
    env = make(state=(-4.5, 0.0))
    observation, reward, terminated, _, info = env.step(np.array([1.0, 0.0]))
    assert (observation.tolist(), reward, terminated, info["is_success"]) == ([-3.5, 0.0], -4.5, False, False)
    _, reward, terminated, _, info = env.step(STILL)
    assert (reward, terminated, info["is_success"]) == (-3.5, True, True)


def test_the_success_radius_is_open_and_an_argument():
    assert not make(state=(-4.0, 0.0)).step(STILL)[4]["is_success"]
    assert make(state=(-4.0, 0.0), success_radius=4.5).step(STILL)[4]["is_success"]
    assert make(success_radius=4.5).scene.goal_radius == 4.5


@pytest.mark.parametrize(("y", "harm"), [(5.0, True), (4.999, False), (-5.0, True), (10.0, True), (10.001, False)])
def test_obstacles_are_closed(y, harm):
    assert make(state=(-50.0, y)).step(STILL)[4]["constraint_violation"] is harm


def test_violation_is_that_of_the_next_state_and_ends_the_episode():
    observation, _, terminated, _, info = make(state=(-50.0, 4.5)).step(np.array([0.0, 0.5]))
    assert observation.tolist() == [-50.0, 5.0]
    assert terminated and info["cost"] == info["cost_obstacle"] == 1.0 and info["constraint_violation"] is True
    assert make(state=(-50.0, 4.5), terminate_on_violation=False).step(np.array([0.0, 0.5]))[2] is False


def test_a_state_in_an_obstacle_is_frozen_and_keeps_costing():
    env = make(state=(-50.0, 6.0), noise_std=0.5, terminate_on_violation=False)
    for _ in range(3):
        observation, reward, terminated, _, info = env.step(np.array([0.0, -1.0]))
        assert observation.tolist() == [-50.0, 6.0] and info["cost"] == 1.0 and not terminated
        assert reward == -np.hypot(50.0, 6.0)


def test_navigation2_has_one_block_and_no_boundary():
    make2 = lambda state: make("safe/Navigation2-v0", state=state).step(STILL)[4]["constraint_violation"]  # noqa: E731
    assert make2((-30.0, 7.5)) and make2((-25.0, 0.0)) and not make2((-25.0, 7.51)) and not make2((-19.99, 0.0))
    assert not make2((1000.0, -1000.0))


def test_a_and_b_are_the_papers_matrices():
    env = make(state=(-2.0, 1.0), A=[[1.0, 0.5], [0.0, 1.0]], B=[[0.5, 0.0], [0.25, 1.5]])
    # A s = (-1.5, 1), B a = (0.5, 0.25 - 0.75)
    assert env.step(np.array([1.0, -0.5]))[0].tolist() == [-1.0, 0.5]


def test_start_and_noise_have_the_stated_moments():
    task, rng = NavigationTask("navigation2"), np.random.default_rng(0)
    states = task.initial_states(rng, 40_000)
    steps = task.simulate(rng, states, np.full((40_000, 2), 0.5))[:, :2] - states[:, :2] - 0.5
    np.testing.assert_allclose(states[:, :2].mean(0), [-50.0, 0.0], atol=0.02)
    np.testing.assert_allclose(states[:, :2].std(0), 1.0, atol=0.02)
    np.testing.assert_allclose(steps.mean(0), 0.0, atol=0.001)
    np.testing.assert_allclose(steps.std(0), 0.05, atol=0.001)


def test_a_straight_run_takes_48_steps():
    # Pre-step distances 50, 49, ..., 4 are no success; the first one below 4 is 3, at the 48th step.
    env = gym.make("safe/Navigation1-v0", noise_std=0.0, start_std=0.0)
    env.reset(seed=0)
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, _, info = env.step(np.array([1.0, 0.0]))
        rewards.append(reward)
    assert info["is_success"] and len(rewards) == 48 and sum(rewards) == -sum(range(3, 51))


def test_state_keeps_more_digits_than_the_observation():
    env = make(state=(0.1, 0.2))
    assert env.state[0] == 0.1 and env.step(STILL)[0].dtype == np.float32


def test_scenes_and_obstacles_of_ones_own():
    scene = Scene(Rectangle(-60, 10, -10, 10), (), (-50, 0), (0, 0), 1.0)
    assert not make(scene=scene, state=(0.0, 6.0)).step(STILL)[4]["constraint_violation"]
    for success_radius, distance in ((None, 1.0), (2.0, 2.0)):  # the scene's own, unless another is given
        env = make(scene=scene, success_radius=success_radius)
        for x, success in ((distance - 0.1, True), (distance + 0.1, False)):
            env.reset(options={"state": [x, 0.0]})
            assert env.step(STILL)[4]["is_success"] is success
    env = make(obstacles=[Rectangle(1, 2, 1, 2)], state=(1.5, 1.5))
    assert env.step(STILL)[4]["constraint_violation"] and env.scene.obstacles == (Rectangle(1, 2, 1, 2),)


@pytest.mark.parametrize(
    "bad",
    [{"scene": "navigation3"}, {"scene": 3}, {"obstacles": [(0, 1, 0, 1)]},
     {"A": [1.0, 2.0]}, {"B": [[np.nan, 0], [0, 1]]}, {"noise_std": -1.0},
     {"start_std": np.inf}, {"success_radius": 0.0}, {"success_radius": -1.0}, {"success_radius": np.nan}],
)  # fmt: skip
def test_bad_arguments_raise(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        NavigationTask(**bad)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_rows_of_a_batch_do_not_mix(seed, n):
    rng = np.random.default_rng(seed)
    task = NavigationTask(noise_std=0.0, A=rng.normal(size=(2, 2)), B=rng.normal(size=(2, 2)))
    states, actions = task.states_at(rng.normal(0, 6, (n, 2))), rng.uniform(-1, 1, (n, 2))
    together = task.simulate(rng, states, actions)
    apart = [task.simulate(rng, states[i : i + 1], actions[i : i + 1]) for i in range(n)]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-12)
    violations = task.total_costs(task.cost_terms(together)) > 0
    assert np.array_equal(violations, task.scene.inside_obstacle(together[:, :2]))
    rewards, terminations, successes = task.outcomes(states, together, violations)
    assert (rewards <= 0).all() and np.array_equal(terminations, successes | violations)
