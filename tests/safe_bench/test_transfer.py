"""Runs that learn from other environments first: their data, their phases, and what the result files say of them."""

import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

import safe_envs
from safe_bench import cli, report, transfer
from safe_bench.pool import Outcome
from safe_bench.protocols import PROTOCOLS, Budget, Stage, Transfer
from safe_bench.recordings import TEST, recordings, silent
from safe_bench.runner import Job
from safe_bench.runs import RunError
from safe_bench.transfer import at_seed, learn_transfer
from sb3_ext import MultiTask

NAVIGATION, CART_POLE, SIZES = "mesa/navigation1", "mesa/cartpole-length", "mesa/test-size"
SCRIPTED = Transfer("navigation1", 2, 300, iterations=3, adaptation_updates=3, batch_size=32)
REPLAY = Transfer("cartpole-length", 2, 1_100, iterations=3, adaptation_updates=3, batch_size=32, source="replay")


def budget(transfer, env_id="safe/Navigation1-v0", test=140):
    return Budget((Stage("train", env_id, episodes=3),), test, 5, 2, (0,), transfer=transfer)


@pytest.fixture
def tiny(monkeypatch):
    for name, small in ((NAVIGATION, budget(SCRIPTED)), (CART_POLE, budget(REPLAY, "safe/CartPoleLength-v0", 1_050))):
        monkeypatch.setitem(PROTOCOLS[name].presets, "tiny", small)


def job(out, method, protocol=NAVIGATION, seed=0):
    return Job(protocol, "tiny", method, seed, str(out))


def written(job, name):
    return json.loads((job.folder.path / name).read_text())


def test_a_seed_draws_the_test_environment_of_all_its_stages():
    tasks = safe_envs.TASKS["navigation1"]
    for seed in (0, 1):
        (stage,) = at_seed(budget(SCRIPTED), seed).stages
        assert stage.env_kwargs == tasks.test_task(seed)
    assert tasks.test_task(0) != tasks.test_task(1)
    plain = budget(None)
    assert at_seed(plain, 3) is plain and recordings(plain, 3, "runs") == {}


@pytest.mark.parametrize("method", ["mesa", "multi-task", "recovery-rl", "unconstrained"])
def test_methods_learn_from_the_data_that_they_may_see(method, tiny, tmp_path):
    run = job(tmp_path, method)
    run.execute()
    assert run.folder.finished
    if method == "unconstrained":
        assert not (run.folder.path / "offline_data.json").exists()
        assert "Safety critics" not in (report.write_report(tmp_path, NAVIGATION) / "report.md").read_text()
        return
    data = written(run, "offline_data.json")
    sources = recordings(budget(SCRIPTED), 0, tmp_path)
    assert data["transitions"] == len(sources[TEST].load()) and data["violations"] > 0
    assert set(data["critic"]) == {"auc", "alarms", "false_alarms"} and 0.0 <= data["critic"]["auc"] <= 1.0
    text = (report.write_report(tmp_path, NAVIGATION) / "report.md").read_text()
    assert "Safety critics before learning" in text and "Alarms, violating" in text
    if method == "recovery-rl":
        assert "training" not in data
    else:
        sizes = [(each["transitions"], each["violations"]) for each in data["training"]]
        loaded = [source.load() for name, source in sources.items() if name != TEST]
        assert sizes == [(len(each), each.n_violations) for each in loaded] and len(sizes) == 2


def test_data_of_a_seed_are_its_own_and_come_again():
    first, again, other = (recordings(budget(SCRIPTED), seed, "runs") for seed in (0, 0, 1))
    for name in (TEST, "train-0", "train-1"):
        assert np.array_equal(first[name].load().actions, again[name].load().actions)
        assert not np.array_equal(first[name].load().actions[:50], other[name].load().actions[:50])


def test_part_of_the_adaptation_data(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS[SIZES].presets, "tiny", budget(SCRIPTED, test=280))
    run = job(tmp_path, "mesa-2", SIZES)
    run.execute()
    whole = len(recordings(budget(SCRIPTED, test=280), 0, tmp_path)[TEST].load())
    assert written(run, "offline_data.json")["transitions"] == round(whole / 2)


