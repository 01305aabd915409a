"""Offline data of the environments of a transfer: recorded in a moment, or by an agent that learns for hours."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

import safe_envs
import sb3_ext
from safe_bench.protocols.base import Budget, Source, Transfer
from safe_bench.runs import RunError, locked
from safe_wrappers import Transitions
from safe_wrappers.files import ensure_folder
from safe_wrappers.tasks import Task
from sb3_ext.common.checkpoint import has_checkpoint

DATA_SEEDS = 1_000
"""Seeds of recorded data lie so far apart for each seed of a run."""
CHECKPOINT_EVERY = 10_000
RECORDER: dict[str, Any] = {"ent_coef": 0.2, "learning_starts": 1_000, "train_freq": 4}
"""Of the SAC whose replay is kept; it is part of the file's name."""
TEST = "test"
LONGEST_NAME = 60

Report = Callable[[str, int, int], None]
"""Called as ``report(what, done, total)``."""


def silent(what: str, done: int, total: int) -> None:
    """A ``Report`` that goes nowhere."""


@dataclass(frozen=True)
class Recording:
    """Data of one environment.

    Attributes:
        transfer: what they are for.
        source: how they are recorded.
        task: arguments of the environment.
        n_transitions: how many.
        seed: of all that is drawn.
        file: where a replay is kept.
    """

    transfer: Transfer
    source: Source
    task: Task
    n_transitions: int
    seed: int
    file: Path

    @property
    def label(self) -> str:
        """What the progress display calls it."""
        return f"data {self.file.stem}"

    @property
    def env_kwargs(self) -> Task:
        """Arguments of the environment that it is recorded in."""
        return self.task if self.source == "scripted" else {**self.task, "terminate_on_violation": False}

    @property
    def missing(self) -> bool:
        """Whether it has to be executed before it can be loaded."""
        return self.source == "replay" and not self.file.is_file()

    def load(self) -> Transitions:
        """The transitions.

        Raises:
            RunError: if they have not been recorded, or the file is damaged.
        """
        family = safe_envs.TASKS[self.transfer.family]
        if self.source == "scripted":
            return safe_envs.collect_constraint_data(
                family.env_id, self.n_transitions, seed=self.seed, **self.env_kwargs
            )
        if self.source == "networks":
            rng = np.random.default_rng(self.seed).spawn(1)[0]  # not that of the environment
            with family.make(self.env_kwargs, disable_env_checker=True) as env:
                return safe_envs.collect_rollouts(
                    env, self.n_transitions, episode_length=self.transfer.episode_length, seed=self.seed,
                    each_episode=lambda: safe_envs.random_network(env, rng),
                )  # fmt: skip
        if self.missing:
            raise RunError(f"{self.file}, which `safe-bench run` records first, is missing: run the same command again")
        try:
            return Transitions.load(self.file)
        except ValueError as error:
            raise RunError(f"{error}: remove the file to record it again") from error

    def execute(self, report: Report = silent) -> None:
        """Let SAC learn in the environment, unhindered by violations, and keep all that it did; resumable."""
        if not self.missing:
            return
        ensure_folder(self.file.parent)
        with locked(self.file.with_suffix(".lock"), self.file, wait=True):  # other protocols may need the same data
            if self.missing:
                self._learn_and_keep(report)

    def _learn_and_keep(self, report: Report) -> None:
        th.set_num_threads(1)
        checkpoint = self.file.with_suffix(".checkpoint")
        model = (
            sb3_ext.SafeSAC.load_checkpoint(checkpoint, device="cpu") if has_checkpoint(checkpoint) else self._agent()
        )
        while model.num_timesteps < self.n_transitions:
            report("record", model.num_timesteps, self.n_transitions)
            steps = min(CHECKPOINT_EVERY, self.n_transitions - model.num_timesteps)
            model.learn(steps, reset_num_timesteps=False, log_interval=10**9)
            model.save_checkpoint(checkpoint)
        sb3_ext.transitions_of(model).save(self.file)
        shutil.rmtree(checkpoint, ignore_errors=True)

    def _agent(self) -> sb3_ext.SafeSAC:
        env = safe_envs.TASKS[self.transfer.family].make(self.env_kwargs)
        return sb3_ext.SafeSAC(
            "MlpPolicy", env, **RECORDER, buffer_size=self.n_transitions, optimize="fused", seed=self.seed,
            device="cpu",
        )  # fmt: skip


def recordings(budget: Budget, seed: int, out: str | Path) -> dict[str, Recording]:
    """The data of a transfer: ``"test"``, and ``"train-0"`` and so on, the training environments of a seed.

    Replays belong to a training environment and serve all seeds and protocols.
    """
    transfer = budget.transfer
    if transfer is None:
        return {}
    family = safe_envs.TASKS[transfer.family]
    test = (family.test_task(seed), budget.offline_transitions)
    train = [(task, transfer.training_transitions) for task in family.training_tasks(transfer.training_tasks, seed)]
    found = {}
    for i, (task, n) in enumerate([test, *train]):
        name = f"train-{i - 1}" if i else TEST
        source: Source = "networks" if transfer.source == "replay" and name == TEST else transfer.source
        own_seed = i + DATA_SEEDS * (1 if source == "replay" else seed + 1)
        file = Path(out) / "data" / family.env_id / f"{_describe(task)}-{n}-{_describe(RECORDER)}-{own_seed}.npz"
        found[name] = Recording(transfer, source, task, n, own_seed, file)
    return found


def _describe(task: Task) -> str:
    """A file name for the arguments of an environment."""
    text = ",".join(f"{key}={value}" for key, value in task.items())
    return text if len(text) <= LONGEST_NAME else hashlib.sha1(text.encode()).hexdigest()[:12]
