"""Foreign and damaged runs are refused by name, honest ones are not."""

import csv
import json
import shutil

import pytest
from finished_runs import NAVIGATION, PUSH, SPIDER, VELOCITY, add_run

from safe_bench import cli
from safe_bench.integrity import missing_part
from safe_bench.results import Results
from safe_bench.runs import EPISODES, Run, RunError, RunFolder, find_runs, read_json, write_json


def change(folder, file, **values):
    write_json(folder.path / file, {**read_json(folder.path / file), **values})


def keep_rows(folder, keep):
    """Keep the training episodes of these indices."""
    rows = EPISODES.read(folder.path)
    EPISODES.write(folder.path, [rows[index] for index in keep])


def forget_count(folder):
    """Leave the run as those from before the summary said how many episodes there were."""
    summary = read_json(folder.path / "summary.json")
    del summary["episodes"]
    write_json(folder.path / "summary.json", summary)


@pytest.mark.parametrize("place", [(NAVIGATION, "rp", 0), (NAVIGATION, "lr", 1), ("recovery-rl/navigation1", "lr", 0)])
def test_a_run_under_another_name_is_refused(tmp_path, place):
    own, other = add_run(tmp_path, NAVIGATION, "lr", 0, 5, 4), RunFolder.of(tmp_path, *place)
    shutil.copytree(own.path, other.path)
    with pytest.raises(RunError, match=rf"{other.path} holds a run of {NAVIGATION}/lr/seed-0.*move that folder"):
        find_runs(tmp_path, place[0])


def test_a_run_is_found_from_everywhere(tmp_path, monkeypatch):
    add_run(tmp_path, NAVIGATION, "lr", 0, 5, 4)
    for out, here in ((".", tmp_path), ("recovery-rl/..", tmp_path), ("..", tmp_path / "recovery-rl")):
        monkeypatch.chdir(here)
        assert list(find_runs(out, NAVIGATION)) == ["lr"]


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("config.json", {"a": 1}, "config.json: protocol is missing"),
        ("config.json", [], "config.json is missing or of another type"),
        ("evaluation.json", {}, "evaluation.json: deterministic"),
        ("evaluation.json", [], "evaluation.json"),
        ("summary.json", {}, "summary.json: seconds"),
        ("stages.json", {}, "stages.json"),
        ("stages.json", ["200"], r"stages.json\[0\]"),
        ("stages.json", [190], r"stages.json holds \[190\] for 1 stages and 200 steps"),
        ("figures.json", [], "figures.json"),
    ],
)
def test_a_file_without_what_reports_read_is_named(tmp_path, capsys, file, content, what):
    folder = add_run(tmp_path, NAVIGATION, "lr", 0, 5, 4)
    write_json(folder.path / file, content)
    with pytest.raises(RunError, match=rf"{folder.path} is damaged \({what}.*: remove that folder to run it again"):
        Run.read(folder)
    assert cli.main(["report", NAVIGATION, "--out", str(tmp_path)]) == 2
    assert str(folder.path) in capsys.readouterr().err


@pytest.mark.parametrize("key", ["label", "group", "kwargs", "stages", "eval_episodes"])
def test_a_configuration_without_a_setting_is_refused(tmp_path, key):
    folder = add_run(tmp_path, NAVIGATION, "lr", 0, 5, 4)
    config = read_json(folder.path / "config.json")
    del (config["definition"] if key in config["definition"] else config["budget"])[key]
    write_json(folder.path / "config.json", config)
    with pytest.raises(RunError, match=f"{key} is missing"):
        Run.read(folder)


@pytest.mark.parametrize("mode", ["deterministic", "stochastic", "baseline"])
def test_an_evaluation_that_is_cut_short_is_refused(tmp_path, mode):
    folder = add_run(tmp_path, NAVIGATION, "lr", 0, 5, 4)
    rates = read_json(folder.path / "evaluation.json")["stochastic"]
    change(folder, "evaluation.json", **{mode: {**rates, "violations": [0]}})
    with pytest.raises(RunError, match=f"{mode} does not hold 4 episodes"):
        Run.read(folder)


