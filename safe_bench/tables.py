"""Tables of a report, and what was run: everything that is text or numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from safe_bench import results
from safe_bench.document import Block, Cell, Details, Heading, Paragraph, Table, number_text
from safe_bench.metrics import aggregate, share_within
from safe_bench.results import Episodes, MethodResults, Results
from safe_bench.runs import CRITIC
from safe_bench.verdict import Judgement, Measure

_OF_SUCCESSES = ("Success", "Eval success", "(S+1)", "Ratio")
SAFETY_COLUMNS = {"safety_steps": "Steps of safety data", "safety_violations": "Violations in them"}


def told_table(found: Results, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """The table, without its columns of successes where the environment knows none."""
    told = has_successes(found)
    keep = [i for i, name in enumerate(header) if told or not name.startswith(_OF_SUCCESSES)]
    return Table([header[i] for i in keep], [[row[i] for i in keep] for row in rows])


def has_successes(found: Results) -> bool:
    """Whether the environment knows success: some agent or baseline had one, while learning or evaluated."""
    return any(
        run.episodes["success"].any()
        or any(row["success_rate"] for row in run.evaluations)
        or any(any(part["successes"]) for part in run.evaluation.values())
        for run in found.runs
    )


def training_table(found: Results) -> Table:
    """What happened while learning, in the last stage."""
    header = ("Method", "Seeds", "Episodes", "Steps", "Successes", "Violations", "(S+1) / (V+1)", "Violation rate",
              "Final return", "Intervened, % of steps", "Seeds without violation")  # fmt: skip
    return told_table(found, header, [_training_row(method) for method in found.methods])


def _training_row(method: MethodResults) -> list[Cell]:
    return [
        method.label,
        str(len(method.runs)),
        amount(method, results.n_episodes),
        amount(method, results.n_steps),
        *(method.estimate(measure) for measure in (results.successes, results.violations, results.ratio)),
        method.training_rate("violation"),
        method.estimate(results.final_return),
        method.estimate(results.intervention_percent),
        f"{share_within(method.per_seed(results.violations), 0):.0%}",
    ]


def amount(method: MethodResults, measure: Callable[[Episodes], float]) -> Cell:
    """How much was run: a plain number where all seeds agree."""
    values = set(method.per_seed(measure))
    return number_text(*values) if len(values) == 1 else method.estimate(measure)


def evaluation_table(found: Results) -> Table:
    """Rates in evaluation episodes after learning, and wall time."""
    header = ("Method", "Evaluation episodes", "Success, deterministic", "Violation, deterministic",
              "Success, stochastic", "Violation, stochastic", "Wall time per run")  # fmt: skip
    return told_table(found, header, [_evaluation_row(method) for method in found.methods])


def _evaluation_row(method: MethodResults) -> list[Cell]:
    n = method.evaluation_rate("deterministic", "successes").n
    return [
        method.label,
        f"{n} + {method.evaluation_rate('stochastic', 'successes').n}",
        method.evaluation_rate("deterministic", "successes"),
        method.evaluation_rate("deterministic", "violations"),
        method.evaluation_rate("stochastic", "successes"),
        method.evaluation_rate("stochastic", "violations"),
        duration(method.wall_time / len(method.runs)).replace(" ", "\N{NO-BREAK SPACE}"),
    ]


def earlier_stages_table(found: Results) -> Table | None:
    """Violations in the stages before the last one, also in SQRL's safety data; None if there was only one stage."""
    columns = SAFETY_COLUMNS if found.have_safety_data else {}
    rows: list[list[Cell]] = [
        [method.label, stage["name"], method.estimate(results.n_episodes, stage["name"]),
         method.training_rate("violation", stage["name"]), method.estimate(results.violation_percent, stage["name"]),
         *(method.safety_data(what, stage) for what in columns)]
        for method in found.methods for stage in method.stages[:-1]
    ]  # fmt: skip
    header = ("Method", "Stage", "Episodes", "Violation rate, all episodes", "Violation rate over seeds, %",
              *columns.values())  # fmt: skip
    return Table(header, rows, words=(0, 1)) if rows else None


def safety_data_note(found: Results) -> str | None:
    """What the last columns of that table are; None without them."""
    if not found.have_safety_data:
        return None
    return (
        "Safety data: on-policy episodes that SQRL acts out for its safety critic, beside the training episodes. They "
        "are in no other number of this report; their violations are counted in steps, not in episodes. A dash: none, "
        "or a run from before they were counted."
    )


def critic_table(found: Results) -> Table | None:
    """What safety critics knew of the test environment before the first stage; None where nobody looked."""
    rows: list[list[Cell]] = []
    for method in found.methods:
        runs = [run.offline for run in method.runs if CRITIC in run.offline]
        if runs:
            data = [aggregate([run[what] for run in runs]) for what in ("transitions", "violations")]
            rows.append(
                [method.label, *data, *(_critic_cell(runs, what) for what in ("auc", "alarms", "false_alarms"))]
            )
    header = ("Method", "Transitions of the test environment", "Violations in them", "AUC", "Alarms, violating",
              "Alarms, others")  # fmt: skip
    return Table(header, rows) if rows else None


def _critic_cell(runs: Sequence[dict[str, Any]], what: str) -> Cell:
    known = [run[CRITIC][what] for run in runs if run[CRITIC][what] is not None]
    return aggregate(known) if known else "-"


