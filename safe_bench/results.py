"""Finished runs of a protocol, gathered by method: what tables, plots and verdicts are made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from safe_bench import metrics
from safe_bench.metrics import Band, Estimate, FloatArray
from safe_bench.protocols import Protocol, get_protocol
from safe_bench.runs import SAFETY_DATA, Run, find_runs

Episodes = dict[str, NDArray[Any]]
EpisodeCurve = Callable[[Episodes], FloatArray]
Mode = Literal["deterministic", "stochastic", "baseline"]

N_GRID = 200
WINDOWS_PER_RUN = 20
MIN_WINDOW, MAX_WINDOW = 5, 100


@dataclass(frozen=True)
class Rate:
    """How often something happened, over the runs of all seeds together.

    Attributes:
        count: how often.
        n: out of how many episodes.
    """

    count: int
    n: int

    @property
    def share(self) -> float:
        """The rate itself; NaN without episodes."""
        return self.count / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Its Wilson interval."""
        return metrics.wilson_interval(self.count, self.n)


@dataclass(frozen=True)
class MethodResults:
    """All finished runs of one method; at least one.

    Attributes:
        name: in the protocol.
        runs: by seed.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> dict[str, Any]:
        """Configuration of the first seed."""
        return self.runs[0].config

    @property
    def label(self) -> str:
        """Name in tables and plots."""
        return str(self.config["definition"]["label"])

    @property
    def is_ablation(self) -> bool:
        """Whether it is a variant of another method."""
        return bool(self.config["definition"]["group"] == "ablation")

    @property
    def algorithm(self) -> str | None:
        """Name of the class in ``sb3_ext``; None where a controller acts."""
        algorithm: str | None = self.config["definition"].get("algorithm")
        return algorithm

    @property
    def eps_risk(self) -> float | None:
        """Threshold of the risk, if the configuration has one."""
        threshold: float | None = self.config["definition"]["kwargs"].get("eps_risk")
        return threshold

    @property
    def stages(self) -> list[dict[str, Any]]:
        """What was learned, in order; the last one is compared."""
        stages: list[dict[str, Any]] = self.config["budget"]["stages"]
        return stages

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the finished runs."""
        return tuple(run.seed for run in self.runs)

    @property
    def wall_time(self) -> float:
        """Seconds of all runs together."""
        return float(sum(run.summary["seconds"] for run in self.runs))

    def stage_episodes(self, stage: str | None = None) -> list[Episodes]:
        """Training episodes of a stage (the last one, if none is named), per seed."""
        return [run.stage(stage or self.stages[-1]["name"]) for run in self.runs]

    def per_seed(self, measure: Callable[[Episodes], float], stage: str | None = None) -> list[float]:
        """A number per seed, from its training episodes of a stage."""
        return [float(measure(episodes)) for episodes in self.stage_episodes(stage)]

    def estimate(self, measure: Callable[[Episodes], float], stage: str | None = None) -> Estimate:
        """That number over seeds."""
        return metrics.aggregate(self.per_seed(measure, stage))

    def training_rate(self, flag: str, stage: str | None = None) -> Rate:
        """How many training episodes of a stage had the flag, over all seeds."""
        flags = np.concatenate([episodes[flag] for episodes in self.stage_episodes(stage)])
        return Rate(int(flags.sum()), len(flags))

    def safety_data(self, what: str, stage: dict[str, Any]) -> Estimate:
        """How much of ``SAFETY_DATA`` the model collected in a stage, over the seeds that say so."""
        collected = stage.get("call") == "pretrain"  # the only one in which SQRL does
        return metrics.aggregate([run.summary[what] for run in self.runs if collected and what in run.summary])

    def evaluated(self, what: Literal["return", "cost"], mode: Mode = "deterministic") -> list[float]:
        """A seed's mean over its evaluation episodes, per seed; empty without an evaluation in that mode."""
        return [run.evaluation[mode][what] for run in self.runs if mode in run.evaluation]

    def evaluation_mean(self, mode: Mode, what: Literal["return", "cost"]) -> Estimate:
        """That mean over seeds."""
        return metrics.aggregate(self.evaluated(what, mode))

    def evaluation_curve(self, agent: str, what: str) -> Band | None:
        """What was evaluated while learning, over seeds; None if it was not."""
        return _over_seeds([
            [(row["timesteps"], row[what]) for row in run.evaluations if row["agent"] == agent] for run in self.runs
        ])  # fmt: skip

    def logged_curve(self, name: str, over: str | None = None) -> Band | None:
        """What the algorithm logged, divided by what it logged ``over`` there, over seeds; None if it did not."""
        logged = [{(row["timesteps"], row["name"]): row["value"] for row in run.diagnostics} for run in self.runs]
        return _over_seeds([
            [(at, value / (rows[at, over] if over else 1.0)) for (at, key), value in rows.items() if key == name]
            for rows in logged
        ])  # fmt: skip

    def estimate_before(self, what: str) -> Estimate:
        """What was evaluated before the first step of learning, over the seeds in which it was."""
        first = [run.evaluations[0] for run in self.runs if run.evaluations and run.evaluations[0]["timesteps"] == 0]
        return metrics.aggregate([row[what] for row in first])

    def first_reached(self, reached: Callable[[dict[str, Any]], bool]) -> list[float]:
        """Time steps of a seed's first evaluation of that kind while it learned, per seed; infinite without one."""
        agents = ([row for row in run.evaluations if row["agent"] == "agent"] for run in self.runs)
        return [next((float(row["timesteps"]) for row in rows if reached(row)), math.inf) for rows in agents]

    def evaluation_rate(self, mode: Mode, flag: Literal["violations", "successes"]) -> Rate:
        """How many evaluation episodes had the flag, over all seeds."""
        flags = np.concatenate([run.evaluation[mode][flag] for run in self.runs if mode in run.evaluation])
        return Rate(int(flags.sum()), len(flags))

    def curve(self, measure: EpisodeCurve, stage: str | None = None) -> Band | None:
        """A number per episode over seeds, on a common grid; None if a seed finished no episode.

        The grid is in episodes where the stage was limited by them. Where it was limited by steps, runs have different
        numbers of episodes, and the grid is in time steps.
        """
        episodes = self.stage_episodes(stage)
        if not all(len(part["episode"]) for part in episodes):
            return None
        axis = self.axis(stage)
        name = stage or self.stages[-1]["name"]
        places = [_places(part, axis, run.start_of(name)) for part, run in zip(episodes, self.runs, strict=True)]
        grid = _grid(max(x[0] for x in places), min(x[-1] for x in places))
        held = [measure(part)[np.searchsorted(x, grid, "right") - 1] for part, x in zip(episodes, places, strict=True)]
        return metrics.aggregate_curves(grid, np.array(held))

    def axis(self, stage: str | None = None) -> Literal["episode", "time step"]:
        """What the curves of a stage are drawn over."""
        chosen = next(part for part in self.stages if part["name"] == (stage or self.stages[-1]["name"]))
        return "episode" if chosen["steps"] is None else "time step"

    def with_figures(self, key: str) -> Run | None:
        """The first seed that has data of that picture."""
        return next((run for run in self.runs if run.figures and run.figures.get(key)), None)


