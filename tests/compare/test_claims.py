"""The judge: which rows a registered claim compares, and what becomes of the pairs."""

import datetime

import pytest

from sidebyside.claims import judge, judge_all
from sidebyside.numbers import units_differ
from sidebyside.records import Row, load
from sidebyside.register import Claim
from sidebyside.results import OURS, ROOT, SEEDS, read, write
from sidebyside.verdict import (
    CONFOUNDED,
    CONTRADICTED,
    MIXED,
    NO_DIFFERENCE,
    NOT_ENOUGH,
    NOT_RUN,
    REPRODUCED,
    UNDECIDED,
)
from tests.compare.conftest import ours_row

DAY = datetime.date(2030, 1, 1)
CURRENT = {"method_sha": "m1", "date": "2030-01-02"}


def claim(**changes) -> Claim:
    """cavl beats uniform in test accuracy, by a point."""
    given = {
        "paper": "cavl",
        "name": "better",
        "statement": "s",
        "better": {"method": "cavl"},
        "worse": {"method": "uniform"},
        "endpoint": {"metric": "test accuracy %"},
        "margins": [(".*", 1.0)],
        "registered": DAY,
        "seeds": 3,
    }
    return Claim(**(given | changes))


@pytest.fixture
def judged(repository):
    """Judge a claim on rows that take the place of cavl's."""

    def judge_rows(rows, wanted: Claim | None = None):
        results = repository / "cavl" / "results"
        write(results / "ours.csv", rows)
        (results / "seeds.csv").unlink(missing_ok=True)
        return judge(wanted or claim(), load(repository, ["cavl"])[0])

    return judge_rows


def rows_of(better: float, worse: float, std: float = 0.1, **cells) -> list[dict]:
    return [
        ours_row("cavl", better, std, **(CURRENT | cells)),
        ours_row("uniform", worse, std, **(CURRENT | cells)),
    ]


# --- real data and the sample ---


def test_real_rows_and_sample_rows_are_judged_apart(repository):
    judgement = judge(claim(), load(repository, ["cavl"])[0])
    (real,) = judgement.real
    (sample,) = judgement.sample
    assert (real.better.value, real.worse.value, judgement.verdict) == (97.0, 93.0, REPRODUCED)
    assert (sample.better.value, sample.worse.value) == (84.2, 61.3)
    assert judgement.on_sample == REPRODUCED
    assert judgement.commands == ["python main.py -seeds 0,1,2"]
    assert judgement.published == []


def test_rows_of_another_protocol_are_never_compared(repository):
    judgement = judge_all(load(repository, ["csl"]))[0]
    assert judgement.verdict == NOT_ENOUGH  # the baseline ran once
    assert [(b.value, w.value) for b, w in judgement.published] == [(83.44, 76.46)]
    assert {b.cells["protocol"] for b, _ in judgement.published} == {"last epoch"}


def test_a_claim_without_rows_was_not_run_and_tells_its_command(repository):
    judgement = judge_all(load(repository, ["csl"]))[1]
    assert (judgement.verdict, judgement.on_sample) == (NOT_RUN, NOT_RUN)
    assert judgement.commands == ["python train.py --data DATA/OpenImages"]


def test_a_claim_on_protocols_compares_rows_that_agree_in_all_else(repository):
    wanted = claim(
        paper="csl",
        better={"protocol": "best.*"},
        worse={"protocol": "last.*"},
        endpoint={"metric": "mAP.*"},
    )
    judgement = judge(wanted, load(repository, ["csl"])[0])
    assert [(b.key[0], w.key[0]) for b, w in judgement.published] == [("CSL", "CSL")]


def test_seeds_are_paired_as_numbers(repository):
    task = "MNIST,USS,test accuracy %,last-10 mean"
    text = "seed,value\n"
    values = {
        "cavl": {10: 97.0, 9: 96.0, 2: 98.0},
        "uniform": {2: 94.0, 9: 92.0, 10: 93.0},
    }
    for method, own in values.items():
        text += "".join(f"{method},{task},{seed},{value}\n" for seed, value in own.items())
    results = repository / "cavl" / "results"
    seeds = results / "seeds.csv"
    seeds.write_text(seeds.read_text().split("seed,value")[0] + text)
    ours = results / "ours.csv"
    ours.write_text(ours.read_text().replace(",0 1 2,", ",10 2 9,"))
    (real,) = judge(claim(), load(repository, ["cavl"])[0]).real
    assert real.decision.difference.mean == 4.0
    assert real.decision.low == 4.0


