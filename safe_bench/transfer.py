"""What is learned from other environments before a run begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import safe_envs
import sb3_ext
from safe_bench.protocols import Budget, Method
from safe_bench.recordings import TEST, Recording, Report
from safe_wrappers import Transitions


def at_seed(budget: Budget, seed: int) -> Budget:
    """The budget of one seed: with a transfer, its stages are in the test environment that the seed draws."""
    if budget.transfer is None:
        return budget
    test = safe_envs.TASKS[budget.transfer.family].test_task(seed)
    stages = tuple(replace(stage, env_kwargs={**stage.env_kwargs, **test}) for stage in budget.stages)
    return replace(budget, stages=stages)


def learn_transfer(
    model: Any, method: Method, budget: Budget, sources: dict[str, Recording], report: Report
) -> dict[str, Any]:
    """Phases 1 and 2 of MESA and Multi-Task, or pre-training on the test environment alone; says what was recorded."""
    transfer = budget.transfer
    assert transfer is not None
    few = sources[TEST].load()
    few = few.rows(slice(round(len(few) * (method.adaptation_share or 1.0))))
    sizes: dict[str, Any] = counts(few)
    if not isinstance(model, sb3_ext.MultiTask):
        progress = every(50, "pre-train", report)
        model.pretrain(few, budget.pretrain_updates, batch_size=transfer.batch_size, progress=progress)
        return sizes
    data = [source.load() for name, source in sources.items() if name != TEST]
    model.meta_train(data, transfer.iterations, recovery_dataset=few, progress=every(50, "meta-train", report))
    progress = every(50, "adapt", report)
    model.adapt(few, transfer.adaptation_updates, batch_size=transfer.batch_size, progress=progress)
    return {**sizes, "training": [counts(each) for each in data]}


def counts(data: Transitions) -> dict[str, int]:
    """Size of recorded data."""
    return {"transitions": len(data), "violations": data.n_violations}


def every(n: int, what: str, report: Report) -> Callable[[int, int], None]:
    """A ``progress`` that reports every ``n`` steps."""

    def progress(done: int, total: int) -> None:
        if done % n == 0 or done == total:
            report(what, done, total)

    return progress
