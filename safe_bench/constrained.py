"""Reports about return under a limit of the cost: tables, and the verdict."""

from __future__ import annotations

import math
from typing import Literal

from safe_bench import metrics, results
from safe_bench.document import Cell, Table, estimate_text, number_text
from safe_bench.metrics import MIN_SEEDS, Estimate, share_within
from safe_bench.protocols.base import Milestones
from safe_bench.results import MethodResults, Mode, Results
from safe_bench.tables import amount, has_successes, told_table
from safe_bench.verdict import MEASURES, caveats, judgements, sentences

What = Literal["return", "cost"]
NOT_GIVEN = "not given"


def outcome(found: Results, method: MethodResults, what: What) -> list[float]:
    """What is held against the limit, per seed: the end of training, or the evaluation of the deployed agent."""
    if found.protocol.deployed:
        return method.evaluated(what)
    return method.per_seed(results.final_return if what == "return" else results.final_cost)


def outcome_estimate(found: Results, method: MethodResults, what: What) -> Estimate:
    """That number over seeds."""
    return metrics.aggregate(outcome(found, method, what))


def summary_header(found: Results) -> tuple[str, ...]:
    """Columns of the table for the terminal."""
    if found.protocol.deployed:
        return ("Return", "Cost", "Within limit", "Success", "Cost in training")
    return ("Final return", "Final cost", "Within limit", "Eval return", "Eval cost")


def summary_row(found: Results, method: MethodResults, limit: float) -> list[Cell]:
    """What ``summary_header`` names."""
    head: list[Cell] = [outcome_estimate(found, method, "return"), outcome_estimate(found, method, "cost"),
                        within(found, method, limit)]  # fmt: skip
    if found.protocol.deployed:
        return [*head, method.evaluation_rate("deterministic", "successes"), method.estimate(results.mean_cost)]
    return [*head, *(method.evaluation_mean("deterministic", what) for what in ("return", "cost"))]


def within(found: Results, method: MethodResults, limit: float) -> str:
    """How many seeds end with a mean cost within the limit."""
    return _within_text(outcome(found, method, "cost"), limit)


def _within_text(costs: list[float], limit: float) -> str:
    if all(map(math.isnan, costs)):  # nothing was trained
        return number_text(math.nan)
    return f"{round(share_within(costs, limit) * len(costs))} of {len(costs)} seeds"


def training_table(found: Results, limit: float) -> Table:
    """Return and cost while learning."""
    header = ("Method", "Seeds", "Steps", "Final return", "Final cost", f"Final cost within {limit:g}",
              "Cost, mean of all training episodes", "Cost of all training episodes together")  # fmt: skip
    rows: list[list[Cell]] = [
        [m.label, str(len(m.runs)), amount(m, results.n_steps), m.estimate(results.final_return),
         m.estimate(results.final_cost), _within_text(m.per_seed(results.final_cost), limit),
         m.estimate(results.mean_cost), m.estimate(results.total_cost)]
        for m in found.methods
    ]  # fmt: skip
    return Table(header, rows)


def zero_shot_table(found: Results) -> Table | None:
    """Agents that start from another protocol's model, as they were before their first step here; None without any."""
    rows: list[list[Cell]] = []
    for method in found.methods:
        start = method.runs[0].config["definition"].get("start")
        if start and method.runs[0].evaluations:
            theirs = next((row for row in found.protocol.published.get(method.name, ()) if row.steps == 0), None)
            figures = (None, None) if theirs is None else (theirs.episode_return, theirs.cost)
            rows.append([
                method.label, str(start),
                *(method.estimate_before(what) for what in ("return", "cost", "success_rate")),
                *map(_deviation, figures),
            ])  # fmt: skip
    header = ("Method", "Trained in", "Return", "Cost", "Success rate", "Published return", "Published cost")
    return Table(header, rows, words=(0, 1)) if rows else None


def evaluation_table(found: Results, limit: float) -> Table:
    """Return and cost of the trained agents, and of the baselines that they correct."""
    modes: tuple[Mode, ...] = ("deterministic",) if found.protocol.deployed else ("deterministic", "stochastic")
    header = ["Method", "Evaluation episodes"]
    for mode in modes:
        header += [f"Return, {mode}", f"Cost, {mode}"]
    if found.protocol.deployed:
        header += [f"Cost within {limit:g}", "Success", "Violation"]
    rows: list[list[Cell]] = []
    for method in found.methods:
        rows.append([
            method.label, str(sum(run.evaluation["deterministic"]["episodes"] for run in method.runs)) + " of each",
            *(method.evaluation_mean(mode, what) for mode in modes for what in ("return", "cost")),
            *(_deployed_cells(method, "deterministic", limit) if found.protocol.deployed else ()),
        ])  # fmt: skip
        if method.evaluated("return", "baseline"):
            rows.append([
                f"{method.label}: its baseline", "as many",
                *(method.evaluation_mean("baseline", what) for what in ("return", "cost")),
                *_deployed_cells(method, "baseline", limit),
            ])  # fmt: skip
    return told_table(found, header, rows)


