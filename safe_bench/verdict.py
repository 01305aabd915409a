"""The paper's claim against the data, in words that are computed from the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from safe_bench import metrics, results
from safe_bench.document import estimate_text, interval_text, number_text
from safe_bench.metrics import Comparison
from safe_bench.results import Episodes, MethodResults, Results
from safe_bench.runs import Run


@dataclass(frozen=True)
class Measure:
    """What a claim is about.

    Attributes:
        name: in sentences.
        of: its value from the episodes of one run.
        effect: whether methods are compared by a factor or by a difference.
        higher_is_better: direction.
        better: word for it.
        worse: word for the opposite.
    """

    name: str
    of: Callable[[Episodes], float]
    effect: Literal["factor", "difference"]
    higher_is_better: bool
    better: str
    worse: str

    @property
    def column(self) -> str:
        """Header of the column of effects."""
        return f"{self.better.capitalize()} by{' the factor' if self.effect == 'factor' else ''}"


RATIO = Measure("ratio (successes + 1) / (violations + 1)", results.ratio, "factor", True, "higher", "lower")
VIOLATION_RATE = Measure(
    "violation rate of the training episodes (%)", results.violation_percent, "difference", False, "lower", "higher"
)
VIOLATIONS = Measure(
    "violation count (plus 1)", lambda episodes: results.violations(episodes) + 1, "factor", False, "smaller", "larger"
)
REGRET = Measure(
    "cost of all training episodes together (plus 1)",
    lambda episodes: results.total_cost(episodes) + 1,
    "factor",
    False,
    "smaller",
    "larger",
)
FINAL_RETURN = Measure("final return", results.final_return, "difference", True, "higher", "lower")


@dataclass(frozen=True)
class Judgement:
    """The subject of a claim against one other method."""

    subject: MethodResults
    other: MethodResults
    comparison: Comparison

    @property
    def words(self) -> str:
        """What the comparison says, no more."""
        outcome, n = self.comparison.outcome, self.comparison.n_pairs
        if self.comparison.enough_seeds:
            return "not resolved: the interval includes no difference" if outcome == "unresolved" else outcome
        what = "seeds" if self.comparison.paired else "pairs of seeds"
        pairs = f"all {n} {what}" if n > 1 else "the one pair of seeds"
        found = "ranges overlap" if outcome == "unresolved" else f"{outcome} in {pairs}"
        return f"{found}; too few seeds for a test"


MEASURES = {"ratio": RATIO, "violation-rate": VIOLATION_RATE, "violations": VIOLATIONS, "regret": REGRET}


def judge(subject: MethodResults, other: MethodResults, measure: Measure) -> Judgement:
    """Hold one method against another; seed by seed where a seed draws the environment that both learn in.

    Raises:
        ValueError: if there is nothing to compare.
    """
    compare = metrics.compare_pairs if _is_paired(subject) else metrics.compare
    values, others = _values(subject, other, measure)
    comparison = compare(values, others, effect=measure.effect, higher_is_better=measure.higher_is_better)
    return Judgement(subject, other, comparison)


def _is_paired(method: MethodResults) -> bool:
    return "transfer" in method.config["budget"]


def _has_episodes(run: Run) -> bool:
    return bool((run.episodes["stage"] == run.config["budget"]["stages"][-1]["name"]).any())


def _values(subject: MethodResults, other: MethodResults, measure: Measure) -> tuple[list[float], list[float]]:
    """What is compared: all that is known of the two, or where they are paired what both have."""
    values, others = (
        {
            run.seed: value
            for run, value in zip(method.runs, method.per_seed(measure.of), strict=True)
            if _has_episodes(run)
        }
        for method in (subject, other)
    )
    if _is_paired(subject):
        values = {seed: value for seed, value in values.items() if seed in others}
        others = {seed: others[seed] for seed in values}
    return list(values.values()), list(others.values())


def subject_of(found: Results) -> MethodResults | None:
    """The finished runs of the method that the claim is about."""
    return next((method for method in found.methods if method.name == found.protocol.subject), None)


def judgements(found: Results, measure: Measure) -> list[Judgement]:
    """The subject of the claim against every other compared method."""
    subject = subject_of(found)
    return _judge_all([(subject, other) for other in found.comparisons if other is not subject], measure)


def ablation_judgements(found: Results, measure: Measure) -> list[Judgement]:
    """Every method with ablations against each of them."""
    return _judge_all([(found.base_of(ablation), ablation) for ablation in found.ablations], measure)


def _judge_all(pairs: Iterable[tuple[MethodResults | None, MethodResults]], measure: Measure) -> list[Judgement]:
    return [
        judge(subject, other, measure)
        for subject, other in pairs
        if subject is not None and all(_values(subject, other, measure))
    ]


def verdict(found: Results) -> list[str]:
    """Sentences that say how far the data bear the claim out; the first one is the headline."""
    measure, subject = MEASURES.get(found.protocol.measure or ""), subject_of(found)
    if subject is None:
        return ["No verdict: the method that the claim is about has no finished run."]
    if measure is None:
        return ["The claim is not about a number of the tables: hold it against the trajectories below."]
    judged = judgements(found, measure)
    if not judged:
        return [f"No verdict: there is nothing to compare {subject.label} with.", _own_value(subject, measure)]
    return [
        *sentences(judged, measure),
        *([_headline(judgements(found, FINAL_RETURN), FINAL_RETURN)] if found.protocol.compare_returns else []),
        *caveats(found, all(judgement.comparison.enough_seeds for judgement in judged)),
    ]


def sentences(judged: list[Judgement], measure: Measure) -> list[str]:
    """Judgements of one subject in words, the headline first; none without any."""
    if not judged:
        return []
    return [_headline(judged, measure), _own_value(judged[0].subject, measure), *_extremes(judged, measure)]


def _headline(judged: list[Judgement], measure: Measure) -> str:
    label, n = judged[0].subject.label, len(judged)
    names = {
        outcome: [j.other.label for j in judged if j.comparison.outcome == outcome]
        for outcome in ("better", "unresolved", "worse")
    }
    if len(names["better"]) == n:
        against = f"than {names['better'][0]}" if n == 1 else f"than each of the {n} other methods that were run"
        what = "seed that was" if judged[0].comparison.paired else "pair of seeds that were"
        few = "" if all(j.comparison.enough_seeds for j in judged) else f", in every {what} run"
        return f"{label} has a {measure.better} {measure.name} {against}{few}."
    parts = [f"{measure.better} than {len(names['better']) or 'none'} of {n} other methods"]
    if names["unresolved"]:
        parts.append(f"not resolved against {', '.join(names['unresolved'])}")
    if names["worse"]:
        parts.append(f"{measure.worse} than {', '.join(names['worse'])}")
    return f"{label}, {measure.name}: {'; '.join(parts)}."


def _own_value(subject: MethodResults, measure: Measure) -> str:
    estimate = subject.estimate(measure.of)
    return f"{subject.label}: {measure.name} {estimate_text(estimate)} ({estimate.kind})."


def _extremes(judged: list[Judgement], measure: Measure) -> list[str]:
    """How much better, at least and at most."""
    ordered = sorted(judged, key=lambda judgement: judgement.comparison.effect.point)
    if len(ordered) == 1:
        return [f"{_amount(ordered[0], measure)}."]
    return [f"Least in its favour: {_amount(ordered[0], measure)}.", f"Most: {_amount(ordered[-1], measure)}."]


def _amount(judged: Judgement, measure: Measure) -> str:
    effect, label = judged.comparison.effect, judged.other.label
    interval = f"{interval_text(effect)}, {effect.kind}" if effect.has_interval else effect.kind
    if measure.effect == "factor":
        times = f"{number_text(effect.point)} times"
        what = f"{times} that of {label}" if measure.higher_is_better else f"that of {label} is {times} it"
        return f"{what} ({interval}): {judged.words}"
    sign = f"positive is {measure.better}"
    return f"difference to {label} {number_text(effect.point)} ({interval}; {sign}): {judged.words}"


def caveats(found: Results, enough_seeds: bool) -> list[str]:
    """What a verdict does not say."""
    found_caveats = []
    if not enough_seeds:
        found_caveats.append(
            f"With fewer than {metrics.MIN_SEEDS} seeds of a method this is an indication, not a test: other seeds may "
            "well reverse it."
        )
    present = {method.name for method in found.methods}
    missing = [
        method.label
        for name, method in found.protocol.methods.items()
        if method.group == "comparison" and name not in present
    ]
    if missing:
        found_caveats.append(f"Nothing is said about {', '.join(missing)}: no finished run.")
    return found_caveats
