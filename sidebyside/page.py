"""The HTML page: one file that needs nothing else."""

import time
from collections.abc import Sequence
from pathlib import Path

from sidebyside import curves
from sidebyside.claims import Judgement, Pair
from sidebyside.markup import (
    Cell,
    badge,
    download,
    markdown,
    picture,
    provenance,
    provenance_line,
    table,
    text,
    unique_ids,
)
from sidebyside.numbers import Line, lines_of
from sidebyside.records import KEY, Paper, Row
from sidebyside.results import OURS
from sidebyside.runs import RunFolder, names, told_of
from sidebyside.verdict import NOT_ENOUGH, NOT_RUN, REPRODUCED, RULE, VERDICTS
from sidebyside.wording import signed

HERE = Path(__file__).parent
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_OPEN = 2  # pairs shown at once in a cell; the others fold out


def build(
    papers: Sequence[Paper], judgements: Sequence[Judgement], runs: Sequence[RunFolder] = ()
) -> str:
    """The whole page."""
    sections = [
        ("claims", "Does it reproduce?", _claims(judgements)),
        ("rule", "The rule", _rule(papers)),
    ]
    for paper in papers:
        sections.append((paper.name, paper.title or paper.name, _numbers(paper)))
    if runs:
        sections.append(("runs", "Your runs", _runs(runs)))
    sections.append(("curves", "Learning curves", _curves(_drawn(papers, runs))))
    sections.append(("gallery", "Pictures", _gallery(papers)))
    sections.append(("deviations", "Deviations register", _deviations(papers)))
    sections.append(("downloads", "Every number as CSV", _downloads(papers, judgements)))
    links = "".join(
        f'<li><a href="#{name}">{text(title.split(":")[0])}</a></li>' for name, title, _ in sections
    )
    body = "\n".join(
        f'<section id="{n}"><h2>{text(title)}</h2>\n{content}\n</section>'
        for n, title, content in sections
    )
    css = (HERE / "page.css").read_text(encoding="utf-8")
    js = (HERE / "page.js").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>Five weak-supervision papers, side by side</title>