def _deployed_cells(method: MethodResults, mode: Mode, limit: float) -> list[Cell]:
    return [
        _within_text(method.evaluated("cost", mode), limit),
        method.evaluation_rate(mode, "successes"),
        method.evaluation_rate(mode, "violations"),
    ]


def milestone_table(found: Results, limit: float) -> Table | None:
    """Interactions until the deployed agents reach something within the limit; None where nothing is to be reached."""
    goals = found.protocol.milestones
    evaluated = [method for method in found.methods if method.evaluation_curve("agent", "cost") is not None]
    if goals is None or not evaluated:
        return None
    before = [_preparation_text(method) for method in evaluated]
    prepared = any(text != "nothing" for text in before)
    header = ["Method", *(["Before training"] if prepared else []), *(_goal_text(goals, v) for v in goals.values)]
    rows: list[list[Cell]] = []
    for method, text in zip(evaluated, before, strict=True):
        reached = [_interactions_text(method, goals.what, value, limit) for value in goals.values]
        rows.append([method.label, *([text] if prepared else []), *reached])
    return Table(tuple(header), rows)


def _preparation_text(method: MethodResults) -> str:
    """What is not counted among the interactions."""
    summary = method.runs[0].summary
    steps, controller = summary.get("prior_steps"), summary.get("controller")
    parts = [f"{steps:,} steps"] if steps else []
    if controller:
        learned = f"{controller['timesteps']:,} steps, preset {controller['preset']}, seed {controller['seed']}"
        parts.append(f"{controller['run']} ({learned})")
    return ", ".join(parts) or "nothing"


def _goal_text(goals: Milestones, value: float) -> str:
    return f"Return {value:g}" if goals.what == "return" else f"{value:.0%} successes"


def _interactions_text(method: MethodResults, what: str, value: float, limit: float) -> str:
    found = method.first_reached(lambda row: row[what] >= value and row["cost"] <= limit)
    reached = sorted(steps for steps in found if steps < math.inf)
    if not reached:
        return "never"
    seeds = "" if len(reached) == len(found) else f" ({len(reached)} of {len(found)} seeds)"
    return ", ".join(f"{steps:,.0f}" for steps in reached) + seeds


def published_table(found: Results) -> Table | None:
    """Our numbers beside the published ones, each with its budget; None if nothing was published."""
    rows: list[list[Cell]] = []
    told = any(theirs.success for printed in found.protocol.published.values() for theirs in printed)
    for method in found.methods:
        ours: list[Cell] = [
            outcome_estimate(found, method, "return"), outcome_estimate(found, method, "cost"),
            *([method.evaluation_rate("deterministic", "successes")] if told else []),
            amount(method, results.n_steps),
        ]  # fmt: skip
        after = [theirs for theirs in found.protocol.published.get(method.name, ()) if theirs.steps != 0]
        for theirs in after:
            success: list[Cell] = [theirs.success or NOT_GIVEN] if told else []
            steps = NOT_GIVEN if theirs.steps is None else f"{theirs.steps:,}"
            rows.append([
                method.label, *ours, _deviation(theirs.episode_return), _deviation(theirs.cost), *success, steps,
                theirs.source,
            ])  # fmt: skip
    what = ("Return", "Cost", *(("Success",) if told else ()), "Steps")
    header = ("Method", *what, *(f"Published {name.lower()}" for name in what), "Source")
    return Table(header, rows, words=(0, len(header) - 1)) if rows else None


def _deviation(published: tuple[float, float | None] | None) -> str:
    if published is None:
        return NOT_GIVEN
    mean, deviation = published
    return f"{mean:g}" if deviation is None else f"{mean:g} \N{PLUS-MINUS SIGN} {deviation:g}"


def verdict(found: Results, limit: float) -> list[str]:
    """Which methods end within the limit, and at which return; the first sentence is the headline."""
    what = "Cost of the deployed agents" if found.protocol.deployed else "Final training cost"
    shares = [(method, share_within(outcome(found, method, "cost"), limit)) for method in found.methods]
    safe = [method.label for method, share in shares if share == 1]
    mixed = [f"{method.label} ({within(found, method, limit)})" for method, share in shares if 0 < share < 1]
    unsafe = [method.label for method, share in shares if share == 0]
    parts = [
        f"{', '.join(labels)} {where}"
        for labels, where in ((safe, "in every seed"), (mixed, "in some seeds"), (unsafe, "in none"))
        if labels
    ]
    measure = MEASURES.get(found.protocol.measure or "")
    return [
        f"{what} within the limit of {limit:g}: {'; '.join(parts)}.",
        *(_sentence(found, method) for method in found.methods),
        *([] if measure is None else sentences(judgements(found, measure), measure)),
        *caveats(found, all(len(method.runs) >= MIN_SEEDS for method in found.methods)),
    ]


def _sentence(found: Results, method: MethodResults) -> str:
    cost, gain = (estimate_text(outcome_estimate(found, method, what)) for what in ("cost", "return"))
    steps = number_text(method.estimate(results.n_steps).point)
    success = method.evaluation_rate("deterministic", "successes")
    succeeds = f", {success.share:.0%} successes" if found.protocol.deployed and has_successes(found) else ""
    return f"{method.label}: return {gain}, cost {cost}{succeeds} after {steps} steps."
