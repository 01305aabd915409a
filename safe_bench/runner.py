"""One run, from configuration to result files; it goes on from where it was if it was interrupted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

import safe_envs
import sb3_ext
from safe_bench.environments import evaluation_env, import_origin, training_env
from safe_bench.figures import record_figures
from safe_bench.protocols import Budget, Method, Protocol, Stage, get_protocol, run_config
from safe_bench.runs import BEGUN, RunFolder, provenance, read_json, write_json
from safe_wrappers.info import INTERVENED, SUCCESS
from safe_wrappers.monitor import EpisodeCosts
from sb3_ext.common.checkpoint import has_checkpoint
from sb3_ext.common.evaluation import SafetyEvaluation, evaluate_safely

CHECKPOINT_EVERY = 2000
STAGE_SEEDS = 10_000
EVALUATION_SEED = 100_000
"""Evaluation seeds lie far from all training seeds."""

Report = Callable[[str, int, int], None]
"""Called as ``report(what, done, total)``."""


@dataclass(frozen=True)
class Job:
    """One method and seed of a protocol."""

    protocol: str
    preset: str
    method: str
    seed: int
    out: str

    @property
    def folder(self) -> RunFolder:
        """Where its results go."""
        return RunFolder.of(self.out, self.protocol, self.method, self.seed)

    @property
    def label(self) -> str:
        """What the progress display calls it."""
        return f"{self.method} seed {self.seed}"


def execute(job: Job, report: Report = lambda what, done, total: None) -> None:
    """Run a job to its end, or from its checkpoint to its end; a finished one is left alone.

    Raises:
        RunError: if the folder belongs to another configuration.
    """
    protocol = get_protocol(job.protocol)
    with job.folder.claimed(run_config(protocol, job.preset, job.method, job.seed)):
        if not job.folder.finished:
            th.set_num_threads(1)
            _Execution(job, protocol, report).run()


class _Execution:
    """The state of a job while it runs."""

    def __init__(self, job: Job, protocol: Protocol, report: Report) -> None:
        self.job, self.folder, self.report = job, job.folder, report
        self.method: Method = protocol.method(job.method)
        self.budget: Budget = protocol.budget(job.preset)
        self.rows = self.folder.read_rows()

    def run(self) -> None:
        """Pre-train, go through the stages, evaluate, and write the summary last: it marks the run as finished."""
        model = self._resume() if has_checkpoint(self.folder.checkpoint) else self._start()
        started = time.monotonic() - (self.rows[-1]["seconds"] if self.rows else 0.0)
        for index in range(len(self._finished_stages(model)), len(self.budget.stages)):
            self._learn(model, index, started)
        self.report("evaluate", 0, 1)
        stage = self.budget.stages[-1]
        write_json(self.folder.path / "evaluation.json", self._evaluate(model, stage))
        record_figures(self.folder.path, model, stage, seed=EVALUATION_SEED + self.job.seed)
        model.save(self.folder.path / "model.zip")
        seconds = round(time.monotonic() - started, 1)
        write_json(
            self.folder.path / "summary.json", {"seconds": seconds, "timesteps": model.num_timesteps, **provenance()}
        )
        shutil.rmtree(self.folder.checkpoint, ignore_errors=True)

    # ------------------------------------------------------------------ start, resume

    def _start(self) -> Any:
        algorithm = getattr(sb3_ext, self.method.algorithm)
        stage = self.budget.stages[0]
        env = training_env(stage, self.method)
        model = algorithm("MlpPolicy", env, seed=self.job.seed, device="cpu", **self.method.kwargs)
        self.rows = []
        self._write_stages([])
        if self.method.offline and self.budget.offline_transitions:
            self._pretrain(model, stage)
            model.save_checkpoint(self.folder.checkpoint)
        return model

    def _pretrain(self, model: Any, stage: Stage) -> None:
        data = safe_envs.collect_constraint_data(
            stage.env_id, self.budget.offline_transitions, seed=self.job.seed, **stage.env_kwargs
        )
        write_json(self.folder.path / "offline_data.json", {"transitions": len(data), "violations": data.n_violations})
        model.pretrain(data, steps=self.budget.pretrain_updates, progress=_every(50, "pre-train", self.report))

    def _resume(self) -> Any:
        import_origin(self.budget.stages[0].env_id)  # the checkpoint holds its environments
        model = getattr(sb3_ext, self.method.algorithm).load_checkpoint(self.folder.checkpoint, device="cpu")
        # Episodes are written before each checkpoint: what was written after the last one is lived through again.
        self.rows = [row for row in self.rows if row["timesteps"] <= model.num_timesteps]
        return model

    # ------------------------------------------------------------------ stages

    def _finished_stages(self, model: Any) -> list[int]:
        """Timesteps at the end of each finished stage (those that the checkpoint has seen)."""
        return [steps for steps in read_json(self.folder.path / BEGUN) if steps <= model.num_timesteps]

    def _write_stages(self, ends: list[int]) -> None:
        write_json(self.folder.path / BEGUN, ends)

    def _learn(self, model: Any, index: int, started: float) -> None:
        stage, ends = self.budget.stages[index], self._finished_stages(model)
        start = ends[-1] if ends else 0
        recorder = EpisodeRecorder(self.rows, stage, started, self.report, start)
        while not recorder.finished(model.num_timesteps):
            left = CHECKPOINT_EVERY if stage.steps is None else start + stage.steps - model.num_timesteps
            arguments = {"callback": recorder, "reset_num_timesteps": False, "log_interval": 10**9}
            if model.num_timesteps == start:
                env = self._env_of(model, index)
                enter_stage(model, stage, env, min(CHECKPOINT_EVERY, left), arguments)
            else:
                model.learn(min(CHECKPOINT_EVERY, left), **arguments)
            self.folder.write_rows(self.rows)
            model.save_checkpoint(self.folder.checkpoint)
        self._write_stages([*ends, model.num_timesteps])

    def _env_of(self, model: Any, index: int) -> VecEnv:
        """The environment of a stage that begins."""
        if index == 0:
            return model.get_env()
        env = training_env(self.budget.stages[index], self.method)
        env.seed(self.job.seed + index * STAGE_SEEDS)
        return env

    # ------------------------------------------------------------------ evaluation

    def _evaluate(self, model: Any, stage: Stage) -> dict[str, Any]:
        results = {}
        for name, deterministic in (("deterministic", True), ("stochastic", False)):
            result = evaluate_safely(
                model,
                evaluation_env(stage, model),
                self.budget.eval_episodes,
                deterministic=deterministic,
                seed=EVALUATION_SEED + self.job.seed,
            )
            results[name] = _as_json(result)
        return results


def enter_stage(model: Any, stage: Stage, env: VecEnv, steps: int, arguments: dict[str, Any]) -> None:
    """The first steps of a stage: SQRL's own method where it has one; all begin with an empty replay buffer."""
    if stage.call != "learn" and isinstance(model, sb3_ext.SQRL):
        getattr(model, stage.call)(env, steps, **arguments)
        return
    if env is not model.get_env():
        model.set_env(env)
        model.replay_buffer.reset()
    model.learn(steps, **arguments)


