"""The command line as a user meets it."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

import safe_envs
from safe_bench import cli
from safe_bench.pool import Outcome, run_jobs
from safe_bench.protocols import PROTOCOLS
from safe_bench.runs import STAGE_ENDS, RunError, RunFolder, read_json, write_json


def test_list_names_every_protocol(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PROTOCOLS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "recovery-rl/navigation9"], "recovery-rl/navigation1"),
        (["run", "recovery-rl/navigation1", "--methods", "lr", "magic"], "'magic'"),
        (["run", "recovery-rl/navigation1", "--preset", "huge"], "'huge'"),
        (["run", "safe-transfer/point", "--methods", "magic"], "'magic'"),
        (["run", "safe-transfer/point", "--preset", "huge"], "'huge'"),
        (["run", "safe-transfer/poi"], "safe-transfer/point-walls"),
        (["report", "safe-transfer/point", "--out", "OUT"], "no finished run"),
        (["run", "recovery-rl/navigation1", "--jobs", "0", "--out", "OUT"], "--jobs"),
        (["run", "recovery-rl/navigation1", "--seeds", "-1", "--out", "OUT"], "--seeds"),
        (["report", "recovery-rl/navigation1", "--out", "OUT"], "no finished run"),
    ],
)
def test_bad_arguments_are_named(arguments, message, capsys, tmp_path):
    arguments = [str(tmp_path) if part == "OUT" else part for part in arguments]
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_in_which_nothing_has_begun_can_be_used_for_another_preset(tmp_path):
    folder = RunFolder.of(tmp_path, "recovery-rl/navigation1", "unconstrained", 0)
    write_json(folder.path / "config.json", {"preset": "paper"})
    folder.check({"preset": "quick"})


def test_one_folder_is_run_by_one_process_at_a_time(tmp_path):
    folder = RunFolder.of(tmp_path, "recovery-rl/navigation1", "unconstrained", 0)
    with folder.claimed({}), pytest.raises(RunError, match="another process"), folder.claimed({}):
        pass
    with folder.claimed({}):
        assert read_json(folder.path / "config.json") == {}


def test_an_output_folder_that_cannot_be_written_to_is_named(capsys, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert cli.main(["run", "recovery-rl/navigation1", "--out", str(blocked)]) == 2
    error = capsys.readouterr().err
    assert str(blocked) in error and "--out" in error


def test_a_foreign_run_folder_is_refused_before_anything_runs(capsys, tmp_path):
    folder = RunFolder.of(tmp_path, "recovery-rl/navigation1", "unconstrained", 0)
    write_json(folder.path / "config.json", {"protocol": "something else"})
    write_json(folder.path / STAGE_ENDS, [])
    arguments = ["run", "recovery-rl/navigation1", "--methods", "unconstrained", "--seeds", "0", "--out", str(tmp_path)]
    assert cli.main(arguments) == 2
    assert str(folder.path) in capsys.readouterr().err


def started(out):
    """``safe-bench run`` of one job, in a process of its own that has said what it will do; and the job's folder."""
    command = [sys.executable, "-u", "-m", "safe_bench.cli", "run", "recovery-rl/navigation1", "--preset", "quick",
               "--methods", "recovery-rl", "--seeds", "0", "--out", str(out)]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )  # fmt: skip
    assert "1 of 1 runs to do" in process.stdout.readline()
    return process, RunFolder.of(out, "recovery-rl/navigation1", "recovery-rl", 0)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("when", ["processes start", "one works"])
def test_ctrl_c_stops_at_once_and_says_how_to_go_on(tmp_path, when):
    process, folder = started(tmp_path)
    if when == "one works":
        wait_for((folder.path / "offline_data.json").exists)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error and "Traceback" not in error


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_goes_on_when_safe_bench_was_killed(tmp_path, how):
    process, folder = started(tmp_path)
    wait_for((folder.path / "offline_data.json").exists)
    process.send_signal(how)
    process.communicate(timeout=60)  # until the last process that writes to the pipes has ended

    def is_free():
        try:
            with folder.claimed(read_json(folder.path / "config.json")):
                return True
        except RunError:
            return False

    wait_for(is_free, seconds=5)


NAVIGATION = {"recovery-rl/demo", "recovery-rl/navigation1", "recovery-rl/navigation2"}