def test_a_smaller_adaptation_set_is_the_first_part_and_harmless_training_data_are_left_out(monkeypatch):
    monkeypatch.setattr(transfer, "judge_critic", lambda model, recording: {})
    data = safe_envs.collect_constraint_data("safe/Navigation1-v0", 300, seed=0)
    safe = data.rows(~data.violations)
    sources = {TEST: data, "train-0": safe, "train-1": data}
    seen = []

    class Recorder(MultiTask):
        def meta_train(self, datasets, *args, **kwargs):
            seen.append(list(datasets))
            return self

        def adapt(self, dataset, *args, **kwargs):
            seen.append(dataset.observations)
            return self

    model = Recorder("MlpPolicy", "safe/Navigation1-v0")
    half = replace(PROTOCOLS[NAVIGATION].method("multi-task"), adaptation_share=0.5)
    loaded = {name: SimpleNamespace(load=lambda each=each: each) for name, each in sources.items()}
    counted = learn_transfer(model, half, budget(SCRIPTED), loaded, silent)
    assert [each["violations"] for each in counted["training"]] == [0, data.n_violations]
    learned_from, adapted_to = seen
    assert learned_from == [data]
    assert np.array_equal(adapted_to, data.observations[: round(len(data) / 2)])
    with pytest.raises(RunError, match="none of the 1 training environments' data shows a violation"):
        learn_transfer(model, half, budget(SCRIPTED), {TEST: loaded[TEST], "train-0": loaded["train-0"]}, silent)


@pytest.mark.parametrize(
    ("risk", "expected"),
    [
        (lambda violated: violated, (1.0, 1.0, 0.0)),
        (lambda violated: 1.0 - violated, (0.0, 0.0, 1.0)),
        (lambda violated: 0.0 * violated, (0.5, 0.0, 0.0)),
    ],
)
def test_a_critic_is_judged_on_transitions_that_nobody_has_seen(risk, expected):
    own = recordings(budget(SCRIPTED), 0, "runs")[TEST]
    asked = []

    class Oracle:
        limit = 0.3

        def risk(self, observations, actions):
            asked.append(observations)
            held_out = replace(own, n_transitions=transfer.HELD_OUT, seed=own.seed + transfer.HELD_OUT_SEEDS).load()
            assert np.array_equal(held_out.observations, observations)
            return risk(held_out.violations.astype(np.float32))

    found = transfer.judge_critic(Oracle(), own)
    assert (found["auc"], found["alarms"], found["false_alarms"]) == expected
    seen = {row.tobytes() for row in own.load().observations}
    assert not seen & {row.tobytes() for row in asked[0]}


def test_a_critic_without_any_violation_to_judge_by_has_no_figures():
    few = replace(recordings(budget(REPLAY), 0, "runs")[TEST], transfer=replace(REPLAY, episode_length=3))
    model = SimpleNamespace(limit=0.3, risk=lambda observations, actions: np.zeros(len(observations)))
    assert set(transfer.judge_critic(model, few).values()) == {None}


# ---------------------------------------------------------------------- replays


def test_replays_belong_to_an_environment_and_serve_all_seeds(tmp_path):
    disabled = Transfer("halfcheetah-disabled", 4, 50, 1, 1, 32, source="replay")
    first, second = (recordings(budget(disabled), seed, tmp_path) for seed in (0, 1))
    training = [name for name in first if name != TEST]
    assert [first[name] for name in training] == [second[name] for name in training]
    assert first["train-0"].file.name.startswith("disabled=1-50-ent_coef=0.2,")  # how it was recorded is in the name
    partial = Transfer("halfcheetah-partial", 4, 50, 1, 1, 32, source="replay")
    assert recordings(budget(partial), 0, tmp_path)["train-0"].file == first["train-0"].file  # the same environments