# --- tasks ---


def test_tasks_that_disagree_are_mixed(judged):
    rows = rows_of(97, 93) + rows_of(50, 60, dataset="KMNIST")
    judgement = judged(rows)
    assert [(task.name, task.verdict) for task in judgement.tasks] == [
        ("MNIST, USS", REPRODUCED),
        ("KMNIST, USS", CONTRADICTED),
    ]
    assert judgement.verdict == MIXED


def test_a_claim_over_two_methods_must_hold_for_both(judged):
    rows = [*rows_of(97, 93), ours_row("rc", 96.9, 0.1, **CURRENT)]
    judgement = judged(rows, claim(worse={"method": "uniform|rc"}))
    assert [pair.verdict for pair in judgement.real] == [REPRODUCED, NO_DIFFERENCE]
    assert judgement.verdict == NO_DIFFERENCE


def test_tasks_share_the_error(judged):
    """A difference that is enough alone is not enough beside four tasks that show nothing."""
    good = rows_of(95, 93, 0.7)
    alone = judged(good)
    assert alone.verdict == REPRODUCED
    others = []
    for number in range(4):
        others += rows_of(95, 95, 20, dataset=f"D{number}")
    beside = judged([*good, *others])
    assert [task.verdict for task in beside.tasks] == [UNDECIDED] * 5
    assert beside.tasks[0].pairs[0].decision.low < alone.tasks[0].pairs[0].decision.low


def test_the_margin_is_that_of_the_data_set(judged):
    rows = rows_of(93.5, 93) + rows_of(93.5, 93, dataset="CIFAR-10")
    wanted = claim(margins=[("mnist", 0.2), (".*", 1.0)])
    judgement = judged(rows, wanted)
    assert [task.verdict for task in judgement.tasks] == [REPRODUCED, NO_DIFFERENCE]


def test_lower_may_be_better(judged):
    assert judged(rows_of(0.3, 2.5), claim(higher=False)).verdict == REPRODUCED
    assert judged(rows_of(2.5, 0.3), claim(higher=False)).verdict == CONTRADICTED


# --- what keeps two rows from being compared ---


@pytest.mark.parametrize(
    ("column", "one", "other", "why"),
    [
        ("data_sha", "d1", "d2", "measured on other data (d1 and d2)"),
        ("method_sha", "m1", "m2", "measured with other code (m1 and m2)"),
        ("torch", "2.14.1", "3.0.0", "measured with torch 2.14.1 and 3.0.0"),
        (
            "device",
            "x86_64 1x1 threads",
            "H200 1x8 threads",
            "measured with device x86_64 1x1 threads and H200 1x8 threads",
        ),
    ],
)
def test_rows_of_other_circumstances_are_not_paired(judged, column, one, other, why):
    better, worse = rows_of(97, 93)
    better[column] = one
    worse[column] = other
    judgement = judged([better, worse])
    (real,) = judgement.real
    assert (real.verdict, real.why) == (NOT_ENOUGH, why)
    assert judgement.verdict == NOT_ENOUGH


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [
        ("data_sha", "d1", ""),
        ("torch", "2.13.0", "2.14.1"),
        ("device", "x86_64 1x1 threads", "x86_64 2x4 threads"),
    ],
)
def test_what_may_differ(judged, column, one, other):
    better, worse = rows_of(97, 93)
    better[column] = one
    worse[column] = other
    assert judged([better, worse]).verdict == REPRODUCED


def test_a_pair_of_a_fraction_and_percent_is_not_decided(judged):
    rows = rows_of(97, 0.93)
    for row in rows:
        row["metric"] = "test accuracy"
    (real,) = judged(rows, claim(endpoint={"metric": "test accuracy"})).real
    assert real.why == "one looks like percent, the other like a fraction"
    assert real.verdict == NOT_ENOUGH


