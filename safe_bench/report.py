"""The report of a protocol: Markdown with pictures beside it, one self-contained HTML page, a terminal table."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import rich.box
import rich.table
from matplotlib.figure import Figure
from rich.text import Text

from safe_bench import constrained, plots, plots_risk, results, tables
from safe_bench.document import (
    Block,
    Cell,
    Claim,
    Gallery,
    Heading,
    Paragraph,
    Picture,
    interval_text,
    point_text,
    to_html,
    to_markdown,
)
from safe_bench.results import MethodResults, Results
from safe_bench.runs import RunError
from safe_bench.verdict import (
    FINAL_RETURN,
    MEASURES,
    RATIO,
    Judgement,
    Measure,
    ablation_judgements,
    judgements,
    verdict,
)
from safe_wrappers.files import atomic_path, ensure_folder

SUMMARY = ("Successes", "Violations", "Ratio", "Return", "Eval success", "Eval violation")
LABEL_WIDTH = 13
CRITICS_NOTE = (
    "On recorded transitions of the test environment that no critic has seen (5,000 are asked for). AUC: how often, of "
    "one that violates and one that does not, the first has the higher risk. Alarms: shares of risks above the limit."
)
Drawing = tuple[str, Figure | None, str, str]
"""File name without suffix, figure (None: no data for it), alternative text, caption."""


def write_report(out: str | Path, protocol_name: str, folder: str | Path | None = None) -> Path:
    """Write ``report.md`` with its pictures, and ``report.html``, which needs no other file.

    Args:
        out: where the runs are.
        protocol_name: of which protocol.
        folder: where the report goes; ``<out>/<protocol>/report`` if None.

    Returns:
        The folder.

    Raises:
        ValueError: if there is no such protocol.
        RunError: if there is no finished run, one is damaged, or the report cannot be written.
    """
    found = Results.read(out, protocol_name)
    target = Path(folder) if folder is not None else found.out / protocol_name / "report"
    try:
        ensure_folder(target)
        blocks = _blocks(found, target)
        _write(target / "report.md", to_markdown(blocks).encode())
        _write(target / "report.html", to_html(blocks, found.protocol.title, target).encode())
    except OSError as error:
        raise RunError(
            f"cannot write the report to {target}: {error.strerror or error}; choose another folder"
        ) from error
    return target


def summary_table(out: str | Path, protocol_name: str) -> rich.table.Table:
    """The main numbers of all finished runs, for a terminal.

    Args:
        out: where the runs are.
        protocol_name: of which protocol.

    Raises:
        ValueError: if there is no such protocol.
        RunError: if there is no finished run, or one is damaged.
    """
    found = Results.read(out, protocol_name)
    table = rich.table.Table(  # narrow enough for 80 columns
        title=found.protocol.title, caption=_summary_caption(found), caption_justify="left",
        box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("Method", no_wrap=True)
    limit = found.protocol.cost_limit
    numbers = tables.told_table(
        found, SUMMARY if limit is None else constrained.summary_header(found),
        [_summary_row(m) if limit is None else constrained.summary_row(found, m, limit) for m in found.methods],
    )  # fmt: skip
    for name in numbers.header:
        table.add_column(name, justify="right", no_wrap=name in SUMMARY[:2])
    for method, row in zip(found.methods, numbers.rows, strict=True):
        n_seeds = f"{len(method.runs)} seed{'s' if len(method.runs) > 1 else ''}"
        label = Text.assemble(textwrap.fill(method.label, LABEL_WIDTH), "\n", (n_seeds, "dim"))
        table.add_row(label, *map(_terminal_cell, row))
    return table


def _summary_row(method: MethodResults) -> list[Cell]:
    """What ``SUMMARY`` names; intervals of all of them would not fit into 80 columns."""
    return [
        point_text(method.estimate(results.successes)),
        point_text(method.estimate(results.violations)),
        method.estimate(results.ratio),
        point_text(method.estimate(results.final_return)),
        method.evaluation_rate("deterministic", "successes"),
        method.evaluation_rate("deterministic", "violations"),
    ]


def _terminal_cell(cell: Cell) -> Text:
    if isinstance(cell, str):
        return Text(cell)
    return Text.assemble(point_text(cell), "\n", (interval_text(cell), "dim"))


def _summary_caption(found: Results) -> str:
    stage, limit = found.stages[-1]["name"], found.protocol.cost_limit
    final = f"the last 20 % of the episodes; in brackets {_kinds(found)}."
    if found.protocol.deployed:
        return f"Deterministic evaluation after {stage}: interquartile mean over seeds; in brackets {_kinds(found)}."
    if limit is not None:
        return (
            f"Training ({stage}) and deterministic evaluation: interquartile mean over seeds; final: of {final} "
            f"Limit of the cost: {limit:g}."
        )
    counts = sorted({method.evaluation_rate("deterministic", "successes").n for method in found.methods})
    ratio = "ratio = (successes + 1) / (violations + 1); " if tables.has_successes(found) else ""
    return (
        f"Training ({stage}): interquartile mean over seeds; {ratio}return of {final} Evaluation: "
        f"rates in {' or '.join(map(str, counts))} deterministic episodes with 95 % Wilson intervals."
    )


def _kinds(found: Results) -> str:
    return " or ".join(sorted({method.estimate(results.ratio).kind for method in found.methods}))


# ---------------------------------------------------------------------- contents


def _blocks(found: Results, folder: Path) -> list[Block]:
    """The whole report; pictures are written to the folder."""
    return [
        Heading(found.protocol.title, 1),
        Paragraph(found.protocol.paper, "note"),
        Paragraph(f"The claim: {found.protocol.claim}"),
        Claim(_verdict(found)),
        *(Paragraph(text, "warning") for text in tables.warnings_of(found)),
        *_number_blocks(found),
        *_comparison_blocks(found),
        *_picture_blocks(found, folder),
        *_episode_blocks(found, folder),
        Heading("What was run"),
        *tables.provenance_blocks(found),
        *tables.configuration_blocks(found),
    ]


def _verdict(found: Results) -> list[str]:
    limit = found.protocol.cost_limit
    return verdict(found) if limit is None else constrained.verdict(found, limit)


def _number_blocks(found: Results) -> list[Block]:
    limit = found.protocol.cost_limit
    return _outcome_blocks(found) if limit is None else _constrained_blocks(found, limit)


def _constrained_blocks(found: Results, limit: float) -> list[Block]:
    published, before = constrained.published_table(found), constrained.zero_shot_table(found)
    milestones = constrained.milestone_table(found, limit)
    blocks: list[Block] = [] if before is None else [Heading("Before learning here (zero-shot)"), before]
    blocks += [
        Heading("While learning"),
        constrained.training_table(found, limit),
        Paragraph(f"Final: last 20 % of the training episodes. {tables.interval_note(found)}", "note"),
        Heading("Evaluation after learning"),
        constrained.evaluation_table(found, limit),
    ]
    if milestones is not None:
        note = (
            f"Time steps until the first evaluation within the cost limit of {limit:g} that has at least so much, per "
            f"seed; evaluations have {_rounds(found)} episodes each, so that chance has its part in the first."
        )
        blocks += [Heading("Interactions needed"), milestones, Paragraph(note, "note")]
    return [*blocks, Heading("Beside published figures"), published] if published else blocks


def _rounds(found: Results) -> str:
    return " or ".join(sorted({str(run.evaluations[0]["episodes"]) for run in found.runs if run.evaluations}))


def _outcome_blocks(found: Results) -> list[Block]:
    stage, earlier = found.stages[-1]["name"], tables.earlier_stages_table(found)
    critics = tables.critic_table(found)
    blocks: list[Block] = []
    if critics is not None:
        blocks += [Heading("Safety critics before learning"), critics, Paragraph(CRITICS_NOTE, "note")]
    blocks += [
        Heading(f"While learning (stage {stage})" if earlier else "While learning"),
        tables.training_table(found),
        Paragraph(f"Final return: last 20 % of the training episodes. {tables.interval_note(found)}", "note"),
        Heading("Evaluation after learning"),
        tables.evaluation_table(found),
        Paragraph(
            "Evaluation episodes are deterministic + stochastic, over all seeds; the rates have 95 % Wilson intervals "
            "over these episodes.",
            "note",
        ),
    ]
    if earlier is not None:
        note = tables.safety_data_note(found)
        blocks += [Heading("Violations in the earlier stages"), earlier, *([Paragraph(note, "note")] if note else [])]
    return blocks


def _comparison_blocks(found: Results) -> list[Block]:
    measures = [MEASURES[found.protocol.measure]] if found.protocol.measure else []
    if found.protocol.cost_limit is None and not measures:
        measures.append(RATIO)
    if found.protocol.compare_returns:
        measures.append(FINAL_RETURN)
    return [
        block
        for title, judge_all in (
            ("Against the other methods", judgements),
            ("Against the ablations", ablation_judgements),
        )
        for measure in measures
        for block in _judgement_blocks(f"{title}: {measure.name}", judge_all(found, measure), measure)
    ]


def _judgement_blocks(title: str, judged: Sequence[Judgement], measure: Measure) -> list[Block]:
    if not judged:
        return []
    intervals = ", ".join(sorted({judgement.comparison.effect.kind for judgement in judged}))
    paired = judged[0].comparison.paired
    which = "the same seed" if paired else "a random seed"
    note = (
        f"In brackets: {intervals}. Probability of improvement: that a random seed of the first method is better than "
        f"{which} of the second." + (" A seed draws the environment that all methods learn in." if paired else "")
    )
    return [Heading(title), tables.comparison_table(judged, measure), Paragraph(note, "note")]


def _picture_blocks(found: Results, folder: Path) -> list[Block]:
    blocks: list[Block] = [Heading("Plots")]
    for file, figure, alt, caption in _drawings(found):
        if figure is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.08)
            _write(folder / f"{file}.png", buffer.getvalue())
            blocks.append(Picture(f"{file}.png", alt, caption))
    return blocks


def _drawings(found: Results) -> list[Drawing]:
    final = (
        "final", plots.final_numbers(found, found.methods), "final numbers of every method",
        "At the end of learning: interquartile mean (large), interval (bar), every seed (dots).",
    )  # fmt: skip
    groups = _groups(found)
    training = [drawing for suffix, methods in groups for drawing in _training_drawings(found, methods, suffix)]
    return [final, *training, *(drawing for suffix, m in groups for drawing in _risk_drawings(found, m, suffix))]


def _training_drawings(found: Results, methods: Sequence[MethodResults], suffix: str) -> list[Drawing]:
    bands = "Lines are interquartile means over seeds, bands their intervals (see the tables)."
    if found.protocol.deployed:
        return [
            (f"learning{suffix}", plots.evaluation_curves(found, methods), "evaluations while learning",
             f"Deterministic evaluations of the agents while they learn; dotted: their baselines. {bands}"),
            (f"training{suffix}", plots.learning_curves(found, methods), "return and cost of the training itself",
             f"What the training itself earned, and cost until then (the regret). {bands}"),
            (f"corrections{suffix}", plots.corrections(found, methods), "what decides how far agents are corrected",
             f"Means since the last checkpoint; the multiplier rises while Q_I is below Gamma (dotted). {bands}"),
        ]  # fmt: skip
    learning = (f"learning{suffix}", plots.learning_curves(found, methods), "learning curves", bands)
    if found.protocol.cost_limit is not None:
        return [learning]
    return [
        learning,
        (f"failures{suffix}", plots.failure_rates(found, methods), "violation rate while learning",
         f"Share of the last {_windows(found)} episodes with a violation. {bands}"),
    ]  # fmt: skip


def _risk_drawings(found: Results, methods: Sequence[MethodResults], suffix: str) -> list[Drawing]:
    return [
        (f"maps{suffix}", plots_risk.risk_maps(found, methods), "map of the predicted risk with trajectories",
         "Deterministic episodes of the first seed; shading: predicted risk of the task policy's action at each place "
         "(white panels: the method has no risk critic)."),
        (f"calibration{suffix}", plots_risk.calibration(found, methods), "calibration of the risk critics",
         plots_risk.calibration_caption(methods)),
        (f"episode{suffix}", plots_risk.risk_along_episode(found, methods), "predicted risk along an episode",
         "Predicted risk of the task policy's action in the episode of the first seed that has most interventions."),
    ]  # fmt: skip


def _groups(found: Results) -> list[tuple[str, Sequence[MethodResults]]]:
    """Which methods share a plot of curves: those compared, and the ablations with what they are variants of."""
    if not found.ablations:
        return [("", found.comparisons)]
    bases = {base.name for base in map(found.base_of, found.ablations) if base is not None}
    variants = [method for method in found.methods if method.is_ablation or method.name in bases]
    return [("", found.comparisons), ("-ablations", variants)] if found.comparisons else [("-ablations", variants)]


def _windows(found: Results) -> str:
    windows = {stage["name"]: found.window(stage["name"]) for stage in found.stages}
    if len(windows) == 1:
        return str(*windows.values())
    return " or ".join(f"{window} ({name})" for name, window in windows.items())


def _episode_blocks(found: Results, folder: Path) -> list[Block]:
    """An animation per method, and of its baseline if it has one, where they were kept."""
    pictures = []
    for method in found.methods:
        for name, who in (("episode", method.label), ("baseline", f"{method.label}: its baseline")):
            run = next((run for run in method.runs if (run.path / f"{name}.gif").is_file()), None)
            if run is not None:
                file = f"{name}-{method.name}.gif"
                _write(folder / file, (run.path / f"{name}.gif").read_bytes())
                pictures.append(Picture(file, f"an episode of {who}", f"{who}, seed {run.seed}"))
    return [Heading("Episodes"), Gallery(pictures)] if pictures else []


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