def comparison_table(judged: Sequence[Judgement], measure: Measure) -> Table:
    """Effects, probabilities of improvement, and how to read them."""
    header = ("Method", "Against", measure.column, "Probability of improvement", "Reading")
    return Table(
        header,
        [[j.subject.label, j.other.label, j.comparison.effect, j.comparison.improvement, j.words] for j in judged],
        words=(0, 1, 4),
    )


def interval_note(found: Results) -> str:
    """What the numbers and intervals of the tables are."""
    kinds: dict[str, list[str]] = {}
    for method in found.methods:
        kinds.setdefault(method.estimate(results.ratio).kind, []).append(method.label)
    which = "; ".join(f"{kind}: {', '.join(labels)}" if len(kinds) > 1 else kind for kind, labels in kinds.items())
    numbers = f"Numbers per run are interquartile means over seeds (means, below four seeds); in brackets: {which}."
    if found.protocol.cost_limit is not None:
        return numbers
    return (
        f"{numbers} Rates count the episodes of all seeds together, with 95 % Wilson intervals over episodes: they "
        "describe these trained agents, and not how much other seeds would differ."
    )


def duration(seconds: float) -> str:
    """A wall time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ---------------------------------------------------------------------- what was run


def warnings_of(found: Results) -> list[str]:
    """What makes the runs hard to compare."""
    found_warnings = [
        _differing("presets", (run.config["preset"] for run in found.runs)),
        _differing("budgets", (json.dumps(run.config["budget"], sort_keys=True) for run in found.runs), show=False),
        _differing("commits", (str(run.summary.get("commit")) for run in found.runs)),
        _differing("package versions", (_versions(run.summary) for run in found.runs)),
        *(_differing(f"settings of {m.label}", (json.dumps(run.config["definition"], sort_keys=True) for run in m.runs),
                     show=False) for m in found.methods),
        _uncommitted(found),
        *_missing_seeds(found),
        *_unfinished(found),
    ]  # fmt: skip
    return [text for text in found_warnings if text]


def _differing(what: str, values: Iterable[str], show: bool = True) -> str:
    different = sorted(set(values))
    if len(different) < 2:
        return ""
    return f"The runs have different {what}" + (f": {'; '.join(different)}." if show else ".")


def _versions(summary: dict[str, Any]) -> str:
    versions = {**summary.get("versions", {}), "Python": summary.get("python", "unknown")}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _uncommitted(found: Results) -> str:
    dirty = sum(str(run.summary.get("commit")).endswith("-dirty") for run in found.runs)
    count = "All" if dirty == len(found.runs) else f"{dirty} of {len(found.runs)}"
    return f"{count} runs come from a working tree with uncommitted changes." if dirty else ""


def _missing_seeds(found: Results) -> list[str]:
    everywhere = {seed for method in found.methods for seed in method.seeds}
    missing = {method.label: sorted(everywhere - set(method.seeds)) for method in found.methods}
    return [
        f"{label} has no finished run of seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}, others have."
        for label, seeds in missing.items()
        if seeds
    ]


def _unfinished(found: Results) -> list[str]:
    folders = sorted(file.parent for file in (found.out / found.protocol.name).glob("*/seed-*/config.json"))
    names = [f"{path.parent.name} {path.name}" for path in folders if not (path / "summary.json").is_file()]
    return [f"Unfinished and left out: {', '.join(names)}."] if names else []


def provenance_blocks(found: Results) -> list[Block]:
    """What was run, from the runs themselves."""
    first, total = found.runs[0], sum(method.wall_time for method in found.methods)
    facts: list[list[Cell]] = [
        ["Protocol", found.protocol.name],
        ["Preset", ", ".join(sorted({run.config["preset"] for run in found.runs}))],
        *_stage_rows(first.config["budget"]["stages"]),
        ["Offline transitions", number_text(first.config["budget"]["offline_transitions"])],
        ["Critic pre-training updates", number_text(first.config["budget"]["pretrain_updates"])],
        ["Evaluation episodes per run", f"{first.config['budget']['eval_episodes']} deterministic, as many stochastic"],
        ["Runs", f"{len(found.runs)}, wall time in total {duration(total)}"],
        ["Commit", ", ".join(sorted({str(run.summary.get("commit")) for run in found.runs}))],
        ["Versions", _versions(first.summary)],
    ]
    rows: list[list[Cell]] = [[m.label, ", ".join(map(str, m.seeds)), duration(m.wall_time)] for m in found.methods]
    return [Table(("What", "Value"), facts, words=(0, 1)), Table(("Method", "Seeds", "Wall time"), rows, words=(0, 1))]


def _stage_rows(stages: Sequence[dict[str, Any]]) -> list[list[Cell]]:
    return [[f"Stage {stage['name']}", _stage_text(stage)] for stage in stages]


def _stage_text(stage: dict[str, Any]) -> str:
    amount = f"{stage['steps']:,} steps" if stage["steps"] is not None else f"{stage['episodes']:,} episodes"
    arguments = ", ".join(f"{key}={value}" for key, value in stage["env_kwargs"].items())
    return f"{stage['env_id']}{f' ({arguments})' if arguments else ''}, {amount}"


def configuration_blocks(found: Results) -> list[Block]:
    """The exact configuration of every method, folded away."""
    note = Paragraph("As the first seed of each method was run.", kind="note")
    configurations = [Details(m.label, json.dumps(m.config, indent=2, ensure_ascii=False)) for m in found.methods]
    return [Heading("Exact configuration"), note, *configurations]
