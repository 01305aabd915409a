"""Plots of what a risk critic knows: its map with trajectories on it, its calibration, its risk along an episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from matplotlib.patches import Rectangle as Box

import safe_envs  # noqa: F401  registers the environments
from safe_bench import metrics
from safe_bench.document import estimate_text
from safe_bench.figures import N_BINS, scene_of
from safe_bench.plots import legend_below, new_figure, set_title, styles, subplots
from safe_bench.protocols import Stage
from safe_bench.results import MethodResults, Results
from safe_wrappers.info import INTERVENED

# From white to a dark violet: lightness alone carries the risk, and blue and orange stand out on it.
RISK_COLOURS = LinearSegmentedColormap.from_list("risk", ["#ffffff", "#e9dff2", "#b89ad0", "#74509c", "#35184f"])
TASK, RECOVERY, GOAL, OBSTACLE = "#0072B2", "#E69F00", "#009E73", "#1d2430"
LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
WIDE = 1.8
"""Scenes that are wider than this, relative to their height, are drawn two in a row instead of three."""


def risk_maps(found: Results, methods: Sequence[MethodResults]) -> Figure | None:
    """The plane with the predicted risk, where known, and deterministic trajectories, one panel per method.

    None if no method kept data for it, or the environment is not planar.
    """
    shown = [method for method in methods if method.with_figures("trajectories")]
    scene = planar_scene(found.stages[-1]) if shown else None
    if scene is None:
        return None
    extent = scene.extent
    columns = min(2 if extent.width > WIDE * extent.height else 3, len(shown))
    rows = -(-len(shown) // columns)
    panel = 9.2 / max(columns, 2)
    figure = new_figure(9.2, rows * (0.88 * panel * extent.height / extent.width + 0.4) + 0.7)
    figure.set_layout_engine("compressed")  # the layout for axes of a fixed aspect
    every_axes = subplots(figure, rows, columns, sharex=True, sharey=True)
    images = [_draw_map(axes, method, scene) for axes, method in zip(every_axes, shown, strict=False)]
    for axes in every_axes[len(shown) :]:
        axes.set_visible(False)
    image = next((image for image in images if image is not None), None)
    if image is not None:
        figure.colorbar(
            image, ax=every_axes, label="predicted risk", shrink=min(1.0, 2 / rows), fraction=0.03, aspect=30
        )
    legend_below(figure, _map_legend(image is not None), columns=6)
    return figure


def planar_scene(stage: dict[str, Any]) -> Any | None:
    """The scene of a stage's environment, or None if it has none or is not installed here."""
    try:
        return scene_of(Stage(**stage))
    except (AttributeError, TypeError, gym.error.Error):
        return None


def _draw_map(axes: Axes, method: MethodResults, scene: Any) -> Any | None:
    """Draw one panel; returns the heat map, if there is one."""
    run = method.with_figures("trajectories")
    assert run is not None
    figures = run.figures or {}
    set_title(axes, method.label, 9, 34)
    axes.grid(visible=False)
    image = _draw_risk(axes, figures["risk_map"], method.eps_risk) if figures.get("risk_map") else None
    _draw_scene(axes, scene)
    for trajectory in figures["trajectories"]:
        _draw_trajectory(axes, trajectory)
    axes.set_xlim(scene.extent.x_min, scene.extent.x_max)
    axes.set_ylim(scene.extent.y_min, scene.extent.y_max)
    axes.set_aspect("equal")
    return image


def _draw_risk(axes: Axes, risk_map: dict[str, Any], eps_risk: float | None) -> Any:
    risk, (x_min, x_max, y_min, y_max) = np.array(risk_map["risk"]), risk_map["extent"]
    rows, columns = risk.shape
    # The values are at grid points that include the border: half a cell more makes them centres of pixels.
    dx, dy = (x_max - x_min) / (columns - 1) / 2, (y_max - y_min) / (rows - 1) / 2
    image = axes.imshow(
        risk, origin="lower", extent=(x_min - dx, x_max + dx, y_min - dy, y_max + dy), cmap=RISK_COLOURS,
        vmin=0, vmax=1, interpolation="bilinear", aspect="equal",
    )  # fmt: skip
    if eps_risk is not None and risk.min() < eps_risk < risk.max():
        x, y = np.linspace(x_min, x_max, columns), np.linspace(y_min, y_max, rows)
        axes.contour(x, y, risk, [eps_risk], colors="#6b6b6b", linewidths=1, linestyles="dashed")
    return image


