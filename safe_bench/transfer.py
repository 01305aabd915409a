"""Offline data of one environment or of many, and what is learned from them before a run begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import safe_envs
import sb3_ext
from safe_bench.protocols import Budget, Transfer
from safe_wrappers import Transitions

DATA_SEEDS = 1_000
"""Seeds of recorded data lie so far apart for each seed of a run."""

Report = Callable[[str, int, int], None]
"""Called as ``report(what, done, total)``."""


def at_seed(budget: Budget, seed: int) -> Budget:
    """The budget of one seed: with a transfer, its stages are in the test environment that the seed draws."""
    if budget.transfer is None:
        return budget
    test = safe_envs.TASKS[budget.transfer.family].test_task(seed)
    stages = tuple(replace(stage, env_kwargs={**stage.env_kwargs, **test}) for stage in budget.stages)
    return replace(budget, stages=stages)


def learn_transfer(model: Any, budget: Budget, seed: int, report: Report) -> dict[str, Any]:
    """Phases 1 and 2 of MESA and Multi-Task, or pre-training on the test environment alone; says what was recorded."""
    transfer = budget.transfer
    assert transfer is not None
    tasks = safe_envs.TASKS[transfer.family]
    first = DATA_SEEDS * (seed + 1)
    few = _record(transfer, tasks.test_task(seed), budget.offline_transitions, first)
    recorded: dict[str, Any] = counts(few)
    if not isinstance(model, sb3_ext.MultiTask):
        model.pretrain(
            few, budget.pretrain_updates, batch_size=transfer.batch_size, progress=every(50, "pre-train", report)
        )
        return recorded
    data = []
    for i, task in enumerate(tasks.training_tasks(transfer.training_tasks, seed), start=1):
        report("record", i, transfer.training_tasks)
        data.append(_record(transfer, task, transfer.training_transitions, first + i))
    model.meta_train(data, transfer.iterations, recovery_dataset=few, progress=every(50, "meta-train", report))
    model.adapt(few, transfer.adaptation_updates, batch_size=transfer.batch_size, progress=every(50, "adapt", report))
    return {**recorded, "training": [counts(each) for each in data]}


def _record(transfer: Transfer, task: Mapping[str, Any], n_transitions: int, seed: int) -> Transitions:
    tasks = safe_envs.TASKS[transfer.family]
    if transfer.source == "scripted":
        return safe_envs.collect_constraint_data(tasks.env_id, n_transitions, seed=seed, **task)
    env = tasks.make(task, terminate_on_violation=False, disable_env_checker=True)
    try:
        return safe_envs.collect_rollouts(env, n_transitions, episode_length=transfer.episode_length, seed=seed)
    finally:
        env.close()


def counts(data: Transitions) -> dict[str, int]:
    """Size of recorded data."""
    return {"transitions": len(data), "violations": data.n_violations}


def every(n: int, what: str, report: Report) -> Callable[[int, int], None]:
    """A ``progress`` that reports every ``n`` steps."""

    def progress(done: int, total: int) -> None:
        if done % n == 0 or done == total:
            report(what, done, total)

    return progress
