"""Offline constraint data: how much, of what, and that it survives storage."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

from safe_envs import collect_constraint_data, load_minari, to_minari
from safe_envs.data.collect import main
from safe_envs.data.scripted import COLLECTORS, ROLLOUT_LENGTH
from safe_envs.data.storage import episode_slices

every_collector = pytest.mark.parametrize("env_id", sorted(COLLECTORS))


def equal(a, b):
    names = ("observations", "actions", "next_observations", "costs", "violations", "terminals")
    return a.env_id == b.env_id and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def test_the_ids_that_gym_make_takes_are_taken():
    assert equal(*(collect_constraint_data(f"{module}safe/Navigation2-v0", 500) for module in ("", "safe_envs:")))


# Centres are those of the released procedure; four standard deviations either side.
@pytest.mark.parametrize(
    ("env_id", "n", "transitions", "violations"),
    [
        ("safe/Navigation1-v0", 10_000, 7_300, 450),
        ("safe/Navigation1-v0", 20_000, 14_500, 925),
        ("safe/Navigation2-v0", 10_000, 9_900, 795),
        ("safe/Navigation2-v0", 20_000, 19_900, 1_590),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_counts_are_those_of_the_released_procedure(env_id, n, transitions, violations, seed):
    data = collect_constraint_data(env_id, n, seed)
    assert abs(len(data) - transitions) < 0.04 * transitions
    assert abs(data.n_violations - violations) < 4 * np.sqrt(violations)


@every_collector
def test_rows_are_rollouts_stopped_at_their_first_violation(env_id):
    data = collect_constraint_data(env_id, 2_000)
    assert data.env_id == env_id and data.n_violations > 0
    assert np.array_equal(data.costs, data.violations) and np.array_equal(data.terminals, data.violations)
    assert np.abs(data.actions).max() <= 1.0
    data.check_spaces(gym.make(env_id).observation_space, gym.make(env_id).action_space)
    for rows in episode_slices(data):
        rollout = data.rows(rows)
        assert len(rollout) <= ROLLOUT_LENGTH
        assert not rollout.violations[:-1].any()
        assert len(rollout) == ROLLOUT_LENGTH or rollout.violations[-1]


@pytest.mark.parametrize("env_id", ["safe/Navigation1-v0", "safe/Navigation2-v0"])
def test_labels_are_those_of_the_next_state(env_id):
    data = collect_constraint_data(env_id, 3_000)
    scene = gym.make(env_id).unwrapped.scene
    assert (scene.inside_obstacle(data.next_observations) == data.violations).mean() > 0.999  # float32 rounding


@every_collector
def test_same_seed_same_data(env_id):
    first = collect_constraint_data(env_id, 300, seed=3)
    assert equal(first, collect_constraint_data(env_id, 300, seed=3))
    assert not equal(first, collect_constraint_data(env_id, 300, seed=4))


def test_arguments_reach_the_environment():
    still = collect_constraint_data("safe/Navigation1-v0", 100, B=np.zeros((2, 2)), noise_std=0.0)
    assert np.array_equal(still.observations, still.next_observations) and len(still) == 100
    assert collect_constraint_data("safe/DrunkSpider-v0", 2_000, layout="long").observations[:, 0].max() > 8.0


def test_bad_requests_raise():
    with pytest.raises(ValueError, match="safe/Navigation1-v0"):
        collect_constraint_data("CartPole-v1")
    with pytest.raises(ValueError, match="n_transitions"):
        collect_constraint_data("safe/Navigation1-v0", 0)
    with pytest.raises(ValueError, match="stop at their first violation: collect_rollouts"):
        collect_constraint_data("safe/Navigation1-v0", 100, terminate_on_violation=False)


@every_collector
def test_minari_keeps_every_row(env_id, tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = collect_constraint_data(env_id, 200)
    assert data.n_violations > 0
    to_minari(data, "safe/tests/constraint-v0")
    assert equal(load_minari("safe/tests/constraint-v0"), data)
    with pytest.raises(ValueError):
        to_minari(data, "safe/tests/constraint-v0")


def test_minari_recovers_the_environment_that_the_data_are_of(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    task = {"B": [[0.5, 0.0], [0.0, 1.5]]}
    data = collect_constraint_data("safe/Navigation2-v0", 200, **task)
    to_minari(data, "safe/tests/drawn-v0", algorithm="chance", env_kwargs=task)
    stored = minari.load_dataset("safe/tests/drawn-v0")
    assert stored.recover_environment().spec.kwargs["B"] == task["B"]
    assert stored.storage.metadata["algorithm_name"] == "chance"
    assert "B" not in gym.spec("safe/Navigation2-v0").kwargs


def test_minari_without_env_id(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = collect_constraint_data("safe/Navigation2-v0", 200).with_env_id(None)
    to_minari(data, "safe/tests/anonymous-v0")
    assert equal(load_minari("safe/tests/anonymous-v0"), data)
    with pytest.raises(ValueError, match="no transitions"):
        to_minari(data.rows(slice(0, 0)), "safe/tests/empty-v0")


def test_missing_minari_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(DependencyNotInstalled, match="pip install"):
        load_minari("safe/tests/constraint-v0")


def test_command_prints_the_counts(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    main(["safe/Navigation2-v0", "--transitions", "300", "--minari", "safe/tests/command-v0"])
    data = load_minari("safe/tests/command-v0")
    assert f"{len(data)} transitions, {data.n_violations} violations" in capsys.readouterr().out


def test_command_runs_as_a_module_without_warnings():
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "safe_envs.data.collect",
        "safe/Navigation1-v0",
        "--transitions",
        "50",
    ]
    assert "violations" in subprocess.check_output(command, text=True, stderr=subprocess.STDOUT)