@dataclass
class RecorderState:
    """The unfinished episode of a recorder; it is saved with the model."""

    costs: EpisodeCosts
    interventions: int = 0


class EpisodeRecorder(BaseCallback):
    """Keeps a row per finished episode and stops the stage when it has enough of them."""

    def __init__(self, rows: list[dict[str, Any]], stage: Stage, started: float, report: Report, start: int) -> None:
        super().__init__()
        self.rows, self.stage, self.started, self.report, self.start = rows, stage, started, report, start
        self.episodes = sum(row["stage"] == stage.name for row in rows)

    def _init_callback(self) -> None:
        if not hasattr(self.model, "recorder_state"):
            self.model.recorder_state = RecorderState(EpisodeCosts())  # type: ignore[attr-defined]
        self.state: RecorderState = self.model.recorder_state  # type: ignore[attr-defined]

    def finished(self, timesteps: int) -> bool:
        """Whether the stage is over."""
        if self.stage.steps is not None:
            return timesteps - self.start >= self.stage.steps
        return self.episodes >= (self.stage.episodes or 0)

    def _on_step(self) -> bool:
        (info,), (done,) = self.locals["infos"], self.locals["dones"]
        own = getattr(self.model, "last_intervened", [False])[0]
        self.state.interventions += int(bool(own) or bool(info.get(INTERVENED, False)))
        for episode in self.state.costs.add([info], [done]):
            self._add_row(info, episode["cost"], episode["violations"] > 0)
        if self.stage.steps is not None:
            self.report(self.stage.name, self.num_timesteps - self.start, self.stage.steps)
            return True
        self.report(self.stage.name, self.episodes, self.stage.episodes or 0)
        return not self.finished(self.num_timesteps)

    def _add_row(self, info: dict[str, Any], cost: float, violation: bool) -> None:
        self.episodes += 1
        self.rows.append({
            "stage": self.stage.name, "episode": self.episodes, "timesteps": self.num_timesteps,
            "length": info["episode"]["l"], "return": round(float(info["episode"]["r"]), 4), "cost": cost,
            "violation": int(violation), "success": int(bool(info.get(SUCCESS, False))),
            "interventions": self.state.interventions, "seconds": round(time.monotonic() - self.started, 1),
        })  # fmt: skip
        self.state.interventions = 0


def _every(n: int, what: str, report: Report) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done % n == 0 or done == total:
            report(what, done, total)

    return progress


def _as_json(result: SafetyEvaluation) -> dict[str, Any]:
    return {
        **result.summary(),
        "episodes": len(result),
        "costs": [round(float(value), 3) for value in result.costs],
        "returns": [round(float(value), 3) for value in result.returns],
        "lengths": result.lengths.tolist(),
        "violations": result.violations.astype(int).tolist(),
        "successes": result.successes.astype(int).tolist(),
        "interventions": result.interventions.tolist(),
    }