@pytest.mark.parametrize(
    ("metric", "better", "worse", "expected"),
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


# --- attribution: networks of equal accuracy ---


def maps(accuracies: tuple[float, float]) -> list[dict]:
    rows = rows_of(30, 20, metric="mPxAP %")
    for method, accuracy in zip(("cavl", "uniform"), accuracies, strict=True):
        rows.append(ours_row(method, accuracy, 0.1, **CURRENT, **{"metric": "accuracy %"}))
    return rows


ABOUT_MAPS = {"endpoint": {"metric": "mPxAP.*"}, "equal_accuracy": 5.0}


def test_maps_of_networks_of_equal_accuracy_are_compared(judged):
    assert judged(maps((70, 74.9)), claim(**ABOUT_MAPS)).verdict == REPRODUCED


def test_maps_of_unequal_networks_are_confounded(judged):
    judgement = judged(maps((70, 75.1)), claim(**ABOUT_MAPS))
    (pair,) = judgement.real
    assert judgement.verdict == CONFOUNDED
    assert pair.why == "confounded: accuracy 70.0 and 75.1"
    assert pair.decision.difference.mean == pytest.approx(10)


def test_maps_of_networks_of_unknown_accuracy_are_confounded(judged):
    judgement = judged(maps((70, 75))[:3], claim(**ABOUT_MAPS))
    assert judgement.real[0].why == "confounded: the accuracy of a network is not known"


# --- when it was measured ---


@pytest.mark.parametrize(
    ("cells", "is_earlier"),
    [
        ({}, False),
        ({"date": "2030-01-01"}, False),
        ({"date": "2029-12-31"}, True),
        ({"method_sha": ""}, True),
    ],
)
def test_rows_from_before_the_registration_are_earlier_code(judged, cells, is_earlier):
    judgement = judged(rows_of(97, 93, **cells))
    assert judgement.verdict == REPRODUCED
    assert judgement.is_earlier is is_earlier


def test_every_verdict_of_this_repository_is_of_registered_runs_or_says_that_it_is_not():
    for judgement in judge_all(load(ROOT)):
        for pair in judgement.real:
            registered = judgement.claim.registered.isoformat()
            for row in (pair.better, pair.worse):
                is_later = row.cells["date"] >= registered and row.cells["method_sha"] != ""
                assert is_later or judgement.is_earlier


# --- superseded, secondary, beside ---


def test_a_superseded_row_is_kept_and_counts_for_nothing(repository, judged):
    old = rows_of(10, 93, superseded_by="abc1234: three epochs instead of one")
    judgement = judged([*rows_of(97, 93), *old])
    assert judgement.verdict == REPRODUCED
    assert len(judgement.real) == 1
    paper = load(repository, ["cavl"])[0]
    assert [row.value for row in paper.superseded] == [10, 93]
    assert [row.value for row in paper.real] == [97, 93]


def test_superseded_rows_of_a_task_of_their_own_keep_their_values_by_seed(repository):
    results = repository / "cavl" / "results"
    task = {"setting": "USS, 2 epochs", "superseded_by": "abc1234: longer"}
    rows = read(results / "ours.csv", OURS)
    rows.append(ours_row("cavl", 50.0, 1.0, **task))
    write(results / "ours.csv", rows)
    seeds = read(results / "seeds.csv", SEEDS)
    key = {column: rows[-1][column] for column in OURS[:5]}
    seeds += [{**key, "seed": seed, "value": 49 + seed} for seed in range(3)]
    write(results / "seeds.csv", seeds, SEEDS)
    (old,) = load(repository, ["cavl"])[0].superseded
    assert old.by_seed == {0: 49, 1: 50, 2: 51}


def test_the_rows_that_longer_runs_replaced_are_back():
    papers = {paper.name: paper for paper in load(ROOT)}
    assert len(papers["csl"].superseded) == 24
    assert len(papers["oass"].superseded) == 18


def test_secondary_metrics_are_shown_and_not_counted(judged):
    rows = rows_of(97, 93) + rows_of(10, 20, metric="F1 %")
    judgement = judged(rows, claim(secondary=["F1 %", "test accuracy %"]))
    assert judgement.verdict == REPRODUCED
    assert [pair.verdict for pair in judgement.secondary] == [CONTRADICTED]


def test_rows_that_give_the_scale_stand_beside(judged):
    rows = [*rows_of(97, 93), ours_row("chance", 10.0, "", **CURRENT)]
    rows.append(ours_row("chance", 10.0, "", dataset="KMNIST", **CURRENT))
    judgement = judged(rows, claim(beside="chance.*"))
    assert [row.listed("method", "dataset") for row in judgement.beside] == ["chance, MNIST"]