@pytest.fixture
def tiny_navigation(monkeypatch):
    """Navigation with next to nothing to do, in this process."""
    from safe_bench.protocols import Budget, Stage

    for name in NAVIGATION:
        tiny = Budget((Stage("train", "safe/Navigation2-v0", episodes=3),), 500, 10, 2, (0,))
        monkeypatch.setitem(PROTOCOLS[name].presets, "quick", tiny)

    def in_this_process(jobs, n_processes, console):
        for job in jobs:
            job.execute()
        return [Outcome(job, None) for job in jobs]

    monkeypatch.setattr("safe_bench.pool.run_jobs", in_this_process)


class Failing(SimpleNamespace):
    """A job that raises."""

    def execute(self, report):
        raise self.error


def test_processes_have_one_thread_and_failures_tell_where(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    jobs = [Failing(label="unforeseen", error=ZeroDivisionError("no")), Failing(label="foreseen", error=RunError("x")),
            Threads(label="threads")]  # fmt: skip
    unforeseen, foreseen, threads = run_jobs(jobs, 1, Console(quiet=True))
    assert unforeseen.error == "ZeroDivisionError: no" and "in execute" in unforeseen.trace
    assert (foreseen.error, foreseen.trace) == ("RunError: x", "")
    assert threads.error == "ValueError: 1" and "OMP_NUM_THREADS" not in os.environ


class Threads(SimpleNamespace):
    """A job that says in how many threads NumPy works."""

    def execute(self, report):
        raise ValueError(os.environ["OMP_NUM_THREADS"])


def test_tracebacks_are_kept(tmp_path, monkeypatch, capsys):
    def broken(jobs, *_):
        return [Outcome(job, "ZeroDivisionError: no", "Traceback: here") for job in jobs]

    monkeypatch.setattr("safe_bench.pool.run_jobs", broken)
    arguments = ["run", "recovery-rl/navigation2", "--methods", "unconstrained", "--seeds", "0", "--out", str(tmp_path)]
    assert cli.main(arguments) == 1
    assert "Traceback: here" in (tmp_path / "failures.log").read_text()
    assert "failures.log" in capsys.readouterr().err


def test_run_and_report_from_nothing(tmp_path, capsys, tiny_navigation):
    arguments = ["recovery-rl/navigation2", "--out", str(tmp_path)]
    assert cli.main(["run", *arguments, "--methods", "unconstrained", "recovery-rl"]) == 0
    assert cli.main(["report", *arguments, "--to", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    assert "Recovery RL" in capsys.readouterr().out


def test_data_are_recorded_without_the_agents(tmp_path, capsys, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    few = ["--preset", "quick", "--seeds", "0", "--out", str(tmp_path / "runs"), "--minari", "safe/few"]
    assert cli.main(["record", "mesa/navigation1", *few]) == 0
    assert "train-4" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    stored = minari.load_dataset("safe/few/seed0-test-v0")
    task = safe_envs.TASKS["navigation1"].test_task(0)
    assert stored.recover_environment().spec.kwargs["B"] == task["B"]
    assert cli.main(["record", "recovery-rl/navigation1"]) == 2
    assert "no agent of recovery-rl/navigation1 learns from recorded data" in capsys.readouterr().err


def test_what_several_names_begin_with_runs_and_reports_all_of_them(tmp_path, capsys, tiny_navigation):
    out, to = tmp_path / "runs", tmp_path / "report"
    assert cli.main(["run", "recovery-rl", "--out", str(out), "--methods", "unconstrained"]) == 0
    assert cli.main(["report", "recovery-rl", "--out", str(out), "--to", str(to)]) == 0
    assert {str(page.parent.relative_to(to)) for page in to.rglob("report.html")} == NAVIGATION


@pytest.mark.parametrize(
    ("method", "where"),
    [("transfer", ["point-poles", "point-humanoids"]), ("no-feedback", ["point-walls"])],
)
def test_a_method_is_run_where_the_group_has_it(method, where, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("safe_bench.pool.run_jobs", lambda jobs, *_: ran.extend(jobs) or [])
    assert cli.main(["run", "safe-transfer/point", "--methods", method, "--out", str(tmp_path)]) == 0
    assert [job.protocol for job in ran] == [f"safe-transfer/{name}" for name in where]
