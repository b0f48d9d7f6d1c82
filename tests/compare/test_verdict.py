"""The rule of the verdicts on made-up numbers: each verdict, margins at the edge, power, Holm."""

import math

import numpy as np
import pytest
from scipy import stats

from sidebyside.verdict import (
    CONTRADICTED,
    MIXED,
    NO_DIFFERENCE,
    NOT_ENOUGH,
    NOT_RUN,
    REPRODUCED,
    UNDECIDED,
    Difference,
    Sample,
    combine,
    decide,
    decide_all,
    difference,
    holm_levels,
    mean_interval,
    of_all,
    paired,
    power,
    reason,
    seeds_needed,
    t_quantile,
    variance_of_test_set,
    welch,
)


def seen(mean: float, error: float, n: int = 10) -> Difference:
    return Difference(mean, error, n - 1, n, "made up")


@pytest.mark.parametrize(
    ("mean", "error", "verdict"),
    [
        (3.0, 0.1, REPRODUCED),
        (-3.0, 0.1, CONTRADICTED),
        (0.1, 0.1, NO_DIFFERENCE),
        (-0.1, 0.1, NO_DIFFERENCE),
        (3.0, 3.0, UNDECIDED),
        (0.0, 3.0, UNDECIDED),
        (0.99, 0.1, UNDECIDED),  # above zero, below the margin, and not within it
        (0.5, 0.1, NO_DIFFERENCE),  # above zero, but too small to matter
    ],
)
def test_each_verdict(mean, error, verdict):
    assert decide(seen(mean, error), delta=1).verdict == verdict


def test_a_mean_that_is_just_the_margin_is_enough():
    assert decide(seen(1.0, 0.1), delta=1).verdict == REPRODUCED
    assert decide(seen(-1.0, 0.1), delta=1).verdict == CONTRADICTED
    assert decide(seen(np.nextafter(1.0, 0), 0.1), delta=1).verdict == UNDECIDED


def test_an_interval_that_touches_zero_is_not_above_it():
    error = 1.0 / stats.t.ppf(0.975, 9)
    assert decide(seen(1.0, error * 1.0001), delta=0.5).verdict == UNDECIDED
    assert decide(seen(1.0, error * 0.9999), delta=0.5).verdict == REPRODUCED


def test_a_narrow_interval_that_touches_the_margin_is_within_it():
    error = 1.0 / stats.t.ppf(0.95, 9)
    assert decide(seen(0.0, error * 0.9999), delta=1).verdict == NO_DIFFERENCE
    assert decide(seen(0.0, error * 1.0001), delta=1).verdict == UNDECIDED


def test_the_interval_is_that_of_scipy():
    better = [3.0, 5.0, 4.5, 6.0]
    worse = [1.0, 4.0, 2.0, 5.5]
    found = paired(better, worse)
    expected = stats.ttest_rel(better, worse)
    low, high = expected.confidence_interval(0.95)
    assert found.interval() == pytest.approx((low, high))
    assert found.p_value == pytest.approx(expected.pvalue)


def test_welch_is_that_of_scipy():
    better = Sample(3.0, 0.5, 4)
    worse = Sample(2.0, 1.5, 7)
    expected = stats.ttest_ind_from_stats(3.0, 0.5, 4, 2.0, 1.5, 7, equal_var=False)
    assert welch(better, worse).p_value == pytest.approx(expected.pvalue)


def test_folds_are_no_runs():
    """Thirty values, ten folds of three seeds: the error is that of three seeds."""
    folds = Sample(3.0, 1.0, 30, seeds=3)
    assert welch(folds, folds).error == pytest.approx(math.sqrt(2 / 3))
    assert difference(Sample(3.0, 1.0, 10, seeds=1), folds) is None


def test_seeds_that_both_have_are_paired_and_lower_may_be_better():
    better = Sample(1.0, 0.1, 3, {0: 1.0, 1: 1.2, 2: 0.8})
    worse = Sample(2.0, 0.1, 3, {1: 2.3, 2: 1.8, 5: 9.0})
    found = difference(better, worse, higher=False)
    assert found.mean == pytest.approx(1.05)
    assert found.n == 2


def test_the_same_difference_in_every_seed_decides():
    found = paired([2.0, 3.0], [1.0, 2.0])
    assert decide(found, delta=1).verdict == REPRODUCED
    assert decide(found, delta=2).verdict == NO_DIFFERENCE


def test_no_margin_is_an_error():
    with pytest.raises(ValueError, match="margin must be above 0"):
        decide(seen(1, 1), delta=0)


def test_one_seed_decides_nothing():
    lonely = Sample(1.0, None, 1, {0: 1.0})
    assert decide(difference(lonely, lonely), delta=1).verdict == NOT_ENOUGH


# --- how many seeds ---


@pytest.mark.parametrize(("n", "effect"), [(3, 3.3), (10, 1.0), (20, 0.67)])
def test_the_effect_that_n_seeds_see_at_80_percent(n, effect):
    assert power(effect, n) == pytest.approx(0.8, abs=0.02)
    assert seeds_needed(effect * 1.03, 1.0) <= n


