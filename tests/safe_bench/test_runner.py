"""Runs: complete result files, and the same results whether or not they were interrupted."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safe_bench import figures, runner
from safe_bench.protocols import PROTOCOLS, Budget, Stage
from safe_bench.protocols.sqrl import spider_budget
from safe_bench.runner import Job
from safe_bench.runs import EPISODES, Run, RunError, RunFolder

NAVIGATION, SPIDER = "recovery-rl/navigation2", "sqrl/drunk-spider"
TINY = {
    NAVIGATION: Budget((Stage("train", "safe/Navigation2-v0", episodes=4),), 500, 10, 2, (0,)),
    SPIDER: spider_budget(550, 150, 0.1, 2, range(1)),
}


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch):
    for name, budget in TINY.items():
        monkeypatch.setitem(PROTOCOLS[name].presets, "tiny", budget)
    monkeypatch.setattr(runner, "CHECKPOINT_EVERY", 100)
    monkeypatch.setattr(figures, "N_CALIBRATION", 2)
    monkeypatch.setattr(figures, "N_TRAJECTORIES", 2)


def job(out, method, protocol=NAVIGATION, seed=0):
    return Job(protocol, "tiny", method, seed, str(out))


def episodes(folder: RunFolder):
    with (folder.path / "episodes.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def counts(folder: RunFolder):
    summary = json.loads((folder.path / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key.startswith(("episodes", "safety", "timesteps"))}


def results(folder: RunFolder):
    return episodes(folder), json.loads((folder.path / "evaluation.json").read_text()), counts(folder)


def interrupt_after(n_checkpoints):
    """A model's save_checkpoint that raises after some checkpoints, as a crash would."""
    from sb3_ext import SafeSAC

    original, count = SafeSAC.save_checkpoint, [0]

    def save_checkpoint(self, folder):
        original(self, folder)
        count[0] += 1
        if count[0] == n_checkpoints:
            raise ConnectionError("crash")

    return save_checkpoint


def test_a_run_leaves_complete_results(tmp_path):
    job(tmp_path, "recovery-rl").execute()
    run = Run.read(job(tmp_path, "recovery-rl").folder)
    assert tuple(run.episodes) == tuple(EPISODES.columns)
    assert run.episodes["episode"].tolist() == [1, 2, 3, 4]
    assert run.summary["timesteps"] == run.episodes["timesteps"][-1]
    assert set(run.evaluation) == {"deterministic", "stochastic"}
    assert run.evaluation["deterministic"]["episodes"] == 2
    assert set(run.figures) == {"trajectories", "calibration", "risk_map"}
    assert "torch" in run.summary["versions"]
    assert not run.path.joinpath("checkpoint").exists()


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    job(tmp_path, "unconstrained").execute()
    monkeypatch.setattr(runner, "_Execution", None)
    job(tmp_path, "unconstrained").execute()


@pytest.mark.parametrize(
    ("protocol", "method", "n_checkpoints"), [(NAVIGATION, "recovery-rl", 2), (SPIDER, "sqrl", 3), (SPIDER, "sqrl", 7)]
)
def test_an_interrupted_run_gives_the_results_of_an_uninterrupted_one(
    tmp_path, monkeypatch, protocol, method, n_checkpoints
):
    job(tmp_path / "whole", method, protocol).execute()
    crashing = interrupt_after(n_checkpoints)
    with monkeypatch.context() as patch:
        patch.setattr("sb3_ext.common.off_policy.SafeOffPolicy.save_checkpoint", crashing)
        with pytest.raises(ConnectionError):
            job(tmp_path / "parts", method, protocol).execute()
    job(tmp_path / "parts", method, protocol).execute()
    assert results(job(tmp_path / "parts", method, protocol).folder) == results(
        job(tmp_path / "whole", method, protocol).folder
    )


KILLED = """
import sys
from tests.safe_bench.test_runner import TINY, job, runner, PROTOCOLS, NAVIGATION
PROTOCOLS[NAVIGATION].presets["tiny"] = TINY[NAVIGATION]
runner.CHECKPOINT_EVERY = 50
job(sys.argv[1], "recovery-rl").execute(lambda what, done, total: print(what, done, flush=True))
"""


def test_a_run_killed_at_any_moment_goes_on(tmp_path):
    """SIGKILL while it trains; the same command then finishes, with every episode once."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment)
    for line in process.stdout:
        if line.startswith("train 2"):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not job(tmp_path, "recovery-rl").folder.finished
    subprocess.run(command, check=True, capture_output=True, cwd=root, env=environment)
    assert [row["episode"] for row in episodes(job(tmp_path, "recovery-rl").folder)] == ["1", "2", "3", "4"]


def test_a_folder_with_other_settings_is_refused(tmp_path):
    job(tmp_path, "unconstrained").execute()
    config = job(tmp_path, "unconstrained").folder.path / "config.json"
    changed = json.loads(config.read_text())
    changed["definition"]["kwargs"]["ent_coef"] = 0.5
    config.write_text(json.dumps(changed))
    with pytest.raises(RunError, match=r"definition\.kwargs\.ent_coef: there 0\.5, asked for 0\.2.*--out"):
        job(tmp_path, "unconstrained").execute()


@pytest.mark.parametrize("file", ["config.json", "episodes.csv"])
def test_a_damaged_folder_is_refused_by_name(tmp_path, file):
    job(tmp_path, "unconstrained").execute()
    folder = job(tmp_path, "unconstrained").folder
    (folder.path / "summary.json").unlink()
    (folder.path / file).write_text('{"stage"' if file.endswith("json") else "stage,episode\ntrain,one\n")
    with pytest.raises(RunError, match=file):
        job(tmp_path, "unconstrained").execute()


def test_two_stages_are_recorded_apart(tmp_path):
    job(tmp_path, "sac", SPIDER).execute()
    run = Run.read(job(tmp_path, "sac", SPIDER).folder)
    assert set(run.episodes["stage"]) == {"pretrain", "finetune"}
    assert counts(job(tmp_path, "sac", SPIDER).folder) == {"timesteps": 700, "episodes": len(run.episodes["stage"])}
    assert run.stage("finetune")["timesteps"].min() > 550


def test_on_policy_safety_episodes_are_counted_beside_the_training(tmp_path):
    job(tmp_path, "sqrl", SPIDER).execute()
    found = counts(job(tmp_path, "sqrl", SPIDER).folder)
    assert found["timesteps"] == 700
    assert found["safety_steps"] > found["safety_violations"] > 0  # an untrained mask does not keep five episodes safe


def test_the_reward_penalty_is_not_in_the_recorded_return(tmp_path):
    job(tmp_path, "rp").execute()
    run = Run.read(job(tmp_path, "rp").folder)
    # Navigation's reward is at least -100 or so a step; a penalty of 3000 would show.
    assert (run.episodes["return"] > -150 * run.episodes["length"]).all()
