"""One run, from configuration to result files; it goes on from where it was if it was interrupted."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.vec_env import VecEnv

import safe_envs
import sb3_ext
from safe_bench.agents import find_controller, fit_safety_layer, keep_origin, make_model, trained_model
from safe_bench.environments import evaluation_env, import_origin, statistics_of, training_env
from safe_bench.figures import record_figures
from safe_bench.protocols import Budget, Method, Protocol, Stage, get_protocol, run_config
from safe_bench.recorder import EpisodeRecorder
from safe_bench.recordings import Report, recordings, silent
from safe_bench.runs import (
    DIAGNOSTICS,
    EPISODES,
    EVALUATIONS,
    OFFLINE,
    SAFETY_DATA,
    STAGE_ENDS,
    RunFolder,
    provenance,
    read_json,
    write_json,
)
from safe_bench.transfer import at_seed, counts, every, learn_transfer
from sb3_ext.common.checkpoint import has_checkpoint, holds_environments
from sb3_ext.common.evaluation import SafetyEvaluation, evaluate_safely

CHECKPOINT_EVERY = 2000
STAGE_SEEDS = 10_000
AGENT, BASELINE = "agent", "baseline"
EVALUATION_SEED = 100_000
"""Evaluation seeds lie far from all training seeds."""


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

    def execute(self, report: Report = silent) -> None:
        """Run it to its end, or from its checkpoint to its end; a finished one is left alone.

        Raises:
            RunError: if the folder belongs to another configuration.
        """
        protocol = get_protocol(self.protocol)
        with self.folder.claimed(run_config(protocol, self.preset, self.method, self.seed)):
            if not self.folder.finished:
                th.set_num_threads(1)
                _Execution(self, protocol, report).run()


class _Execution:
    """The state of a job while it runs."""

    def __init__(self, job: Job, protocol: Protocol, report: Report) -> None:
        self.job, self.folder, self.report = job, job.folder, report
        self.method: Method = protocol.method(job.method)
        self.budget: Budget = at_seed(protocol.budget(job.preset), job.seed)
        self.rows = EPISODES.read(self.folder.path)
        self.evaluations = EVALUATIONS.read(self.folder.path)
        self.diagnostics = DIAGNOSTICS.read(self.folder.path)
        self.controller, self.layer = None, None
        if self.method.controller is not None:
            self.controller = find_controller(self.method.controller, job.out, self.budget.stages[0])
        self.origin = keep_origin(self.folder.path, self.method, job.out, job.seed, job.preset)
        if self.method.safety_layer is not None:
            assert self.controller is not None
            how, stage = self.method.safety_layer, self.budget.stages[0]
            self.layer = fit_safety_layer(self.folder.path, how, stage, self.controller, job.seed)

    def run(self) -> None:
        """Pre-train, go through the stages, evaluate, and write the summary last: it marks the run as finished."""
        started = time.monotonic() - (self.rows[-1]["seconds"] if self.rows else 0.0)
        stage = self.budget.stages[-1]
        model: Any = self._train(started) if self.method.algorithm is not None else self._fixed(stage)
        self.report("evaluate", 0, 1)
        write_json(self.folder.path / "evaluation.json", self._evaluate(model, stage))
        record_figures(self.folder.path, model, stage, EVALUATION_SEED + self.job.seed, self.layer)
        steps = _steps_of(model)
        if steps:
            model.save(self.folder.path / "model.zip")
            if (statistics := statistics_of(model)) is not None:  # without which the model sees nothing that it knows
                statistics.save(str(self.folder.path / "vecnormalize.pkl"))
        seconds = round(time.monotonic() - started, 1)
        amounts = {"timesteps": steps, "episodes": len(self.rows)}
        amounts |= {name: int(getattr(model, name)) for name in SAFETY_DATA if hasattr(model, name)}
        summary = {"seconds": seconds, **amounts, **self.origin, **provenance()}
        write_json(self.folder.path / "summary.json", summary)
        shutil.rmtree(self.folder.checkpoint, ignore_errors=True)
        if getattr(model, "env", None) is not None:
            model.env.close()

    def _train(self, started: float) -> Any:
        model = self._resume() if has_checkpoint(self.folder.checkpoint) else self._start()
        for index in range(len(self._finished_stages(model)), len(self.budget.stages)):
            self._learn(model, index, started)
        return model

    def _fixed(self, stage: Stage) -> Any:
        """The controller, which does not learn; curves show its first evaluation as a level line."""
        self.evaluations = []
        self._evaluate_in_between(self.controller, stage)
        return self.controller

    # ------------------------------------------------------------------ start, resume

    def _start(self) -> Any:
        stage = self.budget.stages[0]
        env = training_env(stage, self.method, self.layer)
        model = make_model(self.method, env, self.job.seed, self.controller)
        if self.method.start is not None:
            model.start_from(trained_model(self.method.start, self.job.out, self.job.seed, self.job.preset))
        self.rows, self.evaluations, self.diagnostics = [], [], []
        self._write_stages([])
        if self.method.offline and self.budget.offline_transitions:
            self._pretrain(model, stage)
            model.save_checkpoint(self.folder.checkpoint)
        return model

    def _pretrain(self, model: Any, stage: Stage) -> None:
        budget, job, file = self.budget, self.job, self.folder.path / OFFLINE
        if budget.transfer is not None:
            sources = recordings(budget, job.seed, job.out)
            write_json(file, learn_transfer(model, self.method, budget, sources, self.report))
            return
        data = safe_envs.collect_constraint_data(
            stage.env_id, budget.offline_transitions, seed=job.seed, **stage.env_kwargs
        )
        write_json(file, counts(data))
        model.pretrain(data, steps=budget.pretrain_updates, progress=every(50, "pre-train", self.report))

    def _resume(self) -> Any:
        checkpoint, stages = self.folder.checkpoint, self.budget.stages
        stage = stages[min(len(read_json(self.folder.path / STAGE_ENDS)), len(stages) - 1)]
        import_origin(stage.env_id)  # the checkpoint may hold its environments
        env = None if holds_environments(checkpoint) else training_env(stage, self.method, self.layer)
        model = getattr(sb3_ext, str(self.method.algorithm)).load_checkpoint(checkpoint, env, device="cpu")
        # Rows are written before each checkpoint: what was written after the last one is lived through again.
        self.rows, self.evaluations, self.diagnostics = (
            [row for row in rows if row["timesteps"] <= model.num_timesteps]
            for rows in (self.rows, self.evaluations, self.diagnostics)
        )
        return model

    # ------------------------------------------------------------------ stages

    def _finished_stages(self, model: Any) -> list[int]:
        """Timesteps at the end of each finished stage (those that the checkpoint has seen)."""
        return [steps for steps in read_json(self.folder.path / STAGE_ENDS) if steps <= model.num_timesteps]

    def _write_stages(self, ends: list[int]) -> None:
        write_json(self.folder.path / STAGE_ENDS, ends)

    def _learn(self, model: Any, index: int, started: float) -> None:
        stage, ends = self.budget.stages[index], self._finished_stages(model)
        start = ends[-1] if ends else 0
        recorder = EpisodeRecorder(self.rows, stage, started, self.report, start)
        while not recorder.finished(model.num_timesteps):
            self._evaluate_in_between(model, stage)
            steps = self._steps_to_next(model.num_timesteps, start, stage)
            arguments = {"callback": recorder, "reset_num_timesteps": False, "log_interval": 10**9}
            if model.num_timesteps == start:
                before = model.get_env()
                enter_stage(model, stage, self._env_of(model, index), steps, arguments)
                if model.get_env() is not before:
                    before.close()
            else:
                model.learn(steps, **arguments)
            EPISODES.write(self.folder.path, self.rows)
            if self._is_evaluation_due(model):
                self.diagnostics += recorder.diagnostics()
                DIAGNOSTICS.write(self.folder.path, self.diagnostics)
            model.save_checkpoint(self.folder.checkpoint)
        self._evaluate_in_between(model, stage)
        self._write_stages([*ends, model.num_timesteps])

    def _steps_to_next(self, now: int, start: int, stage: Stage) -> int:
        """Steps to the next checkpoint, evaluation or end of the stage, whichever comes first."""
        every, evaluate_every = self.budget.checkpoint_every or CHECKPOINT_EVERY, self.budget.eval_every
        left = every if stage.steps is None else start + stage.steps - now
        return min(every, left, every if evaluate_every is None else evaluate_every - now % evaluate_every)

    def _env_of(self, model: Any, index: int) -> VecEnv:
        """The environment of a stage that begins."""
        if index == 0:
            return model.get_env()
        env = training_env(self.budget.stages[index], self.method, self.layer)
        env.seed(self.job.seed + index * STAGE_SEEDS)
        return env

    # ------------------------------------------------------------------ evaluation

    def _is_evaluation_due(self, model: Any) -> bool:
        """At the start, and whenever a multiple of ``eval_every`` was reached."""
        every = self.budget.eval_every
        last = self.evaluations[-1]["timesteps"] if self.evaluations else -1
        return every is not None and _steps_of(model) // every > last // every

    def _evaluate_in_between(self, model: Any, stage: Stage) -> None:
        if not self._is_evaluation_due(model):
            return
        now, begun = _steps_of(model), bool(self.evaluations)
        for name in _agents(model):
            if name == BASELINE and self.controller is not None and begun:
                continue  # it does not change
            self.report(f"evaluate {name}", 0, 1)
            result = self._evaluation_of(model, name, stage, self.budget.eval_rounds or 1)
            summary = {key: round(value, 4) for key, value in result.summary().items() if key in EVALUATIONS.columns}
            self.evaluations.append({"agent": name, "timesteps": now, "episodes": len(result), **summary})
        EVALUATIONS.write(self.folder.path, self.evaluations)

    def _evaluate(self, model: Any, stage: Stage) -> dict[str, Any]:
        rounds = self.budget.eval_episodes
        found = {
            name: _as_json(self._evaluation_of(model, AGENT, stage, rounds, deterministic=name == "deterministic"))
            for name in ("deterministic", "stochastic")
        }
        if BASELINE in _agents(model):
            found[BASELINE] = _as_json(self._evaluation_of(model, BASELINE, stage, rounds))
        return found

    def _evaluation_of(
        self, model: Any, name: str, stage: Stage, n_episodes: int, deterministic: bool = True
    ) -> SafetyEvaluation:
        """What a model or its baseline does; both see what the model learned from."""
        agent = _agents(model)[name]
        seed = EVALUATION_SEED + self.job.seed
        with contextlib.closing(evaluation_env(stage, model, self.layer)) as env:
            return evaluate_safely(agent, env, n_episodes, deterministic=deterministic, seed=seed)


def _steps_of(model: Any) -> int:
    """What a model has learned from; a controller learns from nothing."""
    return int(getattr(model, "num_timesteps", 0))


def _agents(model: Any) -> dict[str, Any]:
    """What can be evaluated of a model: itself, and the baseline that it corrects."""
    baseline = getattr(model, "baseline", None)
    return {AGENT: model} if baseline is None else {AGENT: model, BASELINE: baseline}


def enter_stage(model: Any, stage: Stage, env: VecEnv, steps: int, arguments: dict[str, Any]) -> None:
    """The first steps of a stage: SQRL's own method where it has one; all begin with an empty replay buffer."""
    if stage.call != "learn" and isinstance(model, sb3_ext.SQRL):
        getattr(model, stage.call)(env, steps, **arguments)
        return
    if env is not model.get_env():
        model.set_env(env)
        model.replay_buffer.reset()
    model.learn(steps, **arguments)


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