def _draw_scene(axes: Axes, scene: Any) -> None:
    for part in scene.obstacles:
        corner, size = (part.x_min, part.y_min), (part.width, part.height)
        axes.add_patch(Box(corner, *size, fill=False, edgecolor=OBSTACLE, hatch="////", linewidth=0, alpha=0.25))
        axes.add_patch(Box(corner, *size, fill=False, edgecolor=OBSTACLE, linewidth=1.2))
    axes.add_patch(Circle(scene.goal, scene.goal_radius, fill=False, edgecolor=GOAL, linewidth=2))
    axes.plot(*scene.start, "+", color=OBSTACLE, markersize=8)


def _draw_trajectory(axes: Axes, trajectory: dict[str, Any]) -> None:
    points = np.array(trajectory["points"])
    axes.plot(points[:, 0], points[:, 1], color="white", linewidth=2.6, alpha=0.8)
    axes.plot(points[:, 0], points[:, 1], color=TASK, linewidth=1.2)
    replaced = points[:-1][np.array(trajectory[INTERVENED], dtype=bool)]
    axes.plot(
        replaced[:, 0],
        replaced[:, 1],
        "o",
        color=RECOVERY,
        markeredgecolor="black",
        markeredgewidth=0.3,
        markersize=2.8,
    )
    _draw_end(axes, points[-1, 0], points[-1, 1], trajectory)


def _draw_end(axes: Axes, x: float, y: float, trajectory: dict[str, Any]) -> None:
    if trajectory["violation"]:
        axes.plot(x, y, "X", color="black", markeredgecolor="white", markersize=8)
    elif trajectory["success"]:
        axes.plot(x, y, "*", color=GOAL, markeredgecolor="white", markersize=11)


def _end_legend() -> list[Line2D]:
    return [
        Line2D(
            [], [], marker="X", linestyle="", color="black", markeredgecolor="white", markersize=9, label="violation"
        ),
        Line2D([], [], marker="*", linestyle="", color=GOAL, markeredgecolor="white", markersize=12, label="success"),
    ]


def _replaced_handle() -> Line2D:
    return Line2D([], [], marker="o", linestyle="", color=RECOVERY, markeredgecolor="black", label="action replaced")


def _map_legend(with_risk: bool) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color=TASK, linewidth=2, label="trajectory"),
        _replaced_handle(),
        *_end_legend(),
        Patch(fill=False, edgecolor=OBSTACLE, hatch="////", label="obstacle"),
    ]
    threshold = Line2D([], [], color="#6b6b6b", linestyle="--", label="risk = eps_risk")
    return [*handles, threshold] if with_risk else handles


# ---------------------------------------------------------------------- calibration


