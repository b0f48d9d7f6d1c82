"""The rule of the verdicts, on cases computed by hand."""

import math

import pytest
from scipy import stats

from sidebyside import verdict
from sidebyside.claims import Claim, judge
from sidebyside.numbers import units_differ
from sidebyside.records import Row, load
from sidebyside.verdict import NOT_ENOUGH, NOT_REPRODUCED, NOT_RUN, PARTLY, REPRODUCED, Sample

T2, T4 = 4.302652729911275, 2.7764451051977987  # the tables' 97.5 % quantiles of Student's t


def test_the_quantiles_are_those_of_the_tables():
    assert verdict.t_quantile(1) == pytest.approx(12.706204736432095)
    assert verdict.t_quantile(2) == pytest.approx(T2)
    assert verdict.t_quantile(4) == pytest.approx(T4)
    assert verdict.t_quantile(1e9) == pytest.approx(1.959963985, abs=1e-6)


# --- paired: differences 1, 2, 3 have mean 2, deviation 1, half width T2 / sqrt(3) ---


def test_paired_interval_by_hand():
    interval = verdict.paired([3, 5, 7], [2, 3, 4])
    half = T2 / math.sqrt(3)
    assert (interval.difference, interval.low, interval.high) == pytest.approx(
        (2, 2 - half, 2 + half)
    )
    assert interval.how == "paired t over 3 seeds"


def by_seed(*values: float) -> Sample:
    mean = sum(values) / len(values)
    return Sample(mean, None, len(values), dict(enumerate(values)))


@pytest.mark.parametrize(
    "better, worse, expected",
    [
        ((3, 5, 7), (2, 3, 4), NOT_REPRODUCED),  # [-0.48, 4.48] includes zero
        ((13, 15, 17), (2, 3, 4), REPRODUCED),  # 12 +- 2.48
        ((2, 3, 4), (13, 15, 17), NOT_REPRODUCED),  # the opposite
        ((1.0, 2.0), (0.9, 1.9), REPRODUCED),  # 0.1 in both seeds
        ((1.0, 2.0), (0.0, 1.9), NOT_REPRODUCED),  # differences 1, 0.1: t(1) is 12.7
        ((1.0,), (0.0,), NOT_ENOUGH),
    ],
)
def test_paired_verdicts(better, worse, expected):
    assert verdict.compare(by_seed(*better), by_seed(*worse))[0] == expected


def test_pairing_uses_the_shared_seeds_only_and_wins_over_welch():
    better = Sample(50.0, 20.0, 3, {0: 30.0, 1: 50.0, 2: 70.0})
    worse = Sample(48.0, 20.0, 3, {2: 68.1, 1: 48.0, 0: 27.9, 7: 0.0})
    result, interval = verdict.compare(better, worse)
    assert result == REPRODUCED and interval.how == "paired t over 3 seeds"
    assert interval.difference == pytest.approx((2.1 + 2.0 + 1.9) / 3)
    unpaired = verdict.compare(Sample(50.0, 20.0, 3), Sample(48.0, 20.0, 3))
    assert unpaired[0] == NOT_REPRODUCED and unpaired[1].how == "Welch t, n 3 and 3"


# --- Welch: deviations 1 and n 3 on both sides: variance 2/3, df 4 ---


def test_welch_by_hand_equal_sides():
    interval = verdict.welch(Sample(10, 1, 3), Sample(7, 1, 3))
    half = T4 * math.sqrt(2 / 3)  # 2.267
    assert (interval.difference, interval.low, interval.high) == pytest.approx(
        (3, 3 - half, 3 + half)
    )


def test_welch_by_hand_unequal_sides():
    """s1^2/n1 = s2^2/n2 = 1: variance 2, df = 4 / (1/3 + 1/8) = 96/11.

    scipy's p is 5 % at the end of the interval.
    """
    interval = verdict.welch(Sample(0, 2, 4), Sample(0, 3, 9))
    assert interval.high == pytest.approx(stats.t.ppf(0.975, 96 / 11) * math.sqrt(2))
    at_end = stats.ttest_ind_from_stats(interval.high, 2, 4, 0, 3, 9, equal_var=False)
    assert at_end.pvalue == pytest.approx(0.05)


@pytest.mark.parametrize(
    "gap, expected", [(2.26, NOT_REPRODUCED), (2.27, REPRODUCED), (-2.27, NOT_REPRODUCED)]
)
def test_welch_verdicts(gap, expected):
    assert verdict.compare(Sample(gap, 1, 3), Sample(0, 1, 3))[0] == expected


