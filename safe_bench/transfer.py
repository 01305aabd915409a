"""What is learned from other environments before a run begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import safe_envs
import sb3_ext
from safe_bench.protocols import Budget, Method
from safe_bench.recordings import TEST, Recording, Report
from safe_bench.runs import CRITIC, RunError
from safe_wrappers import Transitions

HELD_OUT, HELD_OUT_SEEDS = 5_000, 500


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
    """Phases 1 and 2 of MESA and Multi-Task, or pre-training on the test environment alone.

    Says what was recorded, and how well the safety critic then knows the test environment.

    Training data without a violation are left out.
    """
    transfer = budget.transfer
    assert transfer is not None
    few = sources[TEST].load()
    if method.adaptation_share is not None:
        few = few.rows(slice(round(len(few) * method.adaptation_share)))  # whole episodes, but for the last
    sizes: dict[str, Any] = counts(few)
    if not isinstance(model, sb3_ext.MultiTask):
        progress = every(50, "pre-train", report)
        model.pretrain(few, budget.pretrain_updates, batch_size=transfer.batch_size, progress=progress)
        return {**sizes, CRITIC: judge_critic(model, sources[TEST])}
    data = [source.load() for name, source in sources.items() if name != TEST]
    # Early in its life an agent may not have found out how to do harm: nothing can be learned there.
    harmful = [each for each in data if each.n_violations > 0]
    if not harmful:
        raise RunError(f"none of the {len(data)} training environments' data shows a violation: record more of them")
    model.meta_train(harmful, transfer.iterations, recovery_dataset=few, progress=every(50, "meta-train", report))
    progress = every(50, "adapt", report)
    model.adapt(few, transfer.adaptation_updates, batch_size=transfer.batch_size, progress=progress)
    return {**sizes, "training": [counts(each) for each in data], CRITIC: judge_critic(model, sources[TEST])}


def judge_critic(model: Any, recording: Recording) -> dict[str, float | None]:
    """How well a safety critic knows the test environment, on recorded transitions that it has not seen.

    Returns:
        ``auc``: how often a transition that violates has the higher risk of two, one of each kind; ``alarms`` and
        ``false_alarms``: shares of those that violate, and of the others, whose risk is above the limit; an alarm a
        few steps ahead of a violation counts among the latter, though it is right. None where the data show only one
        kind.
    """
    data = replace(recording, n_transitions=HELD_OUT, seed=recording.seed + HELD_OUT_SEEDS).load()
    risk = model.risk(data.observations, data.actions)
    unsafe, safe = np.sort(risk[data.violations]), np.sort(risk[~data.violations])
    found: dict[str, float | None] = dict.fromkeys(("auc", "alarms", "false_alarms"))
    if len(unsafe) and len(safe):
        below = (np.searchsorted(safe, unsafe, "left") + np.searchsorted(safe, unsafe, "right")) / 2
        shares = (below.mean() / len(safe), (unsafe > model.limit).mean(), (safe > model.limit).mean())
        found = {name: round(float(share), 4) for name, share in zip(found, shares, strict=True)}
    return found


def counts(data: Transitions) -> dict[str, int]:
    """Size of recorded data."""
    return {"transitions": len(data), "violations": data.n_violations}


def every(n: int, what: str, report: Report) -> Callable[[int, int], None]:
    """A ``progress`` that reports every ``n`` steps."""

    def progress(done: int, total: int) -> None:
        if done % n == 0 or done == total:
            report(what, done, total)

    return progress