def _over_seeds(curves: Sequence[Sequence[tuple[int, float]]]) -> Band | None:
    """Curves of (time step, value) per seed, as far as all go; None if one has no point."""
    n = min(map(len, curves))
    if n == 0:
        return None
    steps, values = np.array([curve[:n] for curve in curves]).transpose(2, 0, 1)
    return metrics.aggregate_curves(steps[0], values)


def _places(episodes: Episodes, axis: str, start: int) -> FloatArray:
    """Where on the x axis each episode ends; time steps count from the start of the stage."""
    if axis == "episode":
        return np.arange(1, len(episodes["episode"]) + 1, dtype=np.float64)
    return np.asarray(episodes["timesteps"] - start, dtype=np.float64)


def _grid(first: float, last: float) -> FloatArray:
    last = max(first, last)
    return np.unique(np.linspace(first, last, N_GRID).round())


# ---------------------------------------------------------------------- measures of one run's episodes


def successes(episodes: Episodes) -> float:
    """Number of successful episodes."""
    return float(episodes["success"].sum())


def violations(episodes: Episodes) -> float:
    """Number of episodes with a violation."""
    return float(episodes["violation"].sum())


def ratio(episodes: Episodes) -> float:
    """(S + 1) / (V + 1) at the end."""
    return float(metrics.safety_ratio(successes(episodes), violations(episodes)))