def test_equal_numbers_without_spread_do_not_hold_and_a_gap_does():
    assert verdict.compare(Sample(1, 0, 3), Sample(1, 0, 3))[0] == NOT_REPRODUCED
    assert verdict.compare(Sample(2, 0, 3), Sample(1, 0, 3))[0] == REPRODUCED


def test_where_lower_is_better_the_interval_speaks_for_the_claim():
    result, interval = verdict.compare(Sample(0.2, 0.01, 3), Sample(0.5, 0.01, 3), higher=False)
    assert result == REPRODUCED
    assert interval.difference == pytest.approx(0.3) and 0 < interval.low < 0.3 < interval.high
    assert (
        verdict.compare(Sample(0.5, 0.01, 3), Sample(0.2, 0.01, 3), higher=False)[0]
        == NOT_REPRODUCED
    )


@pytest.mark.parametrize(
    "better, worse",
    [((9, None, 1), (1, 0.1, 3)), ((9, 0.1, 3), (1, None, 1)), ((9, 0.1, 3), (1, None, 3))],
)
def test_too_few_seeds_on_either_side(better, worse):
    assert verdict.compare(Sample(*better), Sample(*worse)) == (NOT_ENOUGH, None)


def test_ten_folds_of_one_seed_are_one_seed():
    assert verdict.compare(Sample(9, 1, 10, seeds=1), Sample(1, 1, 10, seeds=3)) == (
        NOT_ENOUGH,
        None,
    )
    assert verdict.compare(Sample(9, 1, 20, seeds=2), Sample(1, 1, 30, seeds=3))[0] == REPRODUCED


def test_reasons():
    told = [
        verdict.reason(*verdict.compare(Sample(g, 1, 3), Sample(0, 1, 3))) for g in (3, 1, -1, -3)
    ]
    assert told == [
        "interval excludes zero",
        "interval includes zero",
        "interval includes zero",
        "the opposite holds",
    ]
    one, three = Sample(1, None, 1), Sample(1, None, 3)
    assert (
        verdict.reason(NOT_ENOUGH, None, one, Sample(1, 1, 3)) == "fewer than two seeds on a side"
    )
    assert (
        verdict.reason(NOT_ENOUGH, None, three, Sample(1, 1, 3)) == "no deviation known on a side"
    )


def test_an_interval_without_any_spread_says_so():
    _, interval = verdict.compare(Sample(2, 0, 3), Sample(1, 0, 3))
    assert interval.how == "Welch t, n 3 and 3, no spread on either side"
    assert (
        verdict.paired([1.5, 2.5], [1.0, 2.0]).how
        == "paired t over 2 seeds, the same difference in each"
    )


def test_the_interval_of_a_mean():
    low, high = verdict.mean_interval(Sample(10, 3, 3))
    assert (low, high) == pytest.approx((10 - T2 * math.sqrt(3), 10 + T2 * math.sqrt(3)))
    assert verdict.mean_interval(Sample(10, None, 1)) is None


@pytest.mark.parametrize(
    "pairs, expected",
    [
        ([], NOT_RUN),
        ([NOT_ENOUGH], NOT_ENOUGH),
        ([REPRODUCED, NOT_ENOUGH], REPRODUCED),
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REPRODUCED, NOT_REPRODUCED], PARTLY),
        ([NOT_REPRODUCED, NOT_ENOUGH], NOT_REPRODUCED),
    ],
)
def test_a_claim_from_its_pairs(pairs, expected):
    assert verdict.combine(pairs) == expected


# --- claims on rows ---

BETTER = Claim(
    "cavl", "better", "s", {"method": "cavl"}, {"method": "uniform"}, {"metric": "test acc.*"}
)


def test_a_claim_is_judged_on_real_rows_and_apart_from_them_on_the_sample(repository):
    judgement = judge(BETTER, load(repository, ["cavl"])[0])
    (real,), (sample,) = judgement.real, judgement.sample
    assert (real.better.value, real.worse.value, judgement.verdict) == (
        97.0,
        93.0,
        REPRODUCED,
    )  # 4 +- 2.27
    assert (sample.better.value, sample.worse.value, judgement.on_sample) == (
        84.2,
        61.3,
        REPRODUCED,
    )
    assert judgement.commands == ["python main.py -seeds 0,1,2"] and judgement.published == []


def test_rows_of_another_protocol_are_never_compared(repository):
    paper = load(repository, ["csl"])[0]
    claim = Claim("csl", "better", "s", {"method": "CSL"}, {"method": "ignore.*"})
    judgement = judge(claim, paper)
    assert judgement.verdict == NOT_ENOUGH  # the baseline ran once
    assert [(b.value, w.value) for b, w in judgement.published] == [
        (83.44, 76.46)
    ]  # not the best-epoch row
    assert {b.cells["protocol"] for b, _ in judgement.published} == {"last epoch"}


