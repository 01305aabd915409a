"""Plots of training: learning curves, final numbers, failure rates. All take results and return a figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from safe_bench import constrained, metrics, results
from safe_bench.results import EpisodeCurve, MethodResults, Results
from safe_bench.tables import has_successes

# Okabe and Ito's colour-blind-safe palette, without its yellow, which is too light for lines on white.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00")
RC = {
    "font.size": 9.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e6e9ed", "grid.linewidth": 0.8, "axes.edgecolor": "#8a929c", "xtick.color": "#4a525c",
    "ytick.color": "#4a525c", "legend.frameon": False, "lines.solid_capstyle": "round",
}  # fmt: skip
DPI = 130
MAX_LINEAR_SPAN = 20.0
"""Positive data that span a larger factor get a logarithmic axis."""


@dataclass(frozen=True)
class Style:
    """How a method looks in every plot."""

    colour: str
    dash: str
    marker: str


def styles(found: Results) -> dict[str, Style]:
    """A style per method, fixed by its place in the protocol, so that it does not depend on what was run."""
    known = found.protocol.methods
    order = [[name for name, m in known.items() if m.group == group] for group in ("comparison", "ablation")]
    order[1] += [method.name for method in found.methods if method.name not in known]
    n = len(PALETTE)
    solid = {name: Style(PALETTE[i % n], "-" if i < n else "-.", "o") for i, name in enumerate(order[0])}
    # Variants begin after black and are dashed: no variant looks like a compared method.
    return solid | {name: Style(PALETTE[1 + i % (n - 1)], "--", "s") for i, name in enumerate(order[1])}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in the common style, without any global state."""
    with rc_context(RC):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        return figure


def subplots(figure: Figure, rows: int, columns: int, **kwargs: Any) -> list[Axes]:
    """Its axes in the common style, row by row."""
    with rc_context(RC):
        return list(figure.subplots(rows, columns, squeeze=False, **kwargs).ravel())


def set_title(axes: Axes, text: str, size: float = 10.5, width: int = 60) -> None:
    """A title at the left, wrapped after ``width`` characters."""
    axes.set_title(textwrap.fill(text, width), loc="left", fontsize=size, fontweight="bold")


def legend_below(figure: Figure, handles: Sequence[Any], columns: int = 4) -> None:
    """A legend under all axes."""
    figure.legend(handles=list(handles), loc="outside lower center", ncols=min(columns, len(handles)), frameon=False)


# ---------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Panel:
    """One curve plot: its title, what it shows of a run's episodes, and what may be drawn with it."""

    title: str
    measure: EpisodeCurve
    may_be_log: bool = False
    limit: float | None = None


