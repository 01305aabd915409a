"""Episode sums: by hand, as a property, and through SB3's own monitors."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wrapper_toys import Corridor, Scripted, forward, play

from safe_wrappers import CostMonitor, EpisodeCosts, MissingCostError, TerminateOnViolation
from safe_wrappers import info as keys


def test_summary_of_a_hand_computed_episode():
    infos = [{"cost": 0.5}, {"cost": 0.0, "intervened": True}, {"cost": 2.0, "constraint_violation": False}]
    steps = play(CostMonitor(Scripted(infos)), [0, 0, 0])
    assert [keys.EPISODE_COST in step[-1] for step in steps] == [False, False, True]
    # The third step costs, but its flag says that it is no violation: the flag counts.
    assert steps[-1][-1][keys.EPISODE_COST] == {"cost": 2.5, "violations": 1, "interventions": 1, "length": 3}


def test_truncation_ends_an_episode_and_reset_starts_from_zero():
    env = CostMonitor(gym.wrappers.TimeLimit(Corridor(), 8))
    play(env, forward(7))  # abandoned: x = 6 and 7 have cost 1 each
    for _ in range(2):
        summary = play(env, forward(8))[-1][-1][keys.EPISODE_COST]
        assert summary == {"cost": 3.0, "violations": 3, "interventions": 0, "length": 8}


def test_missing_cost():
    with pytest.raises(MissingCostError, match="CostFromFunction"):
        play(CostMonitor(Corridor(with_cost=False)), forward(1))
    env = CostMonitor(gym.wrappers.TimeLimit(Corridor(with_cost=False), 2), missing_cost="zero")
    assert play(env, forward(2))[-1][-1][keys.EPISODE_COST]["cost"] == 0.0
    with pytest.raises(ValueError, match="'raise' or 'zero', got 'ignore'"):
        CostMonitor(Corridor(), missing_cost="ignore")


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf"), "high", None])
def test_bad_costs_raise(cost):
    with pytest.raises(ValueError, match="cost"):
        play(CostMonitor(Scripted([{"cost": cost}])), [0])


def test_a_failing_step_is_not_half_counted():
    costs = EpisodeCosts(2)
    with pytest.raises(MissingCostError):
        costs.add([{"cost": 1.0}, {}], [False, False])
    assert costs.add([{"cost": 1.0}, {"cost": 0.0}], [True, False])[0]["cost"] == 1.0


@pytest.mark.parametrize("infos, dones", [([{"cost": 0.0}], [True, False]), ([{"cost": 0.0}] * 2, [True])])
def test_wrong_number_of_rows(infos, dones):
    with pytest.raises(ValueError, match="expected 2 infos and dones"):
        EpisodeCosts(2).add(infos, dones)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40), st.integers(1, 3))
def test_finished_episodes_and_the_rest_add_up_to_all_costs(steps, n_envs):
    costs, episodes, rest = EpisodeCosts(n_envs), [], 0.0
    for cost, done in steps:
        finished = costs.add([{"cost": cost}] * n_envs, np.array([done] * n_envs))
        assert len(finished) == (n_envs if done else 0)
        rest = 0.0 if done else rest + cost
        episodes += finished
    assert sum(e["cost"] for e in episodes) + n_envs * rest == n_envs * sum(cost for cost, _ in steps)


def limited_corridor():
    return gym.wrappers.TimeLimit(Corridor(), 8)


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`:UserWarning")
@pytest.mark.parametrize("monitored", [False, True])
def test_survives_sb3_vector_environments_and_their_monitors(monitored):
    env_util = pytest.importorskip("stable_baselines3.common.env_util")
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    env = env_util.make_vec_env(limited_corridor, n_envs=2, wrapper_class=CostMonitor)
    env = vec_env.VecMonitor(env) if monitored else env
    env.reset()
    total, summaries = 0.0, []
    for _ in range(24):
        _, _, dones, infos = env.step(np.ones((2, 1), np.float32))
        total += sum(info[keys.COST] for info in infos)
        assert [keys.EPISODE_COST in info for info in infos] == dones.tolist()
        summaries += [info[keys.EPISODE_COST] for info in infos if keys.EPISODE_COST in info]
        assert all("episode" in info for info, done in zip(infos, dones, strict=True) if done)
    assert len(summaries) == 6 and {s["cost"] for s in summaries} == {3.0} and total == 18.0


def test_inside_sb3_monitor_and_with_early_termination():
    monitor = pytest.importorskip("stable_baselines3.common.monitor")
    env = monitor.Monitor(CostMonitor(TerminateOnViolation(Corridor())))
    *_, info = play(env, forward(6))[-1]
    assert info["episode"]["l"] == 6
    assert info[keys.EPISODE_COST] == {"cost": 1.0, "violations": 1, "interventions": 0, "length": 6}