def calibration(found: Results, methods: Sequence[MethodResults]) -> Figure | None:
    """Reliability diagrams: predicted risk against what happened, with the number of steps in each bin."""
    shown = [method for method in methods if method.with_figures("calibration")]
    if not shown:
        return None
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(2.4 * max(columns, 2) + 0.4, 3.1 * rows)
    with_space = {"height_ratios": [3, 1] * rows}
    every_axes = subplots(figure, 2 * rows, columns, sharex=True, gridspec_kw=with_space)
    for place in range(rows * columns):
        top = 2 * columns * (place // columns) + place % columns
        pair = every_axes[top], every_axes[top + columns]
        if place < len(shown):
            _draw_calibration(*pair, shown[place], styles(found)[shown[place].name].colour, place % columns == 0)
        else:
            for axes in pair:
                axes.set_visible(False)
    return figure


def calibration_caption(methods: Sequence[MethodResults]) -> str:
    """What the diagrams show: under which policy, and from where. Older runs know the task policy and start only."""
    parts = [(method.label, part) for method in methods for part in _calibrations(method)]
    filtered = dict.fromkeys(label for label, part in parts if part.get("filtered"))
    spread = [bool(part.get("spread_starts")) for _, part in parts]
    policy = (
        f"unfiltered task policy ({', '.join(filtered)}: the filtered policy)" if filtered else "unfiltered task policy"
    )
    starts = f" In {'all' if all(spread) else 'some'} runs every second episode starts anywhere in the plane."
    return (
        f"Predicted risk against the discounted frequency of violations under the {policy}, over all seeds (thin: each "
        f"of them); below: number of steps. ECE: expected calibration error.{starts if any(spread) else ''}"
    )


def _draw_calibration(curve: Axes, counts: Axes, method: MethodResults, colour: str, leftmost: bool) -> None:
    parts = _calibrations(method)
    n, predicted, observed = pooled_bins(parts)
    error = metrics.aggregate([part["expected_calibration_error"] for part in parts])
    set_title(curve, method.label, 9, 26)
    curve.text(
        0.03, 0.97, f"ECE {estimate_text(error)}", transform=curve.transAxes, va="top", fontsize=8, bbox=LABEL_BOX
    )
    curve.plot([0, 1], [0, 1], color="#9aa3ad", linewidth=1, linestyle=":")
    for part in parts if len(parts) > 1 else []:
        curve.plot(*_bin_means(part), color=colour, linewidth=0.8, alpha=0.35)
    curve.plot(predicted, observed, "o-", color=colour, markersize=4.5, markeredgecolor="white", linewidth=1.6)
    curve.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    counts.bar(predicted, n, width=0.07, color=colour, alpha=0.6)
    counts.set_yscale("log")
    counts.set_ylim(bottom=0.7)
    counts.set_xlabel("predicted risk")
    if leftmost:
        curve.set_ylabel("observed")
        counts.set_ylabel("steps")


def _calibrations(method: MethodResults) -> list[dict[str, Any]]:
    return [run.figures["calibration"] for run in method.runs if run.figures and run.figures.get("calibration")]


def _bin_means(part: dict[str, Any]) -> tuple[list[float], list[float]]:
    return [row["predicted"] for row in part["bins"]], [row["observed"] for row in part["bins"]]


def pooled_bins(parts: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean prediction and mean outcome of each bin that is not empty, over all seeds, ``[n_bins]`` each."""
    rows = np.array([(row["n"], row["predicted"], row["observed"]) for part in parts for row in part["bins"]])
    bins = np.clip((rows[:, 1] * N_BINS).astype(int), 0, N_BINS - 1)
    pooled = []
    for chosen in (rows[bins == place] for place in np.unique(bins)):
        pooled.append((chosen[:, 0].sum(), *np.average(chosen[:, 1:], axis=0, weights=chosen[:, 0])))
    n, predicted, observed = np.array(pooled).T
    return n, predicted, observed


# ---------------------------------------------------------------------- one episode


def risk_along_episode(found: Results, methods: Sequence[MethodResults]) -> Figure | None:
    """Predicted risk of the task policy's action along one episode, the threshold, and where the filter intervened."""
    shown = [method for method in methods if _episode(method) is not None]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(9.2, 2.1 * rows + 0.6)
    every_axes = subplots(figure, rows, columns, sharey=True)
    for axes, method in zip(every_axes, shown, strict=False):
        _draw_episode(axes, method, styles(found)[method.name].colour)
    for axes in every_axes[len(shown) :]:
        axes.set_visible(False)
    for axes in every_axes[::columns]:
        axes.set_ylabel("predicted risk")
    threshold = Line2D([], [], color="#4a525c", linestyle="--", label="eps_risk")
    legend_below(figure, [threshold, _replaced_handle(), *_end_legend()])
    return figure


def _episode(method: MethodResults) -> dict[str, Any] | None:
    """Of the first seed's trajectories, the one with most interventions (the first one, if there are none)."""
    run = method.with_figures("trajectories")
    known = [episode for episode in (run.figures or {})["trajectories"] if episode["risks"]] if run else []
    return max(known, key=lambda episode: sum(episode[INTERVENED]), default=None)


def _draw_episode(axes: Axes, method: MethodResults, colour: str) -> None:
    episode = _episode(method)
    assert episode is not None
    risks = np.array(episode["risks"])
    replaced = np.flatnonzero(episode[INTERVENED])
    set_title(axes, method.label, 9, 38)
    axes.plot(risks, color=colour, linewidth=1.6)
    axes.plot(
        replaced, risks[replaced], "o", color=RECOVERY, markeredgecolor="black", markeredgewidth=0.4, markersize=4
    )
    _draw_end(axes, len(risks) - 1, risks[-1], episode)
    if method.eps_risk is not None:
        axes.axhline(method.eps_risk, color="#4a525c", linestyle="--", linewidth=1)
    axes.set_ylim(-0.04, 1.04)
    axes.set_xlabel("step")
