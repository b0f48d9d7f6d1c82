"""The tables of claims in Markdown: a row a claim for docs/claims.md, a row a paper for the README.

Each is written between two comments, <!-- claims:begin --> and <!-- claims:end -->, or the same
with `verdicts`.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

from sidebyside.claims import Judgement
from sidebyside.records import Row
from sidebyside.terminal import difference_cells, tally, verdict_in_words
from sidebyside.wording import markdown_line, show


def with_tables(text: str, judgements: Sequence[Judgement], top: str = "") -> str:
    """The text with the tables between its comments made anew; ValueError where it has none.

    Args:
        text: of a README or a page of docs/.
        judgements: of all claims.
        top: what leads from the document's folder to the repository: "" or "../".
    """
    names = [name for name in TABLES if f"<!-- {name}:" in text]
    for name in names or list(TABLES)[:1]:
        text = _with_table(text, name, TABLES[name](judgements, top))
    return text


def _with_table(text: str, name: str, table: str) -> str:
    begin = f"<!-- {name}:begin -->"
    end = f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"needs {begin} and {end} once each")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


# --- a row a claim ---


def markdown_claims(judgements: Sequence[Judgement], top: str = "") -> str:
    """A tally and a table of claims, then a table of every pair behind the verdicts."""
    real, sample = _tallies(judgements)
    header = ("paper", "claim", "the paper", "verdict", "offline sample")
    rows = [_claim_cells(judgement, top) for judgement in judgements]
    told = f"{len(judgements)} claims. On real data: {real}. On the offline samples: {sample}."
    pairs = itertools.chain.from_iterable(map(_pair_rows, judgements))
    pair_header = (
        *("claim", "measured on", "better", "against"),
        *("difference", "95 % interval", "margin", "n", "verdict"),
    )
    return "\n".join(
        [
            told,
            "",
            *_table(header, rows),
            "",
            "Every pair behind a verdict, on real data:",
            "",
            *_table(pair_header, pairs),
        ]
    )


def _tallies(judgements: Sequence[Judgement]) -> tuple[str, str]:
    """How many claims got which verdict: on real data, on the samples."""
    real = [judgement.verdict for judgement in judgements]
    sample = [judgement.on_sample for judgement in judgements]
    return tally(real), tally(sample)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [markdown_line(header), "| --- " * len(header) + "|"]
    lines += map(markdown_line, rows)
    return lines


def _link(paper: str, top: str) -> str:
    return f"[{paper}]({top}{paper}/README.md)"


def _claim_cells(judgement: Judgement, top: str) -> tuple[str, ...]:
    claim = judgement.claim
    published = f"no numbers at hand ({claim.source})"
    if judgement.published:
        published = _numbers(*judgement.published[0])
    verdict = f"**{verdict_in_words(judgement)}**"
    return _link(claim.paper, top), claim.statement, published, verdict, judgement.on_sample


def _pair_rows(judgement: Judgement) -> Iterable[tuple[str, ...]]:
    told = [(pair, pair.why) for pair in judgement.real]
    told += [(pair, f"{pair.why}; earlier code, not counted") for pair in judgement.before]
    for pair, why in told:
        difference, interval, seeds = difference_cells(pair)
        yield (
            f"{judgement.claim.paper}: {judgement.claim.name}",
            pair.better.listed("dataset", "setting", "metric"),
            _method_and_number(pair.better),
            _method_and_number(pair.worse),
            difference,
            interval,
            show(pair.decision.delta),
            seeds,
            f"{pair.verdict} ({why})",
        )


def _method_and_number(row: Row) -> str:
    return f"{row.cells['method']} {row.number()}"


def _numbers(better: Row, worse: Row) -> str:
    where = better.listed("dataset", "setting", "metric")
    return f"{better.number()} against {worse.number()} ({worse.cells['method']}; {where})"


# --- a row a paper ---


def markdown_verdicts(judgements: Sequence[Judgement], top: str = "") -> str:
    """A table: how many claims of each paper got which verdict, on real data and on the sample."""
    by_paper: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        by_paper.setdefault(judgement.claim.paper, []).append(judgement)

    rows = []
    for paper, own in by_paper.items():
        rows.append((_link(paper, top), str(len(own)), *_tallies(own)))
    header = ("paper", "claims", "measured here, real data", "offline sample")
    return "\n".join(_table(header, rows))


TABLES: dict[str, Callable[[Sequence[Judgement], str], str]] = {
    "claims": markdown_claims,
    "verdicts": markdown_verdicts,
}
