"""Numbers of a report: rates and ratios of one run, and their aggregation and comparison over seeds.

The aggregation follows Agarwal et al., Deep RL at the Edge of the Statistical Precipice (2021): interquartile means
with bootstrap intervals over seeds, and the probability of improvement. A protocol has one task, so the stratified
bootstrap of that paper has one stratum, and SciPy's bootstrap is it; its generator is fixed, so that the same results
give the same report. (``rliable`` itself does not run with the current releases of what it needs.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FloatArray = NDArray[np.float64]

MIN_SEEDS = 5
"""With fewer seeds a bootstrap interval would be a pretence: the range of all seeds is shown instead."""
CONFIDENCE = 0.95
BOOTSTRAP = "95 % bootstrap interval"
NO_INTERVAL = "no interval"
N_RESAMPLES = 10_000
N_CURVE_RESAMPLES = 1_000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; there is no number without one.

    Attributes:
        point: interquartile mean over seeds (with fewer than four seeds this is the mean), NaN without data.
        low: lower end of the interval.
        high: upper end.
        kind: what the interval is.
        values: one number per seed.
    """

    point: float
    low: float
    high: float
    kind: str
    values: tuple[float, ...]

    @property
    def has_interval(self) -> bool:
        """Whether there is more than one seed, and so an interval to show."""
        return not (math.isnan(self.point) or self.kind.endswith(NO_INTERVAL))


@dataclass(frozen=True)
class Band:
    """A curve with its interval at every point.

    Attributes:
        x: episodes or time steps, ``[N]``.
        point: ``[N]``, as in `Estimate`.
        low: ``[N]``.
        high: ``[N]``.
        kind: what the interval is.
    """

    x: FloatArray
    point: FloatArray
    low: FloatArray
    high: FloatArray
    kind: str


@dataclass(frozen=True)
class Comparison:
    """One method against another over seeds.

    Attributes:
        effect: by what factor, or by how much, it is better; the factor 1 or the difference 0 is no difference.
        improvement: probability that a random seed of the one is better than a random (if paired, the same) seed of the
            other.
        neutral: the value of ``effect`` that means no difference.
        n_pairs: number of pairs of seeds.
        enough_seeds: whether the intervals are bootstrap intervals.
        paired: whether a seed of the one was held against the same seed of the other only.
    """

    effect: Estimate
    improvement: Estimate
    neutral: float
    n_pairs: int
    enough_seeds: bool
    paired: bool = False

    @property
    def outcome(self) -> Literal["better", "worse", "unresolved"]:
        """``"better"`` or ``"worse"`` if the whole interval lies on that side of no difference."""
        if self.effect.low > self.neutral:
            return "better"
        return "worse" if self.effect.high < self.neutral else "unresolved"


# ---------------------------------------------------------------------- one run


def wilson_interval(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a rate; (0, 1) if nothing was observed.

    Args:
        successes: how often it happened.
        n: out of how many independent trials.
        confidence: coverage, in (0, 1).

    Raises:
        ValueError: if not ``0 <= successes <= n``, or the confidence is out of range.

    Examples:
        >>> [round(end, 4) for end in wilson_interval(8, 10)]
        [0.4902, 0.9433]
    """
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n, got successes={successes}, n={n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def safety_ratio(successes: ArrayLike, violations: ArrayLike) -> FloatArray:
    """(S + 1) / (V + 1), the figure of merit of Recovery RL (section V)."""
    return (np.asarray(successes, dtype=np.float64) + 1) / (np.asarray(violations, dtype=np.float64) + 1)


def ratio_curve(success: ArrayLike, violation: ArrayLike) -> FloatArray:
    """`safety_ratio` after every episode, ``[N]``, from flags per episode."""
    return safety_ratio(np.cumsum(success), np.cumsum(violation))


def trailing_mean(values: ArrayLike, window: int) -> FloatArray:
    """Mean of the last ``window`` values at each place (of all so far, while they are fewer), ``[N]``."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    means: FloatArray = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def final_mean(values: ArrayLike, share: float = 0.2) -> float:
    """Mean of the last ``share`` of the values (at least one of them); NaN without values."""
    array = np.asarray(values, dtype=np.float64)
    return float(array[-max(1, round(share * len(array))) :].mean()) if len(array) else math.nan


# ---------------------------------------------------------------------- seeds


def interquartile_mean(values: ArrayLike, axis: int = 0) -> FloatArray:
    """Mean without the lowest and the highest quarter along an axis (of fewer than four values: the mean)."""
    return np.asarray(stats.trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=axis))