def change(repository, old: str, new: str) -> None:
    path = repository / "cavl" / "results" / "ours.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_rows_measured_on_other_data_are_not_compared(repository):
    change(
        repository,
        '"python main.py -seeds 0,1,2",abc1234,,x86',
        '"python main.py -seeds 0,1,2",abc1234,d2,x86',
    )
    judgement = judge(BETTER, load(repository, ["cavl"])[0])
    (real,) = judgement.real
    assert (real.verdict, real.why, judgement.verdict) == (
        NOT_ENOUGH,
        "measured on other data (d1 and d2)",
        NOT_ENOUGH,
    )


def test_rows_measured_with_another_torch_or_device_say_so(repository):
    path = repository / "cavl" / "results" / "ours.csv"
    lines = path.read_text().splitlines()
    lines[2] = (
        lines[2].replace("2.13.0", "2.14.1").replace("x86_64 1x1 threads", "H200 1x8 threads")
    )
    path.write_text("\n".join(lines) + "\n")
    (real,) = judge(BETTER, load(repository, ["cavl"])[0]).real
    assert real.verdict == REPRODUCED
    assert real.why == (
        "interval excludes zero; measured with torch 2.13.0 and 2.14.1, "
        "device x86_64 1x1 threads and H200 1x8 threads"
    )


@pytest.mark.parametrize(
    "metric, better, worse, expected",
    [
        ("mAP", 0.834, 76.0, True),
        ("mAP", 83.4, 0.76, True),
        ("top-1", 0.75, 75.2, True),
        ("mAP", 83.4, 76.0, False),
        ("mAP", 0.83, 0.76, False),
        ("accuracy %", 0.9, 80.0, False),  # the unit is named
        ("R_k", 0.9, 80.0, False),  # no share
        ("mAP", 0.9, 12.0, False),  # not of the same size in another unit
        ("mAP", 0.0, 50.0, False),
        ("accuracy", 1.0, 99.0, True),
    ],
)
def test_a_fraction_beside_percent_is_seen(metric, better, worse, expected):
    rows = [Row("cavl", {"metric": metric}, value, None, 1, False) for value in (better, worse)]
    assert units_differ(*rows) is expected


def test_a_pair_of_a_fraction_and_percent_is_not_decided(repository):
    change(repository, "test accuracy %", "test accuracy")
    change(repository, "93.0000,1.0000", "0.9300,0.0100")
    (repository / "cavl" / "results" / "seeds.csv").unlink()
    claim = Claim(
        "cavl", "better", "s", {"method": "cavl"}, {"method": "uniform"}, {"dataset": "MNIST"}
    )
    (real,) = judge(claim, load(repository, ["cavl"])[0]).real
    assert (real.verdict, real.why) == (
        NOT_ENOUGH,
        "one looks like percent, the other like a fraction",
    )


def test_seeds_are_paired_as_numbers(repository):
    text = "seed,value\n"
    task = "MNIST,USS,test accuracy %,last-10 mean"
    for method, values in (
        ("cavl", {10: 97.0, 9: 96.0, 2: 98.0}),
        ("uniform", {2: 94.0, 9: 92.0, 10: 93.0}),
    ):
        text += "".join(f"{method},{task},{seed},{value}\n" for seed, value in values.items())
    path = repository / "cavl" / "results" / "seeds.csv"
    path.write_text(path.read_text().split("seed,value")[0] + text)
    change(repository, ",0 1 2,", ",10 2 9,")
    (real,) = judge(BETTER, load(repository, ["cavl"])[0]).real
    assert real.interval.difference == 4.0 and real.interval.low == 4.0


def test_a_claim_without_rows_was_not_run_and_tells_its_command(repository):
    claim = Claim("csl", "c", "s", {"method": "x"}, {"method": "y"}, command="python train.py")
    judgement = judge(claim, load(repository, ["csl"])[0])
    assert (judgement.verdict, judgement.on_sample, judgement.commands) == (
        NOT_RUN,
        NOT_RUN,
        ["python train.py"],
    )


def test_a_claim_on_settings_compares_rows_that_agree_in_all_else(repository):
    claim = Claim("csl", "c", "s", {"protocol": "best.*"}, {"protocol": "last.*"})
    assert [
        (b.key[0], w.key[0]) for b, w in judge(claim, load(repository, ["csl"])[0]).published
    ] == [("CSL", "CSL")]
