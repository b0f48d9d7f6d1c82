"""What compare.py prints: a table for each paper, and the claims; the README's claims table in Markdown."""

from collections.abc import Iterable, Sequence

from sidebyside.claims import Judgement, Pair
from sidebyside.numbers import lines_of
from sidebyside.records import Paper, Row
from sidebyside.runs import RunFolder, names, natural, told_of
from sidebyside.verdict import NOT_REPRODUCED, NOT_RUN, REPRODUCED, VERDICTS
from sidebyside.wording import printable, signed

BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"
_WIDEST = 34


class Whole(str):
    """A cell that is never cut, since its end tells it from others."""


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns; a cell wider than 34 characters is cut with an ellipsis."""
    lines = [[_cut(c) for c in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([told[0], "-" * min(sum(widths) + 2 * len(widths) - 2, 160), *told[1:]])


def _cut(cell: str) -> str:
    is_whole = isinstance(cell, Whole)
    cell = printable(" ".join(cell.split()))
    return cell if is_whole or len(cell) <= _WIDEST else f"{cell[: _WIDEST - 1]}…"


def paper_table(paper: Paper) -> str:
    """The number-by-number table, then the sample's, labelled; what is not there is said."""
    parts = [f"== {paper.title or paper.name}"]
    parts += [f"not there: {m}" for m in paper.missing]
    rows = []
    for line in lines_of(paper):
        published = line.published.number() if line.published else ""
        difference = "" if line.difference is None else signed(line.difference)
        rows.append((*_keys(line.ours or line.published), published, _ours(line.ours), difference))
    if rows:
        parts.append(
            columns(
                ("data", "setting", "method", "metric", "protocol", "paper", "ours", "diff"), rows
            )
        )
    if paper.samples:
        parts.append("offline sample (not comparable to the paper)")
        rows = [(*_keys(row), _ours(row)) for row in paper.samples]
        parts.append(columns(("data", "setting", "method", "metric", "protocol", "measured"), rows))
    return "\n".join(parts)


def _keys(row: Row) -> tuple[str, ...]:
    return tuple(row.cells[c] for c in ("dataset", "setting", "method", "metric", "protocol"))


def _ours(row: Row | None) -> str:
    return NOT_RUN if row is None or row.value is None else f"{row.number()} (n {row.n})"


def claims_table(judgements: Sequence[Judgement]) -> str:
    """Every claim with its verdicts, and the count of each verdict."""
    rows = [
        (j.claim.paper, j.claim.name, _held(j.real), j.verdict, _held(j.sample)) for j in judgements
    ]
    told = tally([j.verdict for j in judgements])
    header = ("paper", "claim", "pairs that hold", "verdict", "on the sample")
    return "\n".join(
        [
            "== Claims (the rule: compare.html, The rule)",
            columns(header, rows),
            f"on real data: {told}",
        ]
    )


def tally(verdicts: Sequence[str]) -> str:
    """`2 reproduced, 1 not run`: how many claims got each verdict."""
    return ", ".join(
        f"{count} {verdict}" for verdict in VERDICTS if (count := verdicts.count(verdict))
    )


def _held(pairs: Sequence[Pair], what: str = "") -> str:
    """`5 of 6`, of the decided pairs; those that cannot be decided are counted apart."""
    verdicts = [p.verdict for p in pairs]
    held = verdicts.count(REPRODUCED)
    decided = held + verdicts.count(NOT_REPRODUCED)
    parts = []
    if decided:
        parts.append(f"{held} of {decided}{what}")
    if len(pairs) > decided:
        parts.append(f"{len(pairs) - decided} open")
    return ", ".join(parts) or "-"


def runs_table(runs: Sequence[RunFolder]) -> str:
    """The run directories given, one line each, with the first figure of their summaries."""
    named = names(runs)
    rows = []
    for run in sorted(runs, key=lambda r: (r.paper or "~", natural(named[r.path]))):
        told = told_of(run)
        name = Whole(named[run.path])
        paper = run.paper or "?"
        rows.append(
            (
                paper,
                name,
                run.method,
                run.data,
                told.seed,
                told.kind,
                told.epochs,
                Whole(told.figures),
            )
        )
    header = ("paper", "run", "method", "data", "seed", "kind", "last epoch", "first figure")
    return "== Run directories\n" + columns(header, rows)


def markdown_claims(judgements: Sequence[Judgement]) -> str:
    """The root README's tally and claims table: claim, what the paper reports, what we measured, verdict, sample."""
    real, sample = (
        tally([getattr(j, kind) for j in judgements]) for kind in ("verdict", "on_sample")
    )
    lines = [
        f"{len(judgements)} claims. On real data: {real}. On the offline samples: {sample}.",
        "",
    ]
    lines += [
        "| paper | claim | the paper | measured here, real data | verdict | offline sample |",
        "| --- " * 6 + "|",
    ]
    for j in judgements:
        published = (
            _numbers(*j.published[0]) if j.published else f"no numbers at hand ({j.claim.source})"
        )
        measured = _numbers(j.real[0].better, j.real[0].worse) if j.real else ""
        pairs = f"; {_held(j.real, ' pairs hold')}" if len(j.real) > 1 else ""
        sample = f"{j.on_sample} ({_held(j.sample)})" if j.sample else NOT_RUN
        cells = (f"[{j.claim.paper}]({j.claim.paper}/README.md)", j.claim.statement, published)
        verdict = f"**{j.verdict}**" + (f". {j.note}" if j.note else "")
        cells = (*cells, f"{measured}{pairs}", verdict, sample)
        lines.append(
            "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in cells) + " |"
        )
    return "\n".join(lines)


def _numbers(better: Row, worse: Row) -> str:
    where = ", ".join(
        filter(None, (better.cells["dataset"], better.cells["setting"], better.cells["metric"]))
    )
    return f"{better.number()} against {worse.number()} ({worse.cells['method']}; {where})"


def with_claims(readme: str, judgements: Sequence[Judgement]) -> str:
    """The README's text with the claims table between its markers made anew; ValueError without markers."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"needs {BEGIN} and {END} once each")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{markdown_claims(judgements)}\n{END}{rest.split(END)[1]}"