def aggregate(values: ArrayLike) -> Estimate:
    """Interquartile mean over seeds with a 95 % bootstrap interval, or below five seeds the range of all seeds.

    Args:
        values: ``[n_seeds]``; NaN (no data) is left out.
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    if not len(array):
        return Estimate(math.nan, math.nan, math.nan, "no data", ())
    low, high, kind = _interval(array[:, None], N_RESAMPLES)
    return Estimate(float(interquartile_mean(array)), float(low[0]), float(high[0]), kind, tuple(array.tolist()))


def aggregate_curves(x: ArrayLike, values: ArrayLike) -> Band:
    """`aggregate` at every point of curves on a common grid.

    Args:
        x: the grid, ``[N]``.
        values: ``[n_seeds, N]``.
    """
    curves = np.asarray(values, dtype=np.float64)
    low, high, kind = _interval(curves, N_CURVE_RESAMPLES)
    return Band(np.asarray(x, dtype=np.float64), interquartile_mean(curves), low, high, kind)


def share_within(values: ArrayLike, limit: float) -> float:
    """Share of the seeds whose value (say, the final number of violations) is at most ``limit``."""
    return float((np.asarray(values, dtype=np.float64) <= limit).mean())


def range_of(n_seeds: int) -> str:
    """Name of the interval for few seeds."""
    return f"range of {n_seeds} seeds" if n_seeds > 1 else f"one seed, {NO_INTERVAL}"


def _interval(samples: FloatArray, n_resamples: int) -> tuple[FloatArray, FloatArray, str]:
    """Ends ``[N]`` and kind of the interval over the seeds of ``[n_seeds, N]``."""
    n_seeds = len(samples)
    if n_seeds < MIN_SEEDS:
        return samples.min(axis=0), samples.max(axis=0), range_of(n_seeds)
    return *_bootstrap((samples,), interquartile_mean, n_resamples), BOOTSTRAP


def _bootstrap(samples: tuple[FloatArray, ...], statistic: Any, n_resamples: int) -> tuple[FloatArray, FloatArray]:
    """Ends of the percentile interval of a statistic of samples whose seeds are resampled independently."""
    result = stats.bootstrap(
        samples, statistic, axis=0, n_resamples=n_resamples, confidence_level=CONFIDENCE, method="percentile",
        vectorized=True, rng=np.random.default_rng(0),
    )  # fmt: skip
    return result.confidence_interval.low, result.confidence_interval.high


# ---------------------------------------------------------------------- comparison


def compare(
    values: ArrayLike, others: ArrayLike, *, effect: Literal["factor", "difference"], higher_is_better: bool = True
) -> Comparison:
    """One method against another: effect and probability of improvement, with intervals over seeds.

    The seeds of two methods are resampled independently. With fewer than five seeds of either, the intervals are the
    ranges over all pairs of seeds.

    Args:
        values: ``[n]``, one value per seed of the one.
        others: ``[m]``, of the other.
        effect: ratio of the interquartile means (values must be positive) or their difference.
        higher_is_better: direction; the effect is turned so that larger is always better for the first method.

    Raises:
        ValueError: if there is no value on one side.
    """
    first, second = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if not (len(first) and len(second)):
        raise ValueError(f"a comparison needs seeds on both sides, got {len(first)} and {len(second)}")
    enough = min(len(first), len(second)) >= MIN_SEEDS
    better, worse = (first, second) if higher_is_better else (second, first)
    combine = np.divide if effect == "factor" else np.subtract

    def gain(a: FloatArray, b: FloatArray, axis: int = 0) -> FloatArray:
        return np.asarray(combine(interquartile_mean(a, axis), interquartile_mean(b, axis)))

    effect_ends, improvement_ends, kind = (_bootstrap_ends if enough else _range_ends)(better, worse, gain)
    return Comparison(
        Estimate(float(gain(better, worse)), *effect_ends, kind, ()),
        Estimate(float(probability_of_improvement(better, worse)), *improvement_ends, kind, ()),
        1.0 if effect == "factor" else 0.0,
        len(first) * len(second),
        enough,
    )


def compare_pairs(
    values: ArrayLike, others: ArrayLike, *, effect: Literal["factor", "difference"], higher_is_better: bool = True
) -> Comparison:
    """`compare`, where a seed draws something for both methods (an environment, data): seed by seed.

    The effect is the interquartile mean of the seeds' differences, or of the logarithms of their ratios; the
    improvement is the share of the seeds in which the one is better.

    Args:
        values: ``[n]``, one value per seed of the one.
        others: ``[n]``, of the other, of the same seeds in the same order.
        effect: see ``compare``.
        higher_is_better: see ``compare``.

    Raises:
        ValueError: if there is no seed, or one side has more.
    """
    first, second = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if not len(first) == len(second) > 0:
        raise ValueError(f"pairs need the same seeds on both sides, got {len(first)} and {len(second)}")
    better, worse = (first, second) if higher_is_better else (second, first)
    is_factor = effect == "factor"
    gains = np.log(better) - np.log(worse) if is_factor else better - worse
    wins, undo = (np.sign(gains) + 1) / 2, np.exp if is_factor else np.asarray
    enough, gain = len(gains) >= MIN_SEEDS, aggregate(gains)
    low, high = _scalars(_bootstrap((wins,), np.mean, N_RESAMPLES) if enough else (wins.min(), wins.max()))
    return Comparison(
        Estimate(float(undo(gain.point)), float(undo(gain.low)), float(undo(gain.high)), gain.kind, ()),
        Estimate(float(wins.mean()), low, high, gain.kind, ()),
        1.0 if is_factor else 0.0,
        len(gains),
        enough,
        paired=True,
    )


def probability_of_improvement(better: ArrayLike, worse: ArrayLike, axis: int = 0) -> FloatArray:
    """Share of the pairs of seeds in which the first is larger, ties counting half: Mann-Whitney's U over n m."""
    first, second = np.asarray(better), np.asarray(worse)
    pairs = first.shape[axis] * second.shape[axis]
    return np.asarray(stats.mannwhitneyu(first, second, axis=axis, method="asymptotic").statistic) / pairs


Ends = tuple[float, float]


def _bootstrap_ends(better: FloatArray, worse: FloatArray, gain: Any) -> tuple[Ends, Ends, str]:
    """Intervals of effect and improvement, and what they are."""
    effects = _bootstrap((better, worse), gain, N_RESAMPLES)
    improvements = _bootstrap((better, worse), probability_of_improvement, N_RESAMPLES)
    return _scalars(effects), _scalars(improvements), BOOTSTRAP


def _range_ends(better: FloatArray, worse: FloatArray, gain: Any) -> tuple[Ends, Ends, str]:
    pairs = [(np.array([a]), np.array([b])) for a in better for b in worse]
    effects = np.array([gain(*pair) for pair in pairs])
    wins = np.array([probability_of_improvement(*pair) for pair in pairs])
    kind = f"range of {len(pairs)} pairs of seeds" if len(pairs) > 1 else f"one pair of seeds, {NO_INTERVAL}"
    return _scalars((effects.min(), effects.max())), _scalars((wins.min(), wins.max())), kind


def _scalars(ends: tuple[FloatArray, FloatArray]) -> Ends:
    return float(ends[0]), float(ends[1])