@pytest.mark.parametrize(
    ("protocol", "method", "keep", "what"),
    [
        (NAVIGATION, "lr", [], "0 episodes of stage train instead of 20"),
        (NAVIGATION, "lr", range(19), "19 episodes of stage train instead of 20"),
        (NAVIGATION, "lr", [*range(19), 18], "other episodes of stage train"),
        (VELOCITY, "ppo", [], "holds no episode"),
        (VELOCITY, "ppo", range(1, 20), "other episodes of stage train"),
        (SPIDER, "sqrl", [*range(9), *range(10, 40)], "other episodes of stage pretrain"),
    ],
)
def test_missing_training_episodes_are_noticed_in_older_runs_too(tmp_path, protocol, method, keep, what):
    folder = add_run(tmp_path, protocol, method, 0, 5, 4)
    forget_count(folder)
    assert len(Run.read(folder).episodes["episode"]) in (20, 40)
    keep_rows(folder, keep)
    with pytest.raises(RunError, match=what):
        Run.read(folder)


def test_the_count_of_the_summary_shows_the_loss_of_the_last_episodes(tmp_path):
    folder = add_run(tmp_path, VELOCITY, "ppo", 0, 5, 4)
    keep_rows(folder, range(15))
    with pytest.raises(RunError, match="holds 15 episodes instead of 20"):
        Run.read(folder)
    (folder.path / "episodes.csv").unlink()
    with pytest.raises(RunError, match="holds 0 episodes instead of 20"):
        Run.read(folder)


def test_a_stage_must_have_had_its_steps_and_its_own_episodes(tmp_path):
    folder = add_run(tmp_path, VELOCITY, "ppo", 0, 5, 4)
    config = read_json(folder.path / "config.json")
    stage = config["budget"]["stages"][0]
    stage["steps"] = 150  # an on-policy run ends with the rollout that reaches them
    write_json(folder.path / "config.json", config)
    Run.read(folder)
    stage["steps"] = 201
    write_json(folder.path / "config.json", config)
    with pytest.raises(RunError, match="stage train ends after 200 steps instead of 201"):
        Run.read(folder)
    stage |= {"steps": 200, "name": "other"}
    write_json(folder.path / "config.json", config)
    with pytest.raises(RunError, match=r"20 episodes in episodes\.csv are of no stage"):
        Run.read(folder)


def test_the_last_evaluation_while_learning_must_be_there(tmp_path):
    folder = add_run(tmp_path, VELOCITY, "ppo", 0, 5, 4)
    config = read_json(folder.path / "config.json")
    config["budget"]["eval_every"] = 150
    write_json(folder.path / "config.json", config)
    header = "agent,timesteps,episodes,return,cost,length,violation_rate,success_rate"
    table = folder.path / "evaluations.csv"
    for rows, complete in (("", False), ("agent,0,1,0,0,0,0,0", False), ("agent,150,1,0,0,0,0,0", True)):
        table.write_text(f"{header}\n{rows}\n")
        if complete:
            Run.read(folder)
        else:
            with pytest.raises(RunError, match=r"evaluations\.csv ends before step 150"):
                Run.read(folder)


def test_a_run_of_steps_may_end_before_its_first_episode_does(tmp_path):
    assert len(Run.read(add_run(tmp_path, SPIDER, "sqrl", 0, 0, 0, n=0)).episodes["episode"]) == 0


def test_a_controller_has_no_training(tmp_path):
    folder = add_run(tmp_path, PUSH, "safety-layer", 0, 0, 0)
    assert not (folder.path / "episodes.csv").exists()
    Run.read(folder)
    with (folder.path / "episodes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([EPISODES.columns, ["train", 1, 9, 9, 0.0, 0.0, 0, 0, 0, 1.0]])
    with pytest.raises(RunError, match=r"1 episodes in episodes\.csv are of no stage"):
        Run.read(folder)


def test_a_controller_is_no_variant_of_anything(tmp_path):
    add_run(tmp_path, PUSH, "safety-layer", 0, 0, 0)
    (method,) = Results.read(tmp_path, PUSH).methods
    assert method.algorithm is None


def test_a_finished_run_of_a_controller_is_not_taken_for_another_preset(tmp_path):
    folder = add_run(tmp_path, PUSH, "safety-layer", 0, 0, 0)
    found = json.loads((folder.path / "config.json").read_text())
    folder.check(found)
    with pytest.raises(RunError, match="other settings"):
        folder.check(found | {"preset": "paper"})


def test_the_first_missing_part_is_named():
    shape = {"a": [{"b": int | None}], "c": dict}
    assert missing_part({"a": [{"b": None}, {"b": 2}], "c": {}, "more": 0}, shape, "it") is None
    assert missing_part({"a": [{"b": None}, {}], "c": {}}, shape, "it") == "it: a[1]: b"
    assert missing_part({"a": [], "c": {}}, shape, "it") == "it: a"
    assert missing_part({"a": [{"b": 1}]}, shape, "it") == "it: c"
