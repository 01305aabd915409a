"""Methods that start from a controller: corrected, imitated, demonstrated, behind a safety layer; and their reports."""

import copy
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from PIL import Image

pytest.importorskip("pybullet")

from safe_bench import agents, figures, report
from safe_bench.protocols import PROTOCOLS, Budget, Stage
from safe_bench.protocols.base import Imitation, LayerFit
from safe_bench.recorder import EpisodeRecorder
from safe_bench.runner import Job
from safe_bench.runs import DIAGNOSTICS, Run, RunError, read_json, write_json
from sb3_ext.common.off_policy import SafeOffPolicy

PUSH, HER = "dual-agent/panda-push", "dual-agent/push-baseline"


def budget(env_id, **kwargs):
    return Budget((Stage("train", env_id, kwargs, steps=150),), eval_episodes=2, seeds=(0,), eval_every=100,
                  eval_rounds=1, checkpoint_every=75)  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Budgets of a few episodes, in which the agents already learn."""
    monkeypatch.setattr(figures, "save_gif", lambda path, *args: Image.new("RGB", (4, 4)).save(path))
    monkeypatch.setitem(PROTOCOLS[PUSH].presets, "tiny", budget("safe/PandaPush-v0"))
    monkeypatch.setitem(PROTOCOLS[HER].presets, "tiny", budget("safe/PandaPushGoal-v0", obstacle=False))
    for protocol in (PUSH, HER):
        for name, method in PROTOCOLS[protocol].methods.items():
            small = {"learning_starts": 60} if "learning_starts" in method.kwargs else {}
            small |= {"n_steps": 50, "batch_size": 25} if "cost_limit" in method.kwargs else {}
            parts = {"demonstrations": 100, "safety_layer": LayerFit(200, 50), "imitation": Imitation(200, 300)}
            few = {part: size for part, size in parts.items() if getattr(method, part) is not None}
            changed = replace(method, kwargs={**method.kwargs, **small}, **few)
            monkeypatch.setitem(PROTOCOLS[protocol].methods, name, changed)


def run(out, method, protocol=PUSH):
    job = Job(protocol, "tiny", method, 0, str(out))
    job.execute()
    return Run.read(job.folder)


def table(run, agent):
    return [row["timesteps"] for row in run.evaluations if row["agent"] == agent]


def test_a_corrected_controller_is_evaluated_beside_its_baseline(tmp_path):
    found = run(tmp_path, "dual-agent")
    assert table(found, "agent") == [0, 100]
    assert table(found, "baseline") == [0]  # it does not change
    assert set(found.evaluation) == {"deterministic", "stochastic", "baseline"}
    assert found.evaluation["baseline"]["violation_rate"] > found.evaluation["deterministic"]["violation_rate"]
    assert run(tmp_path, "dual-agent").summary == found.summary


def test_an_interrupted_run_in_a_simulator_without_copies_gives_the_same_results(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", "dual-agent")
    original, saved = SafeOffPolicy.save_checkpoint, []

    def crash_at_second(model, folder):
        original(model, folder)
        saved.append(folder)
        if len(saved) == 2:
            raise ConnectionError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(SafeOffPolicy, "save_checkpoint", crash_at_second)
        with pytest.raises(ConnectionError):
            run(tmp_path / "parts", "dual-agent")
    parts = run(tmp_path / "parts", "dual-agent")
    assert (parts.evaluations, parts.evaluation) == (whole.evaluations, whole.evaluation)
    first, second = (DIAGNOSTICS.read(each.path) for each in (parts, whole))
    assert first == second and {"safety/multiplier", "train/critic_loss"} <= {row["name"] for row in first}
    assert {row["timesteps"] for row in first} == {100}
    assert parts.episodes["return"].tolist() == whole.episodes["return"].tolist()
    # A checkpoint abandons an episode here, after 75 steps of the one of 50: its costs are nobody else's.
    assert (whole.episodes["cost"] <= whole.episodes["length"]).all()
    assert parts.episodes["cost"].tolist() == whole.episodes["cost"].tolist()


def test_diagnostics_are_means_of_what_was_logged_since_the_last_checkpoint(tmp_path, monkeypatch):
    original = EpisodeRecorder._on_step

    def with_known_logs(self):
        self.logger.record("safety/steps", self.num_timesteps)
        self.logger.record("time/steps", self.num_timesteps)
        return original(self)

    monkeypatch.setattr(EpisodeRecorder, "_on_step", with_known_logs)
    rows = [row for row in run(tmp_path, "dual-agent").diagnostics if row["name"].endswith("/steps")]
    assert rows == [{"timesteps": 100, "name": "safety/steps", "value": 90.0}]  # 80 and 100; a checkpoint is at 75


def test_costs_of_abandoned_episodes_are_not_recorded_with_others(tmp_path, monkeypatch):
    """Every step costs 1 and is an intervention; a checkpoint, and with it a new episode, comes every 75 steps."""
    monkeypatch.setattr("safe_envs.manipulation.panda_push.PandaPushEnv._cost_terms", lambda self: {"contact": 1.0})
    original = EpisodeRecorder._on_step

    def always_intervened(self):
        self.model.last_intervened = np.ones(1, bool)
        return original(self)

    monkeypatch.setattr(EpisodeRecorder, "_on_step", always_intervened)
    found = run(tmp_path, "dual-agent").episodes
    assert found["length"].tolist() == [50] * len(found["length"]) and len(found["length"]) == 2
    assert found["cost"].tolist() == found["length"].tolist() == found["interventions"].tolist()


def test_the_safety_layer_is_the_same_whatever_its_process_did_before(tmp_path):
    first = run(tmp_path / "first", "safety-layer")
    th.manual_seed(99)
    assert run(tmp_path / "second", "safety-layer").evaluation == first.evaluation


def test_a_job_leaves_the_protocol_as_it_is(tmp_path):
    before = copy.deepcopy(dict(PROTOCOLS[HER].methods["her"].kwargs))
    run(tmp_path, "her", HER)
    assert dict(PROTOCOLS[HER].methods["her"].kwargs) == before


def test_a_controller_behind_a_safety_layer_is_evaluated_without_learning(tmp_path, monkeypatch):
    found = run(tmp_path, "safety-layer")
    assert found.summary["timesteps"] == len(found.episodes["episode"]) == 0
    assert sum(found.evaluation["deterministic"]["interventions"]) > 0
    assert table(found, "agent") == [0]  # a level line among the curves
    (tmp_path / PUSH / "safety-layer" / "seed-0" / "summary.json").unlink()
    monkeypatch.setattr(agents.sb3_ext.LinearCostModel, "fit_in", None)  # the layer is there already
    assert run(tmp_path, "safety-layer").evaluation == found.evaluation


@pytest.mark.parametrize(
    ("method", "controller"),
    [("bc-cpo", "PushController"), ("bc-safety-layer", "PushController"), ("dual-agent-drag", "DragController")],
)
def test_agents_imitate_the_controller_before_they_learn(tmp_path, monkeypatch, method, controller):
    imitated, imitate = [], agents.sb3_ext.imitate

    def recorded(model, controller, **settings):
        imitated.append((model.num_timesteps, controller.name, settings["seed"]))
        error = imitate(model, controller, **settings)
        assert error < 0.5 * np.var(_actions_of(controller))  # half of what the best constant action leaves
        return error

    monkeypatch.setattr(agents.sb3_ext, "imitate", recorded)
    found = run(tmp_path, method)
    assert found.summary["timesteps"] == 150
    assert imitated == [(0, f"controller {controller}", 0)]
    assert found.summary["prior_steps"] == (400 if method == "bc-safety-layer" else 200)


def _actions_of(controller):
    env = gym.make("safe/PandaPush-v0")
    observation, actions = env.reset(seed=0)[0], []
    for _ in range(50):
        actions.append(controller.predict(observation)[0])
        observation = env.step(actions[-1])[0]
    env.close()
    return np.array(actions)


def test_a_run_goes_on_with_the_controller_that_it_began_with(tmp_path):
    run(tmp_path, "her", HER)
    found = run(tmp_path, "safety-layer-her")
    (found.path / "summary.json").unlink()
    assert run(tmp_path, "safety-layer-her").summary["controller"] == found.summary["controller"]
    (found.path / "summary.json").unlink()
    summary = tmp_path / HER / "her" / "seed-0" / "summary.json"
    write_json(summary, {**read_json(summary), "commit": "another"})
    with pytest.raises(RunError, match=r"began with .* now it is .*another.*: remove that folder"):
        run(tmp_path, "safety-layer-her")


def test_a_learned_baseline_is_demonstrated_to_and_then_corrected(tmp_path):
    with pytest.raises(RunError, match="safe-bench run dual-agent/push-baseline --methods her --seeds 0"):
        run(tmp_path, "dual-agent-her")
    learned = run(tmp_path, "her", HER)
    assert learned.summary["timesteps"] == 150
    assert learned.evaluation["deterministic"]["cost"] == 0.0
    corrected = run(tmp_path, "dual-agent-her")
    run(tmp_path, "bc-cpo-her")
    assert table(corrected, "baseline") == [0]
    origin = corrected.summary["controller"]
    assert (origin["run"], origin["seed"], origin["preset"], origin["timesteps"]) == (f"{HER}/her", 0, "tiny", 150)


def test_the_report_is_about_the_deployed_agents(tmp_path):
    for method in ("dual-agent", "safety-layer"):
        run(tmp_path, method)
    text = (report.write_report(tmp_path, PUSH) / "report.md").read_text()
    assert "Cost of the deployed agents within the limit of 0.5" in text
    assert "Dual agent, scripted baseline: its baseline" in text
    assert {"learning.png", "corrections.png"} <= {file.name for file in (tmp_path / PUSH / "report").iterdir()}
    assert "baseline-dual-agent.gif" in text and "baseline-safety-layer" not in text
    assert report.summary_table(tmp_path, PUSH).row_count == 2
