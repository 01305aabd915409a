"""Actuators without power, and families of tasks."""

import gymnasium as gym
import numpy as np
import pytest
from wrapper_toys import Corridor

from safe_wrappers import ActuatorPower, TaskDistribution

DRAWN = TaskDistribution("Pendulum-v1", lambda rng: {"g": rng.uniform(5, 9)}, lambda rng: {"g": rng.uniform(10, 12)})
LISTED = TaskDistribution("Pendulum-v1", [{"g": 5.0}, {"g": 7.0}], {"g": 10.0}, common={"max_episode_steps": 9})


@pytest.mark.parametrize(("power", "moved"), [(1.0, 1.0), (0.25, 0.25), ([0.0], 0.0)])
def test_power_scales_what_the_environment_executes(power, moved):
    env = ActuatorPower(Corridor(), power)
    env.reset()
    assert env.step(np.ones(1, dtype=np.float32))[0] == moved
    assert env.action_space == Corridor().action_space


def test_a_larger_action_does_not_make_up_for_lost_power():
    env = ActuatorPower(Corridor(), 0.5)
    assert env.action(np.array([3.0], dtype=np.float32)) == 0.5


def test_actions_of_another_shape_raise():
    with pytest.raises(ValueError, match="expected an action of shape"):
        ActuatorPower(gym.make("Pendulum-v1"), 0.5).action(0.5)


@pytest.mark.parametrize("power", [-0.1, 1.1, np.nan, [1.0, 1.0]])
def test_bad_power_raises(power):
    with pytest.raises(ValueError, match=r"power must be in \[0, 1\]"):
        ActuatorPower(Corridor(), power)


def test_actions_without_a_zero_raise():
    with pytest.raises(ValueError, match="contains 0"):
        ActuatorPower(Corridor(discrete=True), 0.5)
    with pytest.raises(ValueError, match="contains 0"):
        ActuatorPower(gym.wrappers.RescaleAction(Corridor(), np.float32(1), np.float32(2)), 0.5)


def test_power_is_part_of_the_spec():
    env = ActuatorPower(gym.make("Pendulum-v1"), 0.5)
    assert gym.make(env.spec).power == 0.5


def test_drawn_tasks_depend_on_the_seed_and_not_on_their_number():
    assert DRAWN.training_tasks(5, seed=1)[:2] == DRAWN.training_tasks(2, seed=1)
    assert DRAWN.training_tasks(2, seed=1) != DRAWN.training_tasks(2, seed=2)
    assert DRAWN.test_task(seed=1) == DRAWN.test_task(seed=1) != DRAWN.test_task(seed=2)
    drawn = DRAWN.training_tasks(1, seed=1)[0]["g"]
    assert drawn != DRAWN.train(np.random.default_rng(1))["g"]  # a stream of its own
    assert DRAWN.test_task(0)["g"] >= 10.0 > max(task["g"] for task in DRAWN.training_tasks(20))


def test_listed_tasks_and_common_arguments():
    assert LISTED.training_tasks() == [{"max_episode_steps": 9, "g": 5.0}, {"max_episode_steps": 9, "g": 7.0}]
    assert LISTED.training_tasks(1) == LISTED.training_tasks()[:1]
    env = LISTED.make(LISTED.test_task(), max_episode_steps=3)
    assert env.unwrapped.g == 10.0 and env.spec.max_episode_steps == 3


@pytest.mark.parametrize(("tasks", "n"), [(DRAWN, None), (DRAWN, 0), (LISTED, 3), (LISTED, 0)])
def test_impossible_numbers_of_tasks_raise(tasks, n):
    with pytest.raises(ValueError, match="training tasks"):
        tasks.training_tasks(n)