def test_adaptation_sets_are_recorded_anew_for_each_seed_by_random_networks(tmp_path):
    disabled = Transfer("halfcheetah-disabled", 4, 50, 1, 1, 32, source="replay")
    first, again, other = (recordings(budget(disabled), seed, tmp_path)[TEST] for seed in (0, 0, 1))
    assert not first.missing and len(first.load()) == 140
    assert np.array_equal(first.load().actions, again.load().actions)
    assert not np.array_equal(first.load().actions, other.load().actions)


def test_a_replay_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr("safe_bench.recordings.CHECKPOINT_EVERY", 500)

    class Stop(Exception):
        pass

    def stop(what, done, total):
        if done >= 500:
            raise Stop

    whole, parts = (recordings(budget(REPLAY), 0, tmp_path / name)["train-0"] for name in ("whole", "parts"))
    whole.execute()
    with pytest.raises(Stop):
        parts.execute(stop)
    assert parts.missing
    parts.execute()
    assert not parts.missing
    assert {path.name for path in parts.file.parent.iterdir()} == {
        parts.file.name,
        parts.file.with_suffix(".lock").name,
    }
    first, second = whole.load(), parts.load()
    assert len(first) == 1_100 and first.n_violations > 0
    assert np.array_equal(first.observations, second.observations) and np.array_equal(first.actions, second.actions)


def test_two_protocols_that_need_the_same_replay_record_it_once(tmp_path, monkeypatch):
    monkeypatch.setattr("safe_bench.recordings.CHECKPOINT_EVERY", 500)
    replay, other = (recordings(budget(REPLAY), 0, tmp_path)["train-0"] for _ in range(2))
    waiting = threading.Thread(target=other.execute, daemon=True)
    recorded_by = []

    def begin_the_other(what, done, total):
        recorded_by.append(what)
        if not done:
            waiting.start()
            waiting.join(0.3)
            assert waiting.is_alive()

    replay.execute(begin_the_other)
    written = replay.file.stat().st_mtime_ns
    waiting.join(30)
    assert not waiting.is_alive() and replay.file.stat().st_mtime_ns == written
    assert len(recorded_by) == 3  # 500, 500 and 100 transitions


def test_one_command_records_and_runs(tiny, tmp_path, capsys, monkeypatch):
    executed = []

    def in_this_process(jobs, n_processes, console):  # others would not know the preset
        for each in jobs:
            each.execute()
            executed.append(each.label)
        return [Outcome(each, None) for each in jobs]

    monkeypatch.setattr("safe_bench.pool.run_jobs", in_this_process)
    arguments = ["run", CART_POLE, "--preset", "tiny", "--methods", "mesa", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert [label.split("=")[0] for label in executed] == ["data length"] * 2 + ["mesa seed 0"]
    assert cli.main(arguments) == 0 and "0 of 1 runs to do" in capsys.readouterr().out


def test_a_run_without_its_replays_or_with_damaged_ones_says_so(tiny, tmp_path):
    with pytest.raises(RunError, match=r"npz, which `safe-bench run` records first, is missing"):
        job(tmp_path, "mesa", CART_POLE).execute()
    first = recordings(PROTOCOLS[CART_POLE].budget("tiny"), 0, tmp_path)["train-0"]
    first.file.parent.mkdir(parents=True)
    first.file.write_bytes(b"PK nothing")
    with pytest.raises(RunError, match=r"is damaged.*remove the file to record it again"):
        job(tmp_path, "mesa", CART_POLE).execute()


# ---------------------------------------------------------------------- every protocol


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name.startswith("mesa/")])
def test_protocols_describe_environments_that_exist(name):
    for preset in PROTOCOLS[name].presets.values():
        found = recordings(preset, 0, "runs")
        assert len(found) == preset.transfer.training_tasks + 1
        (stage,) = at_seed(preset, 0).stages
        safe_envs.TASKS[preset.transfer.family].make(stage.env_kwargs).close()


def test_recorded_rows_fit_the_environment():
    sources = recordings(budget(SCRIPTED), 0, "runs")
    env = gym.make("safe/Navigation1-v0")
    for source in sources.values():
        source.load().check_spaces(env.observation_space, env.action_space)