def test_the_seeds_needed_are_the_fewest():
    n = seeds_needed(0.5, 1.0)
    assert power(0.5, n) >= 0.8 > power(0.5, n - 1)


def test_no_number_of_seeds_shows_what_is_not_there():
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-4, 1.0) is None


def test_an_undecided_pair_says_what_would_decide_it():
    decision = decide(seen(0.5, 0.5, n=5), delta=1)
    assert decision.verdict == UNDECIDED
    spread = 0.5 * math.sqrt(5)
    assert decision.seeds_observed == seeds_needed(0.5, spread)
    assert decision.seeds_margin == seeds_needed(1.0, spread)
    assert decision.seeds_margin < decision.seeds_observed


# --- several pairs ---


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([], NOT_RUN),
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REPRODUCED, UNDECIDED], UNDECIDED),
        ([REPRODUCED, NO_DIFFERENCE], NO_DIFFERENCE),
        ([REPRODUCED, UNDECIDED, CONTRADICTED], CONTRADICTED),
        ([REPRODUCED, NOT_ENOUGH], NOT_ENOUGH),
    ],
)
def test_beating_several_methods_means_beating_each(verdicts, whole):
    assert of_all(verdicts) == whole


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([], NOT_RUN),
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REPRODUCED, UNDECIDED], MIXED),
        ([REPRODUCED, CONTRADICTED], MIXED),
        ([REPRODUCED, NOT_ENOUGH], REPRODUCED),
        ([NOT_ENOUGH], NOT_ENOUGH),
        ([NOT_RUN, NOT_RUN], NOT_RUN),
    ],
)
def test_data_sets_that_disagree_are_mixed(verdicts, whole):
    assert combine(verdicts) == whole


def test_holm_by_hand():
    assert holm_levels([0.01, 0.04, 0.03]) == pytest.approx([0.05 / 3, 0.025, 0.025])
    assert holm_levels([0.001, 0.02, 0.03]) == pytest.approx([0.05 / 3, 0.025, 0.05])
    assert holm_levels([]) == []


def test_data_sets_share_the_error():
    """p 0.04 alone is enough; beside a set that shows nothing it is not."""
    error = 2.0 / stats.t.ppf(1 - 0.04 / 2, 9)
    good = seen(2.0, error)
    nothing = seen(0.0, 5.0)
    alone = decide_all({"A": [good]}, {"A": 1})
    assert alone["A"][0].verdict == REPRODUCED
    beside = decide_all({"A": [good], "B": [nothing]}, {"A": 1, "B": 1})
    assert [decisions[0].verdict for decisions in beside.values()] == [UNDECIDED, UNDECIDED]
    with_none = decide_all({"A": [good], "B": [None]}, {"A": 1, "B": 1})
    assert with_none["A"][0].verdict == REPRODUCED
    assert with_none["B"][0].verdict == NOT_ENOUGH


# --- test pictures ---


def test_the_variance_of_a_mean_over_pictures_is_that_of_the_textbook():
    values = np.random.default_rng(0).normal(size=400)
    found = variance_of_test_set(lambda drawn: float(values[drawn].mean()), 400, draws=4000)
    assert found == pytest.approx(values.var() / 400, rel=0.1)


def test_the_test_set_widens_the_interval():
    narrow = seen(2.0, 0.1)
    wide = narrow.with_variance(4.0, "and over test pictures")
    assert wide.error == pytest.approx(math.sqrt(4.01))
    assert decide(narrow, delta=1).verdict == REPRODUCED
    assert decide(wide, delta=1).verdict == UNDECIDED
    assert "test pictures" in wide.how


# --- quantiles, means, words ---


def test_the_quantiles_are_those_of_the_tables():
    assert t_quantile(1) == pytest.approx(12.706204736432095)
    assert t_quantile(2) == pytest.approx(4.302652729911275)
    assert t_quantile(1e9) == pytest.approx(1.959963985, abs=1e-6)


def test_the_interval_of_a_mean():
    half = 4.302652729911275 * math.sqrt(3)
    assert mean_interval(Sample(10, 3, 3)) == pytest.approx((10 - half, 10 + half))
    assert mean_interval(Sample(10, None, 1)) is None


@pytest.mark.parametrize(
    ("mean", "error", "told"),
    [
        (3.0, 0.1, "interval above zero, mean beyond the margin"),
        (-3.0, 0.1, "the opposite holds"),
        (0.0, 0.1, "interval within the margin"),
        (0.0, 3.0, "decided by more than 10,000 seeds at this difference, 709 at the margin"),
    ],
)
def test_why(mean, error, told):
    assert reason(decide(seen(mean, error), delta=1)) == told


def test_why_nothing_is_decided():
    one = Sample(1, None, 1)
    without_deviation = Sample(1, None, 3)
    whole = Sample(1, 1, 3)
    nothing = decide(None, delta=1)
    assert reason(nothing, one, whole) == "fewer than two seeds on a side"
    assert reason(nothing, without_deviation, whole) == "no deviation known on a side"