def learning_curves(found: Results, methods: Sequence[MethodResults]) -> Figure:
    """What the protocol is about, while learning the last stage, with bands over seeds."""
    stage = found.stages[-1]["name"]
    panels = _panels(found, found.window(stage))
    figure = new_figure(9.2, 3.2 * len(panels) / 2)
    for axes, panel in zip(subplots(figure, len(panels) // 2, 2), panels, strict=True):
        set_title(axes, panel.title)
        _draw_curves(axes, found, methods, panel.measure, stage)
        if panel.may_be_log:
            _log_if_wide(axes)
        if panel.limit is not None:
            _draw_limit(axes, panel.limit, "y")
    legend_below(figure, _handles(found, methods))
    return figure


def _panels(found: Results, window: int) -> list[Panel]:
    mean = f"mean of {window} episodes"
    episode_return = Panel(f"Return, {mean}", lambda e: metrics.trailing_mean(e["return"], window))
    limit = found.protocol.cost_limit
    if found.protocol.deployed:
        return [episode_return, Panel("Cost of training so far", lambda e: np.cumsum(e["cost"]), may_be_log=True)]
    if limit is not None:
        title = f"Cost, {mean} (dotted: the limit {limit:g})"
        return [episode_return, Panel(title, lambda e: metrics.trailing_mean(e["cost"], window), limit=limit)]
    violations = Panel("Violations so far", lambda episodes: np.cumsum(episodes["violation"]))
    if not has_successes(found):
        return [violations, episode_return]
    return [
        Panel("Successes so far", lambda episodes: np.cumsum(episodes["success"])),
        violations,
        Panel("Ratio (S + 1) / (V + 1)", lambda e: metrics.ratio_curve(e["success"], e["violation"]), may_be_log=True),
        episode_return,
    ]


def evaluation_curves(found: Results, methods: Sequence[MethodResults]) -> Figure | None:
    """Evaluations of agents (solid) and of their baselines (dotted) while learning; None if there are none.

    What does not learn was evaluated once, and is a level line.
    """
    panels = [("Return", "return"), ("Cost of an episode", "cost")]
    if has_successes(found):
        panels.append(("Success rate", "success_rate"))
    look, drawn, with_baseline = styles(found), [], False
    figure = new_figure(9.2, 3.6)
    for axes, (title, what) in zip(subplots(figure, 1, len(panels)), panels, strict=True):
        set_title(axes, title, width=30)
        for method in methods:
            for agent, dash in (("agent", look[method.name].dash), ("baseline", ":")):
                band = method.evaluation_curve(agent, what)
                if band is not None:
                    drawn.append(method)
                    with_baseline |= agent == "baseline"
                    _draw_evaluations(axes, band, look[method.name].colour, dash)
        axes.set_xlabel("time steps")
        axes.xaxis.set_major_formatter(_thousands)
        if what == "cost" and found.protocol.cost_limit is not None:
            _draw_limit(axes, found.protocol.cost_limit, "y")
    handles = _handles(found, [method for method in methods if method in drawn])
    if with_baseline:
        handles.append(Line2D([], [], color="#8a929c", linestyle=":", linewidth=2, label="its baseline"))
    legend_below(figure, handles)
    return figure if drawn else None


def corrections(found: Results, methods: Sequence[MethodResults]) -> Figure | None:
    """How safe agents keep to their limit while learning: multiplier, Q_I over Gamma, distance from the baseline."""
    panels = [
        ("Multiplier", "safety/multiplier", None),
        (r"$Q_I$ of the agent / $\Gamma$", "safety/value", "safety/required_value"),
        ("Squared distance from the baseline", "safety/imitation_loss", None),
    ]
    correcting = [method for method in methods if method.logged_curve("safety/imitation_loss") is not None]
    if not correcting:
        return None
    look = styles(found)
    figure = new_figure(9.2, 3.6)
    for axes, (title, name, over) in zip(subplots(figure, 1, len(panels)), panels, strict=True):
        set_title(axes, title, width=40)
        for method in correcting:
            band = method.logged_curve(name, over)
            assert band is not None
            _draw_evaluations(axes, band, look[method.name].colour, look[method.name].dash)
        axes.set_xlabel("time steps")
        axes.xaxis.set_major_formatter(_thousands)
        if over is not None:
            _draw_limit(axes, 1.0, "y")
    legend_below(figure, _handles(found, correcting))
    return figure


def _draw_evaluations(axes: Axes, band: metrics.Band, colour: str, dash: str) -> None:
    if len(band.x) == 1:
        axes.axhline(band.point[0], color=colour, linestyle=dash, linewidth=1.4)
        return
    axes.plot(band.x, band.point, color=colour, linestyle=dash, linewidth=1.7)
    axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.11, linewidth=0)


def failure_rates(found: Results, methods: Sequence[MethodResults]) -> Figure:
    """Share of episodes with a violation while learning, one panel per stage."""
    stages = [stage["name"] for stage in found.stages]
    figure = new_figure(9.2, 3.9)
    for axes, stage in zip(subplots(figure, 1, len(stages), sharey=True), stages, strict=True):
        window = found.window(stage)
        set_title(axes, f"Violation rate, {stage}")
        _draw_curves(axes, found, methods, partial(_violation_rate, window=window), stage)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    legend_below(figure, _handles(found, methods))
    return figure


def _violation_rate(episodes: results.Episodes, window: int) -> metrics.FloatArray:
    return metrics.trailing_mean(episodes["violation"], window)


def _draw_curves(
    axes: Axes, found: Results, methods: Sequence[MethodResults], measure: EpisodeCurve, stage: str
) -> None:
    look, in_stage = styles(found), {method.name for method in found.having(stage)}
    for method in methods:
        band = method.curve(measure, stage) if method.name in in_stage else None
        if band is None:
            continue
        style = look[method.name]
        axes.plot(band.x, band.point, color=style.colour, linestyle=style.dash, linewidth=1.7)
        axes.fill_between(band.x, band.low, band.high, color=style.colour, alpha=0.11, linewidth=0)
        axes.set_xlabel(
            f"{method.axis(stage)}s in stage {stage}" if len(found.stages) > 1 else f"{method.axis(stage)}s"
        )
    axes.margins(x=0.01)
    axes.xaxis.set_major_formatter(_thousands)


def _handles(found: Results, methods: Sequence[MethodResults]) -> list[Line2D]:
    look = styles(found)
    return [
        Line2D([], [], color=look[m.name].colour, linestyle=look[m.name].dash, linewidth=2, label=m.label)
        for m in methods
    ]


def _thousands(value: float, _: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _draw_limit(axes: Axes, limit: float, axis: str) -> None:
    """A dotted line at the limit; where costs reach far above it, the axis is logarithmic above twice the limit."""
    highest = getattr(axes.dataLim, f"{axis}1")
    if limit > 0 and highest > MAX_LINEAR_SPAN / 2 * limit:
        getattr(axes, f"set_{axis}scale")("symlog", linthresh=2 * limit, linscale=1.5)
        ticks = [0, limit, *(value for value in (100, 300, 1000, 3000, 10_000) if 2 * limit < value < 2 * highest)]
        scale = getattr(axes, f"{axis}axis")
        scale.set_major_locator(FixedLocator(ticks))
        scale.set_major_formatter(lambda value, _: f"{value:g}")
        scale.set_minor_locator(NullLocator())
    (axes.axhline if axis == "y" else axes.axvline)(limit, color="#4a525c", linewidth=1.2, linestyle=":")


def _log_if_wide(axes: Axes, axis: str = "y") -> bool:
    """A logarithmic axis where positive data span a large factor, labelled with plain numbers; whether it is one."""
    low, high = getattr(axes.dataLim, f"{axis}0"), getattr(axes.dataLim, f"{axis}1")
    if not 0 < low < math.inf or high / low <= MAX_LINEAR_SPAN:  # infinite: nothing was drawn
        return False
    getattr(axes, f"set_{axis}scale")("log")
    getattr(axes, f"{axis}axis").set_major_formatter(lambda value, _: f"{value:g}")
    return True


# ---------------------------------------------------------------------- final numbers


def final_numbers(found: Results, methods: Sequence[MethodResults]) -> Figure:
    """The final numbers that the protocol is about: interval, interquartile mean, and every seed as a dot."""
    limit = found.protocol.cost_limit
    panels = _final_panels(found)
    figure = new_figure(9.2, 1.1 + 0.36 * len(methods))
    every_axes = subplots(figure, 1, len(panels), sharey=True)
    for axes, (title, measure) in zip(every_axes, panels, strict=True):
        is_log = _draw_points(axes, found, methods, measure, title == "Ratio")
        set_title(axes, f"{title} (log scale)" if is_log else title)
        if limit is not None and title.endswith("cost"):
            _draw_limit(axes, limit, "x")
    every_axes[0].set_yticks(range(len(methods)), [method.label for method in methods])
    every_axes[0].set_ylim(len(methods) - 0.4, -0.6)
    return figure


def _final_panels(found: Results) -> list[tuple[str, Callable[[MethodResults], metrics.Estimate]]]:
    if found.protocol.cost_limit is None:
        counts = [("Successes", results.successes), ("Violations", results.violations), ("Ratio", results.ratio)]
        if not has_successes(found):
            counts = [("Violations", results.violations), ("Final return", results.final_return)]
        return [(title, methodcaller("estimate", measure)) for title, measure in counts]
    kind = "Deployed agent's" if found.protocol.deployed else "Final"
    return [(f"{kind} {what}", partial(constrained.outcome_estimate, found, what=what)) for what in ("return", "cost")]


def _draw_points(axes: Axes, found: Results, methods: Sequence[MethodResults], measure: Any, may_be_log: bool) -> bool:
    """Draw one panel; returns whether its axis is logarithmic."""
    look = styles(found)
    for row, method in enumerate(methods):
        estimate, style = measure(method), look[method.name]
        if math.isnan(estimate.point):
            continue
        axes.plot([estimate.low, estimate.high], [row, row], color=style.colour, linewidth=5, alpha=0.35)
        offsets = row + np.linspace(-0.22, 0.22, len(estimate.values)) if len(estimate.values) > 1 else [row]
        axes.plot(estimate.values, offsets, ".", color=style.colour, markersize=5, alpha=0.8)
        axes.plot(estimate.point, row, style.marker, color=style.colour, markersize=7.5, markeredgecolor="white")
    axes.grid(axis="y", visible=False)
    is_log = may_be_log and _log_if_wide(axes, "x")
    if not is_log:
        low, high = axes.get_xlim()
        axes.set_xlim(min(0.0, low), high + 0.04 * (high - min(0.0, low)))
    return is_log
