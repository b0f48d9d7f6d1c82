"""Every number of the page as CSV, inside the page."""

from collections.abc import Sequence

from sidebyside.claims import Judgement, Pair
from sidebyside.markup import csv_address, fitted
from sidebyside.records import KEY, Paper
from sidebyside.results import OURS


def build(papers: Sequence[Paper], judgements: Sequence[Judgement]) -> list[tuple[str, str, str]]:
    """Name, address and meaning of both files: every row, and every pair behind a verdict."""
    return [
        ("numbers.csv", _numbers(papers), "every row with its provenance"),
        ("claims.csv", _claims(judgements), "every pair behind a verdict"),
    ]


def _numbers(papers: Sequence[Paper]) -> str:
    header = ["paper", "source", *OURS[:5], "value", *OURS[6:]]
    rows = []
    for paper in papers:
        for row in paper.published:
            source = ": ".join(filter(None, ("paper", *row.pick(("table", "note")))))
            cells = [paper.name, source, *row.key, *row.pick(("value", "std", "n"))]
            rows.append(fitted(cells, len(header)))
        for row in paper.ours:
            source = "offline sample" if row.is_sample else "ours"
            rows.append([paper.name, source, *row.pick(OURS)])
    return csv_address(header, rows)


def _claims(judgements: Sequence[Judgement]) -> str:
    header = ["paper", "claim", "data"]
    for side in ("better", "worse"):
        header += [f"{side}_{column}" for column in KEY]
    header += ["difference", "low", "high", "interval", "margin", "seeds", "pair", "why"]
    header += ["earlier_code", "claim_verdict"]

    rows = []
    for judgement in judgements:
        claim = judgement.claim
        for pair in judgement.real:
            cells = _pair_cells(pair)
            rows.append([claim.paper, claim.name, "real data", *cells, judgement.verdict])
        for pair in judgement.before:
            cells = _pair_cells(pair)
            rows.append([claim.paper, claim.name, "real data, not counted", *cells, pair.verdict])
        for pair in judgement.sample:
            cells = _pair_cells(pair)
            rows.append([claim.paper, claim.name, "offline sample", *cells, judgement.on_sample])
    return csv_address(header, rows)


def _pair_cells(pair: Pair) -> list[object]:
    """The rows of a pair, its interval and margin, its verdict and why."""
    decision = pair.decision
    ends: tuple[object, ...] = ("", "", "", "", decision.delta, "")
    found = decision.difference
    if found is not None:
        ends = (found.mean, decision.low, decision.high, found.how, decision.delta, found.n)
    is_earlier = int(pair.is_earlier)
    return [*pair.better.key, *pair.worse.key, *ends, pair.verdict, pair.why, is_earlier]