<link rel="icon" href="data:,">
<style>
{css}</style>
</head>
<body>
<a class="skip" href="#claims">Skip to the claims</a>
<header>
<h1>Five weak-supervision papers, side by side</h1>
<p>What the papers report, what this repository measured, and whether the one bears the other out. Verdicts
are computed from the results files by <a href="#rule">one rule</a>; sample results stand apart, beside no paper's
number.</p>
{_tally(judgements)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
<footer><p>Made by <code>python compare.py</code> on {time.strftime("%Y-%m-%d")}; every number comes from a results
file, every verdict from the rule. <span id="selfcheck" role="status"></span></p></footer>
<script>
{js}</script>
</body>
</html>
"""


def _tally(judgements: Sequence[Judgement]) -> str:
    counts = [(v, sum(j.verdict == v for j in judgements)) for v in VERDICTS]
    items = "".join(
        f"<li>{badge(verdict, f': {count}')}</li>" for verdict, count in counts if count
    )
    return f'<p class="soft">{len(judgements)} central claims, on real data:</p><ul class="tally">{items}</ul>'


def _claims(judgements: Sequence[Judgement]) -> str:
    header = (
        "Paper",
        "Claim",
        "Verdict",
        "The paper reports",
        "Measured on real data",
        "Offline sample",
        "Command",
    )
    rows = []
    for j in judgements:
        order = VERDICTS.index(j.verdict)
        commands = "<br>".join(f"<code>{text(c)}</code>" for c in j.commands if c)
        sample = _pairs(j.sample) if j.sample else NOT_RUN
        if j.sample:
            sample = f"{badge(j.on_sample)}{_folded(f'{len(j.sample)} pairs', sample)}"
        rows.append(
            (
                Cell(f'<a href="#{j.claim.paper}">{j.claim.paper}</a>'),
                Cell(
                    f"<strong>{text(j.claim.name)}</strong><br>{text(j.claim.statement)}",
                    j.claim.name,
                ),
                Cell(
                    badge(j.verdict) + (f"<br><small>{text(j.note)}</small>" if j.note else ""),
                    order,
                ),
                _published(j),
                _pairs(j.real) if j.real else NOT_RUN,
                Cell(sample, VERDICTS.index(j.on_sample)),
                Cell(
                    _folded("command", f"<p>in <code>{j.claim.paper}/</code></p>{commands}")
                    if commands
                    else ""
                ),
            )
        )
    note = "Offline samples are small drawn data sets: they show that the method works, and are not comparable to a paper."
    return table("claims-table", note, header, rows)


def _published(j: Judgement) -> str:
    items = [
        f"<li>{_where(b)}<br><b>{text(b.cells['method'])} {b.number()}</b>, {text(w.cells['method'])} {w.number()}</li>"
        for b, w in j.published
    ]
    source = f"<small>{text(j.claim.source)}</small>" if j.claim.source else ""
    return _list(items) + source if items else f"<span>no numbers at hand</span><br>{source}"


def _pairs(pairs: Sequence[Pair]) -> str:
    items = []
    for p in pairs:
        told = f"{text(p.better.cells['method'])} {p.better.number()}"
        against = f"{text(p.worse.cells['method'])} {p.worse.number()}"
        sign = {REPRODUCED: '<span class="holds">holds</span>', NOT_ENOUGH: "open"}.get(
            p.verdict, '<span class="fails">does not hold</span>'
        )
        i = p.interval
        span = f"{signed(i.difference)} [{signed(i.low)}, {signed(i.high)}], {i.how}; " if i else ""
        title = text(f"{provenance_line(p.better)} | {provenance_line(p.worse)}")
        items.append(
            f'<li title="{title}">{_where(p.better)}<br><b>{told}</b> (n {p.better.n}), {against} (n {p.worse.n})<br>'
            f"{sign} <small>{text(span)}{text(p.why)}</small></li>"
        )
    return _list(items)


def _list(items: Sequence[str]) -> str:
    shown = f"<ul>{''.join(items[:_OPEN])}</ul>"
    return shown + (
        _folded(f"{len(items) - _OPEN} more", f"<ul>{''.join(items[_OPEN:])}</ul>")
        if items[_OPEN:]
        else ""
    )


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def _where(row: Row) -> str:
    c = row.cells
    return f"<small>{text(', '.join(filter(None, (c['dataset'], c['setting'], c['metric'], c['protocol']))))}</small>"


def _rule(papers: Sequence[Paper]) -> str:
    missing = [m for p in papers for m in p.missing]
    known = sum(row.by_seed is not None for p in papers for row in p.ours)
    absent = (
        f"<p>Not there: {', '.join(f'<code>{text(m)}</code>' for m in missing)}.</p>"
        if missing
        else ""
    )
    return f"<p>{text(RULE)}</p><p>{known} rows are known seed by seed (results/seeds.csv).</p>{absent}"


def _numbers(paper: Paper) -> str:
    parts = [f'<p><a href="{text(paper.link)}">The paper</a></p>' if paper.link else ""]
    parts += [
        f"<p>Not there: <code>{text(m)}</code></p>"
        for m in paper.missing
        if m.endswith((".csv", "/"))
    ]
    lines = lines_of(paper)
    if lines:
        header = (
            "Data set",
            "Setting",
            "Method",
            "Metric",
            "Protocol",
            "Paper",
            "Ours",
            "Difference",
            "Seeds",
            "Source",
        )
        note = "Real data. A number stands beside the paper's only where all of the first five columns agree."
        parts.append(table(f"{paper.name}-numbers", note, header, map(_line, lines), "numbers"))
    if paper.samples:
        header = (
            "Data set",
            "Setting",
            "Method",
            "Metric",
            "Protocol",
            "Measured",
            "Seeds",
            "Source",
        )
        rows = [
            (*_keys(r), _measured(r), text(r.cells["seeds"]), provenance(r)) for r in paper.samples
        ]
        note = "Offline sample: not comparable to any number of the paper."
        parts.append(table(f"{paper.name}-sample", note, header, rows, "numbers sample"))
    return "\n".join(parts) if any(parts) else "<p>No results yet.</p>"


def _keys(row: Row) -> tuple[str, ...]:
    return tuple(text(row.cells[c]) for c in ("dataset", "setting", "method", "metric", "protocol"))


def _measured(row: Row | None) -> Cell:
    if row is None or row.value is None:
        return Cell(NOT_RUN)
    return Cell(
        f'<span title="{text(provenance_line(row))}"><b>{row.number()}</b></span> <small>n {row.n}</small>',
        row.value,
    )


def _line(line: Line) -> tuple[str, ...]:
    row = line.ours or line.published
    told = line.published.cells if line.published else {}
    n = f" <small>n {line.published.n}</small>" if line.published and line.published.n else ""
    paper = (
        Cell(f"{line.published.number()}{n}", line.published.value) if line.published else Cell("")
    )
    source = (
        f"<p>{text(', '.join(filter(None, (told.get('table'), told.get('note')))))}</p>"
        if told
        else ""
    )
    difference = Cell("")
    if line.difference is not None:
        difference = Cell(f"{signed(line.difference)} <small>{line.why}</small>", line.difference)
    elif line.other_units:
        difference = Cell("<small>one looks like percent, the other like a fraction</small>")
    seeds = text(line.ours.cells["seeds"]) if line.ours else ""
    details = provenance(line.ours) if line.ours else ""
    return (*_keys(row), paper, _measured(line.ours), difference, seeds, f"{source}{details}")


def _runs(runs: Sequence[RunFolder]) -> str:
    """The run directories given on the command line, one row each."""
    header = ("Run", "Paper", "Method", "Data", "Seed", "Kind", "Last epoch", "Figures", "Settings")
    named = names(runs)
    rows = []
    for run in runs:
        told = told_of(run)
        path = f"<small>{text(run.path)}</small>"
        state = "".join(f"<br><small>{text(fault)}</small>" for fault in run.faults)
        settings = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in run.settings.items())
        command = f"<p><code>{text(run.command)}</code></p>" if run.command else ""
        rows.append(
            (
                Cell(f"<strong>{text(named[run.path])}</strong><br>{path}{state}", named[run.path]),
                text(run.paper or "?"),
                text(run.method),
                text(run.data),
                told.seed,
                told.kind,
                told.epochs,
                text(told.figures),
                _folded("settings", f"{command}<dl>{settings}</dl>"),
            )
        )
    return table(
        "own-runs", f"{len(runs)} run directories, as named on the command line", header, rows
    )


def _drawn(papers: Sequence[Paper], runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """The charts by paper: its curves.csv, then the runs given; last the runs of papers that are not shown."""
    named = names(runs)
    shown = {paper.name: paper for paper in papers}
    others = dict.fromkeys(run.paper or curves.OTHER for run in runs)
    drawn = []
    for name in dict.fromkeys([*shown, *others]):
        own = [run for run in runs if (run.paper or curves.OTHER) == name]
        measured = curves.measured(shown[name]) if name in shown else ""
        drawn.append((name, measured + curves.charts(name, own, named)))
    return drawn


def _curves(drawn: Sequence[tuple[str, str]]) -> str:
    parts = [
        f'<h3>{name}</h3><div class="grid-of">{charts}</div>' for name, charts in drawn if charts
    ]
    parts = [unique_ids("\n".join(parts))]
    note = "<p>Of your own runs too: <code>python compare.py RUN [RUN ...]</code></p>"
    return "\n".join([*parts, note])


def _gallery(papers: Sequence[Paper]) -> str:
    parts = []
    for paper in (p for p in papers if p.pictures):
        figures = "".join(
            f"<figure>{picture(path, f'{paper.name}: {caption}')}<figcaption>{text(caption)}</figcaption></figure>"
            for path, caption in paper.pictures
        )
        parts.append(f'<h3>{paper.name}</h3><div class="grid-of">{figures}</div>')
    return "\n".join(parts) or "<p>No pictures in <code>*/results/figures/</code> yet.</p>"


def _deviations(papers: Sequence[Paper]) -> str:
    parts = [
        "<p>Where a paper, its released code and this repository differ, and the switch that gives the other way.</p>"
    ]
    for paper in (p for p in papers if p.deviations):
        header = [h or "-" for h in paper.deviations[0]]
        rows = [[markdown(c) for c in _fitted(row, len(header))] for row in paper.deviations[1:]]
        parts.append(f"<h3>{text(paper.title or paper.name)}</h3>")
        parts.append(table(f"{paper.name}-deviations", f"{len(rows)} deviations", header, rows))
    return "\n".join(parts)


def _fitted(row: Sequence[str], width: int) -> list[str]:
    return [*row, *[""] * width][:width]


def _downloads(papers: Sequence[Paper], judgements: Sequence[Judgement]) -> str:
    header = ["paper", "source", *OURS[:5], "value", *OURS[6:]]
    numbers = []
    for paper in papers:
        for row in paper.published:
            source = ": ".join(filter(None, ("paper", row.cells["table"], row.cells["note"])))
            cells = [paper.name, source, *row.key, *(row.cells[c] for c in ("value", "std", "n"))]
            numbers.append(_fitted(cells, len(header)))
        for row in paper.ours:
            source = "offline sample" if row.is_sample else "ours"
            numbers.append([paper.name, source, *(row.cells[c] for c in OURS)])
    columns = [
        "paper",
        "claim",
        "data",
        *(f"{side}_{c}" for side in ("better", "worse") for c in KEY),
    ]
    columns += ["difference", "low", "high", "interval", "pair", "why", "claim_verdict"]
    pairs = []
    for j in judgements:
        kinds = (("real data", j.real, j.verdict), ("offline sample", j.sample, j.on_sample))
        for data, p, verdict in ((data, p, verdict) for data, own, verdict in kinds for p in own):
            i = p.interval
            ends = (i.difference, i.low, i.high, i.how) if i else ("",) * 4
            pairs.append(
                [
                    j.claim.paper,
                    j.claim.name,
                    data,
                    *p.better.key,
                    *p.worse.key,
                    *ends,
                    p.verdict,
                    p.why,
                    verdict,
                ]
            )
    first, second = download("numbers.csv", header, numbers), download("claims.csv", columns, pairs)
    return f"<p>{first}: every row with its provenance. {second}: every pair behind a verdict.</p>"
