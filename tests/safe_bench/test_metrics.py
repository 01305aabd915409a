"""Estimators of the reports against numbers worked out by hand and exact enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_bench import metrics

SEEDS = [3.0, 1.0, 4.0, 10.0, 5.0]


class TestWilson:
    def test_known_values(self):
        # Newcombe (1998), table I: 81 of 263, and 0 of 20.
        assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
        assert metrics.wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)

    def test_ends_are_exact(self):
        assert metrics.wilson_interval(0, 7)[0] == 0.0
        assert metrics.wilson_interval(7, 7)[1] == 1.0
        assert metrics.wilson_interval(0, 0) == (0.0, 1.0)

    @given(st.integers(0, 50), st.integers(0, 50))
    def test_contains_the_rate_and_is_symmetric(self, hits, misses):
        n = hits + misses
        low, high = metrics.wilson_interval(hits, n)
        assert 0 <= low <= high <= 1
        assert n == 0 or low <= hits / n <= high
        mirrored = metrics.wilson_interval(misses, n)
        assert (1 - high, 1 - low) == pytest.approx(mirrored)

    @pytest.mark.parametrize("arguments", [(3, 2), (-1, 2), (1, 2, 1.0)])
    def test_nonsense_is_refused(self, arguments):
        with pytest.raises(ValueError, match="got"):
            metrics.wilson_interval(*arguments)


class TestEpisodes:
    def test_ratio_curve_by_hand(self):
        curve = metrics.ratio_curve([0, 1, 1, 0], [1, 0, 0, 1])
        assert curve.tolist() == [1 / 2, 2 / 2, 3 / 2, 3 / 3]

    def test_trailing_mean_by_hand(self):
        assert metrics.trailing_mean([1, 3, 5, 7], 2).tolist() == [1, 2, 4, 6]
        assert metrics.trailing_mean([1, 3, 5], 10).tolist() == [1, 2, 3]

    def test_final_mean_takes_the_last_fifth(self):
        assert metrics.final_mean(range(10)) == 8.5
        assert metrics.final_mean([4.0]) == 4.0
        assert math.isnan(metrics.final_mean([]))


class TestAggregate:
    def test_five_seeds_give_a_bootstrap_interval(self):
        estimate = metrics.aggregate(SEEDS)
        assert estimate.point == 4.0  # mean of 3, 4, 5
        assert estimate.kind == metrics.BOOTSTRAP
        assert estimate.values == tuple(SEEDS)

    def test_the_interval_is_that_of_all_resamples(self):
        resamples = np.array(list(itertools.product(SEEDS, repeat=5)))
        exact = np.percentile(metrics.interquartile_mean(resamples, axis=1), [2.5, 97.5])
        estimate = metrics.aggregate(SEEDS)
        assert (estimate.low, estimate.high) == pytest.approx(exact, abs=0.34)  # neighbouring values lie 1/3 apart

    def test_few_seeds_give_their_range(self):
        estimate = metrics.aggregate([1.0, 2.0, 6.0])
        assert (estimate.point, estimate.low, estimate.high) == (3.0, 1.0, 6.0)
        assert estimate.kind == "range of 3 seeds"
        assert metrics.aggregate([2.0]).kind == "one seed, no interval"

    def test_seeds_without_data_are_left_out(self):
        assert metrics.aggregate([1.0, math.nan]).values == (1.0,)
        assert metrics.aggregate([math.nan]).kind == "no data"

    def test_same_data_same_interval(self):
        assert metrics.aggregate(SEEDS) == metrics.aggregate(SEEDS)

    def test_curves_are_aggregated_point_by_point(self):
        band = metrics.aggregate_curves([1, 2], [[0.0, 1.0], [2.0, 5.0]])
        assert (band.point.tolist(), band.low.tolist(), band.high.tolist()) == ([1, 3], [0, 1], [2, 5])
        assert band.kind == "range of 2 seeds"
        wide = metrics.aggregate_curves([1, 2, 3], np.outer(SEEDS, [1, 2, 0]))
        assert wide.point.tolist() == [4, 8, 0]
        assert wide.kind == metrics.BOOTSTRAP
        assert wide.low[1] == 2 * wide.low[0] < wide.point[1] < wide.high[1] == 2 * wide.high[0]

    def test_share_within_a_limit(self):
        assert metrics.share_within([0, 3, 5, 9], limit=3) == 0.5


class TestCompare:
    def test_factor_and_improvement_by_hand(self):
        found = metrics.compare([2.0, 4.0], [1.0, 2.0], effect="factor")
        assert found.effect.point == 2.0
        assert (found.effect.low, found.effect.high) == (1.0, 4.0)  # 2 / 2 and 4 / 1
        assert found.improvement.point == (1 + 0.5 + 1 + 1) / 4
        assert not found.enough_seeds
        assert found.outcome == "unresolved"

    def test_lower_may_be_better(self):
        found = metrics.compare([1.0, 2.0], [5.0, 6.0], effect="difference", higher_is_better=False)
        assert found.effect.point == 4.0
        assert found.outcome == "better"
        assert found.improvement.point == 1.0

    def test_outcome_follows_the_whole_interval(self):
        clear = metrics.compare(np.array(SEEDS) + 100, SEEDS, effect="factor")
        assert (clear.outcome, clear.effect.kind) == ("better", metrics.BOOTSTRAP)
        assert metrics.compare(SEEDS, np.array(SEEDS) + 100, effect="factor").outcome == "worse"
        same = metrics.compare(SEEDS, SEEDS, effect="factor")
        assert (same.outcome, same.effect.point, same.improvement.point) == ("unresolved", 1.0, 0.5)

    def test_pairs_of_seeds_leave_out_what_the_seeds_have_in_common(self):
        hard, easy = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.array([1.1, 2.2, 4.4, 8.8, 17.6])
        assert metrics.compare(easy, hard, effect="factor").outcome == "unresolved"
        paired = metrics.compare_pairs(easy, hard, effect="factor")
        assert (paired.effect.low, paired.effect.high) == pytest.approx((1.1, 1.1))
        assert (paired.outcome, paired.improvement.point, paired.n_pairs) == ("better", 1.0, 5)
        reverse = metrics.compare_pairs(easy, hard[::-1], effect="factor")
        assert reverse.outcome == "unresolved"
        assert reverse.improvement.point == pytest.approx(3 / 5)
        assert reverse.improvement.low < 3 / 5 < reverse.improvement.high

    def test_a_seed_is_compared_with_itself_before_extremes_are_trimmed(self):
        found = metrics.compare_pairs([1, 2, 3, 4, 100], [100, 1, 2, 3, 4], effect="difference")
        assert found.effect.point == 1.0  # of -99, 1, 1, 1, 96
        lower = metrics.compare_pairs([1, 2, 3, 4, 100], [100, 1, 2, 3, 4], effect="difference", higher_is_better=False)
        assert lower.effect.point == -1.0

    def test_few_pairs_of_seeds_give_their_range(self):
        found = metrics.compare_pairs([1.0, 5.0], [1.0, 4.0], effect="difference")
        assert (found.effect.low, found.effect.high, found.effect.kind) == (0.0, 1.0, "range of 2 seeds")
        assert (found.improvement.point, found.improvement.low, found.improvement.high) == (0.75, 0.5, 1.0)

    def test_incomplete_pairs(self):
        for values in ([1.0, 2.0], []):
            with pytest.raises(ValueError, match=f"same seeds on both sides, got {len(values)} and"):
                metrics.compare_pairs(values, values[1:], effect="factor")

    def test_nothing_to_compare(self):
        with pytest.raises(ValueError, match="seeds on both sides"):
            metrics.compare([], [1.0], effect="factor")
