"""Methods that start from another protocol's model, learn in several environments, and see their feedback."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("mujoco")

from safe_bench import figures, report
from safe_bench.protocols import PROTOCOLS, Budget, Stage, run_config
from safe_bench.runner import Job
from safe_bench.runs import Run, RunError
from sb3_ext import RecurrentSACLag

WALLS, POLES = "safe-transfer/point-walls", "safe-transfer/point-poles"
TINY = {
    "batch_size": 4, "horizon": 5, "train_freq": 25, "gradient_steps": 2, "learning_starts": 50, "buffer_size": 2_000,
    "policy_kwargs": {"cnn_channels": (4, 4, 4), "cnn_embedding": 8, "gru_size": 8, "hidden": (8,)},
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(figures, "save_gif", lambda *args: None)
    for name, protocol in PROTOCOLS.items():
        if not name.startswith("safe-transfer/point"):
            continue
        stage = Stage("train", protocol.presets["quick"].stages[0].env_id, {"max_episode_steps": 40}, steps=400)
        budget = Budget((stage,), eval_episodes=2, seeds=(0,), eval_every=200, eval_rounds=1, checkpoint_every=200)
        monkeypatch.setitem(protocol.presets, "tiny", budget)
        for key, method in protocol.methods.items():
            monkeypatch.setitem(protocol.methods, key, replace(method, kwargs=method.kwargs | TINY, n_envs=2))


def run(out, protocol, method):
    job = Job(protocol, "tiny", method, 0, str(out))
    job.execute()
    return Run.read(job.folder)


def test_a_transfer_needs_the_model_of_the_walls(tmp_path):
    with pytest.raises(RunError, match="run safe-transfer/point-walls --preset tiny --methods constrained --seeds 0"):
        run(tmp_path, POLES, "transfer")
    folder = tmp_path / WALLS / "constrained" / "seed-0"
    folder.mkdir(parents=True)
    (folder / "model.zip").touch()
    with pytest.raises(RunError, match="is missing"):  # that run is not finished
        run(tmp_path, POLES, "transfer")
    (folder / "summary.json").touch()
    (folder / "model.zip").unlink()
    with pytest.raises(RunError, match=r"was not kept: remove .*seed-0, then"):
        run(tmp_path, POLES, "transfer")
    (folder / "model.zip").touch()
    tiny, quick = (run_config(PROTOCOLS[WALLS], preset, "constrained", 0) for preset in ("tiny", "quick"))
    tiny["definition"]["n_envs"] = 3
    for config, message in ((quick, "is of preset quick"), (tiny, "has other settings .definition.n_envs: there 3")):
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(RunError, match=rf"{message}.*--preset tiny.* trains it elsewhere"):
            run(tmp_path, POLES, "transfer")


def test_a_transfer_begins_where_the_walls_ended(tmp_path):
    walls = run(tmp_path, WALLS, "constrained")
    assert walls.summary["timesteps"] == 400 and walls.ends == [400]
    assert len(walls.episodes["length"]) == 2 * 5  # two environments, 200 steps of each
    zero_shot = RecurrentSACLag.load(walls.path / "model.zip", device="cpu")
    poles = run(tmp_path, POLES, "transfer")
    assert [row["timesteps"] for row in poles.evaluations] == [0, 200, 400]
    assert poles.summary["start"] == {
        "run": f"{WALLS}/constrained", "seed": 0, "preset": "tiny", "timesteps": 400,
        "commit": walls.summary["commit"],
    }  # fmt: skip
    from safe_bench.environments import evaluation_env
    from safe_bench.runner import EVALUATION_SEED
    from sb3_ext import evaluate_safely

    stage = PROTOCOLS[POLES].presets["tiny"].stages[0]
    expected = evaluate_safely(zero_shot, evaluation_env(stage, zero_shot), 1, seed=EVALUATION_SEED)
    assert poles.evaluations[0]["return"] == pytest.approx(float(expected.returns[0]), abs=1e-3)
    text = (report.write_report(tmp_path, POLES) / "report.md").read_text()
    assert "Before learning here (zero-shot)" in text and WALLS in text
    before, after = text.split("## While learning")
    assert before.count("| 756 | 1000 |") == 1 and "756" not in after


def test_episodes_side_by_side_are_counted_and_an_interrupted_run_gives_the_same(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", WALLS, "no-feedback")
    saved, saves = RecurrentSACLag.save_checkpoint, []

    def killed(model, folder):
        saved(model, folder)
        saves.append(folder)
        if len(saves) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RecurrentSACLag, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", WALLS, "no-feedback")
    cut = run(tmp_path / "cut", WALLS, "no-feedback")
    for column in ("timesteps", "return", "cost", "length"):
        assert cut.episodes[column].tolist() == whole.episodes[column].tolist(), column
    assert cut.evaluation == whole.evaluation


def test_reports_show_what_all_of_the_training_cost(tmp_path):
    for method in ("constrained", "unconstrained"):
        run(tmp_path / "runs", WALLS, method)
    text = (report.write_report(tmp_path / "runs", WALLS) / "report.md").read_text()
    assert "Cost of all training episodes together" in text and "Before learning" not in text
    assert (tmp_path / "runs" / WALLS / "report" / "training.png").is_file()