def violation_percent(episodes: Episodes) -> float:
    """Episodes with a violation, in per cent of all."""
    return _percent(violations(episodes), len(episodes["violation"]))


def final_return(episodes: Episodes) -> float:
    """Mean return of the last fifth of the episodes."""
    return metrics.final_mean(episodes["return"])


def final_cost(episodes: Episodes) -> float:
    """Mean cost of the last fifth of the episodes."""
    return metrics.final_mean(episodes["cost"])


def mean_cost(episodes: Episodes) -> float:
    """Mean cost of all episodes, those of the beginning included."""
    return float(np.mean(episodes["cost"])) if len(episodes["cost"]) else float("nan")


def total_cost(episodes: Episodes) -> float:
    """Cost of all episodes together, the "regret" of safe transfer."""
    return float(np.sum(episodes["cost"]))


def intervention_percent(episodes: Episodes) -> float:
    """Steps on which the filter replaced the action, in per cent of all."""
    return _percent(float(episodes["interventions"].sum()), float(episodes["length"].sum()))


def n_episodes(episodes: Episodes) -> float:
    """Number of finished episodes."""
    return float(len(episodes["episode"]))


def n_steps(episodes: Episodes) -> float:
    """Number of steps in finished episodes."""
    return float(episodes["length"].sum())


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else float("nan")


# ---------------------------------------------------------------------- all methods


@dataclass(frozen=True)
class Results:
    """All finished runs of a protocol.

    Attributes:
        protocol: what was asked.
        out: folder of the runs.
        methods: in the order of the protocol.
    """

    protocol: Protocol
    out: Path
    methods: tuple[MethodResults, ...]

    @classmethod
    def read(cls, out: str | Path, protocol_name: str) -> Results:
        """Read all finished runs of a protocol.

        Raises:
            ValueError: if there is no such protocol.
            RunError: if there is no finished run, or one is damaged.
        """
        protocol = get_protocol(protocol_name)
        runs = find_runs(out, protocol_name)
        return cls(protocol, Path(out), tuple(MethodResults(k, tuple(runs[k])) for k in _ordered(runs, protocol)))

    @cached_property
    def comparisons(self) -> tuple[MethodResults, ...]:
        """The methods that the paper compares."""
        return tuple(method for method in self.methods if not method.is_ablation)

    @cached_property
    def ablations(self) -> tuple[MethodResults, ...]:
        """Variants of them."""
        return tuple(method for method in self.methods if method.is_ablation)

    @property
    def runs(self) -> list[Run]:
        """The runs of all methods."""
        return [run for method in self.methods for run in method.runs]

    @property
    def have_safety_data(self) -> bool:
        """Whether a model collected episodes beside the training ones."""
        return any(run.summary.get(what) for run in self.runs for what in SAFETY_DATA)

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The stages, of the method that has most of them."""
        return max((method.stages for method in self.methods), key=len)

    def base_of(self, ablation: MethodResults) -> MethodResults | None:
        """The method that an ablation is a variant of: the compared one with the same algorithm."""
        return next((method for method in self.comparisons if method.algorithm == ablation.algorithm), None)

    def having(self, stage: str) -> list[MethodResults]:
        """The methods that went through that stage."""
        return [method for method in self.methods if any(part["name"] == stage for part in method.stages)]

    def window(self, stage: str) -> int:
        """Length of the trailing mean of curves in a stage: a twentieth of a typical run, in episodes."""
        counts = [n for method in self.having(stage) for n in method.per_seed(n_episodes, stage)]
        return int(np.clip(np.median(counts) // WINDOWS_PER_RUN, MIN_WINDOW, MAX_WINDOW))


def _ordered(names: Iterable[str], protocol: Protocol) -> list[str]:
    known: Mapping[str, int] = {name: place for place, name in enumerate(protocol.methods)}
    return sorted(names, key=lambda name: (known.get(name, len(known)), name))
