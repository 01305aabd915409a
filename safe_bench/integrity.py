"""What a finished run must be before it is reported: at its place, whole, and at the end of its budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from safe_bench.runs import Run

REMEDY = "remove that folder to run it again"
MODES = ("deterministic", "stochastic")

_NUMBER = int | float
_RATES = {"return": _NUMBER, "cost": _NUMBER, "episodes": int, "violations": [int], "successes": [int]}
_STAGE = {"name": str, "env_id": str, "env_kwargs": dict, "episodes": int | None, "steps": int | None}
_CONFIG = {
    "protocol": str, "preset": str, "method": str, "seed": int,
    "definition": {"label": str, "group": str, "kwargs": dict},
    "budget": {"stages": [_STAGE], "offline_transitions": int, "pretrain_updates": int, "eval_episodes": int},
}  # fmt: skip
_SUMMARY = {"seconds": _NUMBER, "timesteps": int}


def find_fault(run: Run) -> str | None:
    """What is wrong with a finished run and what to do about it, to go after its folder's name; None if nothing is."""
    return _misplaced(run) or _damaged(run)


def missing_part(found: Any, shape: Any, where: str) -> str | None:
    """Where plain data first lack what a shape asks for; None if nowhere.

    Args:
        found: the data.
        shape: a type; or a dict or a list of shapes, of which data may hold further keys and have any length but 0.
        where: name of the data.
    """
    if isinstance(shape, dict) and isinstance(found, dict):
        parts = (missing_part(found.get(key, ...), part, f"{where}: {key}") for key, part in shape.items())
    elif isinstance(shape, list) and isinstance(found, list) and found:
        parts = (missing_part(part, shape[0], f"{where}[{index}]") for index, part in enumerate(found))
    else:
        return None if not isinstance(shape, dict | list) and isinstance(found, shape) else where
    return next(filter(None, parts), None)


def _misplaced(run: Run) -> str | None:
    if missing := missing_part(run.config, _CONFIG, "config.json"):
        return f"is damaged ({missing} is missing or of another type): {REMEDY}"
    place = Path(run.config["protocol"], run.config["method"], f"seed-{run.config['seed']}")
    if run.path.parts[-len(place.parts) :] != place.parts:
        return f"holds a run of {place.as_posix()}, as its config.json says: move that folder there, or remove it"
    return None


def _damaged(run: Run) -> str | None:
    fault = _misshapen(run) or _wrong_evaluation(run) or _wrong_training(run)
    return f"is damaged ({fault}): {REMEDY}" if fault else None


def _misshapen(run: Run) -> str | None:
    modes = dict.fromkeys((*MODES, *(run.evaluation if isinstance(run.evaluation, dict) else ())), _RATES)
    shapes: list[tuple[Any, Any, str]] = [(run.evaluation, modes, "evaluation.json"),
                                          (run.summary, _SUMMARY, "summary.json")]  # fmt: skip
    if _learned(run):
        shapes.append((run.ends, [int], "stages.json"))
    if run.figures is not None:
        shapes.append((run.figures, {}, "figures.json"))
    missing = next(filter(None, (missing_part(*part) for part in shapes)), None)
    return missing and f"{missing} is missing or of another type"


def _learned(run: Run) -> bool:
    """Whether there was training: a controller's method names no algorithm."""
    return run.config["definition"].get("algorithm") is not None


def _wrong_evaluation(run: Run) -> str | None:
    budget = run.config["budget"]
    for mode, rates in run.evaluation.items():
        if {rates["episodes"], len(rates["violations"]), len(rates["successes"])} != {budget["eval_episodes"]}:
            return f"evaluation.json: {mode} does not hold {budget['eval_episodes']} episodes"
    every = budget.get("eval_every")
    last = run.evaluations[-1]["timesteps"] if run.evaluations else -1
    if _learned(run) and every is not None and last // every != run.ends[-1] // every:
        return f"evaluations.csv ends before step {run.ends[-1] // every * every}"
    return None


def _wrong_training(run: Run) -> str | None:
    stages: list[dict[str, Any]] = run.config["budget"]["stages"] if _learned(run) else []
    if stages and (len(run.ends) != len(stages) or run.ends[-1] != run.summary["timesteps"]):
        return f"stages.json holds {run.ends} for {len(stages)} stages and {run.summary['timesteps']} steps"
    for stage, start, end in zip(stages, [0, *run.ends], run.ends, strict=False):
        if fault := _wrong_stage(run, stage, start, end):
            return fault
    return _wrong_total(run, sum(len(run.stage(stage["name"])["episode"]) for stage in stages))


def _wrong_stage(run: Run, stage: dict[str, Any], start: int, end: int) -> str | None:
    """A stage ends with its last episode; or where steps limit it, within an episode or with the rollout then."""
    rows, name = run.stage(stage["name"]), stage["name"]
    n, ends = len(rows["episode"]), np.array([start, *rows["timesteps"]])
    if stage["steps"] is not None and end - start < stage["steps"]:
        return f"stage {name} ends after {end - start} steps instead of {stage['steps']}"
    if stage["steps"] is None and n != stage["episodes"]:
        return f"episodes.csv holds {n} episodes of stage {name} instead of {stage['episodes']}"
    in_time = _in_time(rows, ends, end, run.config["definition"].get("n_envs", 1))
    if not in_time or rows["episode"].tolist() != list(range(1, n + 1)):
        return f"episodes.csv holds other episodes of stage {name} than 1, 2, 3 ... of steps {start} to {end}"
    return None


def _in_time(rows: dict[str, Any], ends: Any, end: int, n_envs: int) -> bool:
    """Whether episodes that end so fit between the begin and the end of their stage; side by side, they overlap."""
    begins = ends[1:] - rows["length"] * n_envs
    earliest = ends[:-1] if n_envs == 1 else ends[0]
    return ends[-1] <= end and bool((np.diff(ends) >= 0).all()) and bool((begins >= earliest).all())


def _wrong_total(run: Run, known: int) -> str | None:
    total, recorded = len(run.episodes["episode"]), run.summary.get("episodes")
    if total != known:
        return f"{total - known} episodes in episodes.csv are of no stage of config.json"
    if recorded is None and _learned(run) and not total:  # older runs do not say how many they had
        return "episodes.csv holds no episode"
    return None if recorded in (None, total) else f"episodes.csv holds {total} episodes instead of {recorded}"
