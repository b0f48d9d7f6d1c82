"""What compare.py prints: a table for each paper, the runs, and the claims."""

from collections.abc import Iterable, Sequence

from sidebyside.claims import Judgement, Pair, verdicts
from sidebyside.numbers import lines_of
from sidebyside.records import Paper, Row
from sidebyside.runs import RunFolder, names, natural, told_of
from sidebyside.verdict import MIXED, NOT_RUN, REPRODUCED, VERDICTS
from sidebyside.wording import printable, signed

_WIDEST = 34  # characters of a cell
_LONGEST = 160  # characters of the line below a header
_TASK = ("data", "setting", "method", "metric", "protocol")  # the headers of _task_of


class Whole(str):
    """A cell that is never cut, since its end tells it from others."""


# --- tables ---


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns; a cell wider than 34 characters is cut with an ellipsis."""
    lines = [list(map(_cut, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    total = sum(widths) + 2 * (len(widths) - 1)

    head, *body = [_aligned(line, widths) for line in lines]
    rule = "-" * min(total, _LONGEST)
    return "\n".join([head, rule, *body])


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(map(str.ljust, cells, widths)).rstrip()


def _cut(cell: str) -> str:
    told = printable(_one_line(cell))
    if isinstance(cell, Whole) or len(told) <= _WIDEST:
        return told
    return f"{told[: _WIDEST - 1]}…"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def paper_table(paper: Paper) -> str:
    """The number-by-number table, then the sample's, labelled; what is not there is said."""
    parts = [f"== {paper.title or paper.name}"]
    for absent in paper.missing:
        parts.append(f"not there: {absent}")

    rows = []
    for line in lines_of(paper):
        published = ""
        if line.published is not None:
            published = line.published.number()
        difference = ""
        if line.difference is not None:
            difference = signed(line.difference)
        rows.append((*_task_of(line.row), published, _ours(line.ours), difference))
    if rows:
        parts.append(columns((*_TASK, "paper", "ours", "diff"), rows))

    if paper.samples:
        measured = [(*_task_of(row), _ours(row)) for row in paper.samples]
        parts.append("offline sample (not comparable to the paper)")
        parts.append(columns((*_TASK, "measured"), measured))
    return "\n".join(parts)


def _task_of(row: Row) -> tuple[str, ...]:
    return row.pick(("dataset", "setting", "method", "metric", "protocol"))


def _ours(row: Row | None) -> str:
    if row is None or row.value is None:
        return NOT_RUN
    return f"{row.number()} (n {row.n})"


def claims_table(judgements: Sequence[Judgement]) -> str:
    """Every claim with its verdicts, a line a pair below it, and the count of each verdict."""
    rows: list[tuple[str, ...]] = []
    for judgement in judgements:
        name = Whole(judgement.claim.name)
        told = Whole(verdict_in_words(judgement))
        rows.append((judgement.claim.paper, name, "", "", "", told, judgement.on_sample))
        for pair in judgement.real:
            task = pair.better.listed("dataset", "setting")
            difference, interval, seeds = difference_cells(pair)
            rows.append(("", f"  {task}", difference, interval, seeds, pair.verdict, ""))
    header = ("paper", "claim", "difference", "interval", "n", "verdict", "on the sample")
    real = tally([judgement.verdict for judgement in judgements])
    parts = [
        "== Claims (the rule: compare.html, The rule)",
        columns(header, rows),
        f"on real data: {real}",
    ]
    return "\n".join(parts)


def verdict_in_words(judgement: Judgement) -> str:
    """The verdict on real data; where it rests on older rows, it says so.

    A mixed one counts its tasks: `mixed (5 reproduced, 1 undecided)`.
    """
    notes = []
    if judgement.verdict == MIXED:
        notes.append(tally([task.verdict for task in judgement.tasks]))
    if judgement.is_earlier:
        notes.append("earlier code")
    if not notes:
        return judgement.verdict
    return f"{judgement.verdict} ({'; '.join(notes)})"


def difference_cells(pair: Pair) -> tuple[str, str, str]:
    """Mean difference, its interval and the number of seeds of a pair; empty where not known."""
    decision = pair.decision
    found = decision.difference
    if found is None:
        return "", "", ""
    interval = f"[{signed(decision.low)}, {signed(decision.high)}]"
    return signed(found.mean), interval, str(found.n)


def tally(found: Sequence[str]) -> str:
    """`2 reproduced, 1 not run`: how many claims got each verdict."""
    parts = []
    for verdict in VERDICTS:
        count = found.count(verdict)
        if count:
            parts.append(f"{count} {verdict}")
    return ", ".join(parts)


def held(pairs: Sequence[Pair], what: str = "") -> str:
    """`5 of 6`: how many pairs are reproduced, of all; `-` where there is none."""
    if not pairs:
        return "-"
    holding = verdicts(pairs).count(REPRODUCED)
    return f"{holding} of {len(pairs)}{what}"


def runs_table(runs: Sequence[RunFolder]) -> str:
    """The run directories given, one line each, with the first figure of their summaries."""
    named = names(runs)

    def place(run: RunFolder) -> tuple[str, list[tuple[int, str]]]:
        return run.paper or "~", natural(named[run.path])

    rows = []
    for run in sorted(runs, key=place):
        told = told_of(run)
        rows.append(
            (
                run.paper or "?",
                Whole(named[run.path]),
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
