"""Reports about return under a limit of the cost: tables, and the verdict."""

from __future__ import annotations

from safe_bench import results
from safe_bench.document import Cell, Table, estimate_text, number_text
from safe_bench.metrics import MIN_SEEDS, Estimate, share_within
from safe_bench.results import MethodResults, Results
from safe_bench.tables import amount
from safe_bench.verdict import caveats

SUMMARY = ("Final return", "Final cost", "Within limit", "Eval return", "Eval cost")


def summary_row(method: MethodResults, limit: float) -> list[Estimate | str]:
    """What ``SUMMARY`` names."""
    return [
        method.estimate(results.final_return),
        method.estimate(results.final_cost),
        within(method, limit),
        method.evaluation_mean("deterministic", "return"),
        method.evaluation_mean("deterministic", "cost"),
    ]


def within(method: MethodResults, limit: float) -> str:
    """How many seeds end with a mean cost within the limit."""
    costs = method.per_seed(results.final_cost)
    return f"{round(share_within(costs, limit) * len(costs))} of {len(costs)} seeds"


def training_table(found: Results, limit: float) -> Table:
    """Return and cost while learning."""
    header = ("Method", "Seeds", "Steps", "Final return", "Final cost", f"Final cost within {limit:g}",
              "Cost, mean of all training episodes")  # fmt: skip
    rows: list[list[Cell]] = [
        [m.label, str(len(m.runs)), amount(m, results.n_steps), m.estimate(results.final_return),
         m.estimate(results.final_cost), within(m, limit), m.estimate(results.mean_cost)]
        for m in found.methods
    ]  # fmt: skip
    return Table(header, rows)


def evaluation_table(found: Results) -> Table:
    """Return and cost of the trained agents."""
    header = ("Method", "Evaluation episodes", "Return, deterministic", "Cost, deterministic", "Return, stochastic",
              "Cost, stochastic")  # fmt: skip
    rows: list[list[Cell]] = [
        [m.label, str(sum(run.evaluation["deterministic"]["episodes"] for run in m.runs)) + " of each",
         *(m.evaluation_mean(mode, what) for mode in ("deterministic", "stochastic") for what in ("return", "cost"))]
        for m in found.methods
    ]  # fmt: skip
    return Table(header, rows)


def published_table(found: Results) -> Table | None:
    """Our final numbers beside the published ones, each with its budget; None if nothing was published."""
    rows: list[list[Cell]] = []
    for method in found.methods:
        theirs = found.protocol.published.get(method.name)
        if theirs is not None:
            rows.append([
                method.label, method.estimate(results.final_return), method.estimate(results.final_cost),
                amount(method, results.n_steps), _deviation(*theirs.episode_return), _deviation(*theirs.cost),
                f"{theirs.steps:,}", theirs.source,
            ])  # fmt: skip
    header = ("Method", "Return", "Cost", "Steps", "Published return", "Published cost", "Published steps", "Source")
    return Table(header, rows, words=(0, 7)) if rows else None


def _deviation(mean: float, deviation: float) -> str:
    return f"{mean:g} \N{PLUS-MINUS SIGN} {deviation:g}"


def verdict(found: Results, limit: float) -> list[str]:
    """Which methods end within the limit, and at which return; the first sentence is the headline."""
    shares = [(method, share_within(method.per_seed(results.final_cost), limit)) for method in found.methods]
    safe = [method.label for method, share in shares if share == 1]
    mixed = [f"{method.label} ({within(method, limit)})" for method, share in shares if 0 < share < 1]
    unsafe = [method.label for method, share in shares if share == 0]
    parts = [
        f"{', '.join(labels)} {what}"
        for labels, what in ((safe, "in every seed"), (mixed, "in some seeds"), (unsafe, "in none"))
        if labels
    ]
    return [
        f"Final training cost within the limit of {limit:g}: {'; '.join(parts)}.",
        *(
            f"{method.label}: return {estimate_text(method.estimate(results.final_return))}, cost "
            f"{estimate_text(method.estimate(results.final_cost))} after "
            f"{number_text(method.estimate(results.n_steps).point)} steps."
            for method in found.methods
        ),
        *caveats(found, all(len(method.runs) >= MIN_SEEDS for method in found.methods)),
    ]
