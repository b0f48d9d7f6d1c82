"""The HTML page: one file that needs nothing else."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sidebyside import curves, downloads
from sidebyside.claims import Judgement, Pair
from sidebyside.markup import (
    Cell,
    badge,
    each,
    fitted,
    fold,
    markdown,
    picture,
    provenance,
    provenance_line,
    table,
    text,
    unique_ids,
)
from sidebyside.numbers import Line, lines_of
from sidebyside.records import Paper, Row
from sidebyside.runs import RunFolder, names, told_of
from sidebyside.verdict import NOT_ENOUGH, NOT_RUN, REPRODUCED, RULE, VERDICTS
from sidebyside.wording import signed

HERE = Path(__file__).parent
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
ABOUT = (
    "<p>What the papers report, what this repository measured, and whether the one bears the other "
    "out. Verdicts\n"
    'are computed from the results files by <a href="#rule">one rule</a>; sample results stand '
    "apart, beside no paper's\nnumber.</p>"
)
_OPEN = 2  # pairs shown at once in a cell; the others fold out
_TASK = ("dataset", "setting", "method", "metric", "protocol")
_TASK_HEADER = ("Data set", "Setting", "Method", "Metric", "Protocol")


class Section(NamedTuple):
    """A part of the page: its anchor, its heading, its HTML."""

    name: str
    title: str
    content: str


def build(
    papers: Sequence[Paper], judgements: Sequence[Judgement], runs: Sequence[RunFolder] = ()
) -> str:
    """The whole page."""
    sections = _sections(papers, judgements, runs)
    links = ""
    parts = []
    for name, title, content in sections:
        links += f'<li><a href="#{name}">{text(title.split(":")[0])}</a></li>'
        parts.append(f'<section id="{name}"><h2>{text(title)}</h2>\n{content}\n</section>')
    body = "\n".join(parts)

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
{ABOUT}
{_tally(judgements)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
{_footer()}
<script>
{js}</script>
</body>
</html>
"""


def _footer() -> str:
    made = f"Made by <code>python compare.py</code> on {time.strftime('%Y-%m-%d')}"
    return (
        f"<footer><p>{made}; every number comes from a results\n"
        'file, every verdict from the rule. <span id="selfcheck" role="status"></span></p></footer>'
    )


def _sections(
    papers: Sequence[Paper], judgements: Sequence[Judgement], runs: Sequence[RunFolder]
) -> list[Section]:
    """The parts of the page, in their order."""
    sections = [
        Section("claims", "Does it reproduce?", _claims(judgements)),
        Section("rule", "The rule", _rule(papers)),
    ]
    for paper in papers:
        sections.append(Section(paper.name, paper.title or paper.name, _numbers(paper)))
    if runs:
        sections.append(Section("runs", "Your runs", _runs(runs)))

    drawn = _drawn(papers, runs)
    sections.append(Section("curves", "Learning curves", _curves(drawn)))
    sections.append(Section("gallery", "Pictures", _gallery(papers)))
    sections.append(Section("deviations", "Deviations register", _deviations(papers)))
    csvs = downloads.build(papers, judgements)
    sections.append(Section("downloads", "Every number as CSV", csvs))
    return sections


# --- claims ---


def _tally(judgements: Sequence[Judgement]) -> str:
    verdicts = [judgement.verdict for judgement in judgements]
    items = ""
    for verdict in VERDICTS:
        count = verdicts.count(verdict)
        if count:
            items += f"<li>{badge(verdict, f': {count}')}</li>"
    said = f'<p class="soft">{len(judgements)} central claims, on real data:</p>'
    return f'{said}<ul class="tally">{items}</ul>'


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
    note = (
        "Offline samples are small drawn data sets: they show that the method works, "
        "and are not comparable to a paper."
    )
    return table("claims-table", note, header, map(_claim, judgements))


def _claim(judgement: Judgement) -> tuple[str, ...]:
    """The cells of one claim."""
    claim = judgement.claim
    statement = f"<strong>{text(claim.name)}</strong><br>{text(claim.statement)}"

    verdict = badge(judgement.verdict)
    if judgement.note:
        verdict += f"<br><small>{text(judgement.note)}</small>"

    measured = NOT_RUN
    if judgement.real:
        measured = _pairs(judgement.real)

    sample = NOT_RUN
    if judgement.sample:
        folded = fold(f"{len(judgement.sample)} pairs", _pairs(judgement.sample))
        sample = f"{badge(judgement.on_sample)}{folded}"

    command = ""
    known = filter(None, judgement.commands)
    commands = "<br>".join(each("code", known))
    if commands:
        command = fold("command", f"<p>in <code>{claim.paper}/</code></p>{commands}")

    return (
        Cell(f'<a href="#{claim.paper}">{claim.paper}</a>'),
        Cell(statement, claim.name),
        Cell(verdict, VERDICTS.index(judgement.verdict)),
        _published(judgement),
        measured,
        Cell(sample, VERDICTS.index(judgement.on_sample)),
        Cell(command),
    )


def _published(judgement: Judgement) -> str:
    source = ""
    if judgement.claim.source:
        source = f"<small>{text(judgement.claim.source)}</small>"
    if not judgement.published:
        return f"<span>no numbers at hand</span><br>{source}"

    items = []
    for better, worse in judgement.published:
        told = f"<b>{_method_and_number(better)}</b>, {_method_and_number(worse)}"
        items.append(f"<li>{_where(better)}<br>{told}</li>")
    return _list(items) + source


def _method_and_number(row: Row) -> str:
    return f"{text(row.cells['method'])} {row.number()}"


def _pairs(pairs: Sequence[Pair]) -> str:
    return _list([_pair(pair) for pair in pairs])


def _pair(pair: Pair) -> str:
    better = pair.better
    worse = pair.worse
    signs = {REPRODUCED: '<span class="holds">holds</span>', NOT_ENOUGH: "open"}
    sign = signs.get(pair.verdict, '<span class="fails">does not hold</span>')

    span = ""
    interval = pair.interval
    if interval is not None:
        ends = f"[{signed(interval.low)}, {signed(interval.high)}]"
        span = f"{signed(interval.difference)} {ends}, {interval.how}; "

    title = text(f"{provenance_line(better)} | {provenance_line(worse)}")
    told = f"<b>{_method_and_number(better)}</b> (n {better.n})"
    against = f"{_method_and_number(worse)} (n {worse.n})"
    return (
        f'<li title="{title}">{_where(better)}<br>{told}, {against}<br>'
        f"{sign} <small>{text(span)}{text(pair.why)}</small></li>"
    )


def _list(items: Sequence[str]) -> str:
    """A list of which the first few items are shown, and the others fold out."""
    shown = f"<ul>{''.join(items[:_OPEN])}</ul>"
    others = items[_OPEN:]
    if not others:
        return shown
    return shown + fold(f"{len(others)} more", f"<ul>{''.join(others)}</ul>")


def _where(row: Row) -> str:
    return f"<small>{text(row.listed('dataset', 'setting', 'metric', 'protocol'))}</small>"


def _rule(papers: Sequence[Paper]) -> str:
    missing: list[str] = []
    known = 0
    for paper in papers:
        missing += paper.missing
        known += sum(row.by_seed is not None for row in paper.ours)

    absent = ""
    if missing:
        absent = f"<p>Not there: {', '.join(each('code', missing))}.</p>"
    by_seed = f"<p>{known} rows are known seed by seed (results/seeds.csv).</p>"
    return f"<p>{text(RULE)}</p>{by_seed}{absent}"


# --- number by number ---


def _numbers(paper: Paper) -> str:
    parts = [""]
    if paper.link:
        parts = [f'<p><a href="{text(paper.link)}">The paper</a></p>']
    for absent in paper.missing:
        if absent.endswith((".csv", "/")):
            parts.append(f"<p>Not there: <code>{text(absent)}</code></p>")

    lines = lines_of(paper)
    if lines:
        header = (*_TASK_HEADER, "Paper", "Ours", "Difference", "Seeds", "Source")
        note = (
            "Real data. A number stands beside the paper's only where all of the first five "
            "columns agree."
        )
        parts.append(table(f"{paper.name}-numbers", note, header, map(_line, lines), "numbers"))
    if paper.samples:
        parts.append(_sample_table(paper))

    if not any(parts):
        return "<p>No results yet.</p>"
    return "\n".join(parts)


def _sample_table(paper: Paper) -> str:
    header = (*_TASK_HEADER, "Measured", "Seeds", "Source")
    note = "Offline sample: not comparable to any number of the paper."
    rows = map(_sample_line, paper.samples)
    return table(f"{paper.name}-sample", note, header, rows, "numbers sample")


def _task(row: Row) -> tuple[str, ...]:
    return tuple(map(text, row.pick(_TASK)))


def _sample_line(row: Row) -> tuple[str, ...]:
    return (*_task(row), _measured(row), text(row.cells["seeds"]), provenance(row))


def _measured(row: Row | None) -> Cell:
    if row is None or row.value is None:
        return Cell(NOT_RUN)
    number = f'<span title="{text(provenance_line(row))}"><b>{row.number()}</b></span>'
    return Cell(f"{number} <small>n {row.n}</small>", row.value)


def _line(line: Line) -> tuple[str, ...]:
    paper = Cell("")
    source = ""
    if line.published is not None:
        paper = _paper_number(line.published)
        source = f"<p>{text(line.published.listed('table', 'note'))}</p>"

    seeds = ""
    details = ""
    if line.ours is not None:
        seeds = text(line.ours.cells["seeds"])
        details = provenance(line.ours)

    measured = _measured(line.ours)
    difference = _difference(line)
    return (*_task(line.row), paper, measured, difference, seeds, f"{source}{details}")


def _paper_number(row: Row) -> Cell:
    content = row.number()
    if row.n:
        content += f" <small>n {row.n}</small>"
    return Cell(content, row.value)


def _difference(line: Line) -> Cell:
    if line.difference is not None:
        return Cell(f"{signed(line.difference)} <small>{line.why}</small>", line.difference)
    if line.other_units:
        return Cell("<small>one looks like percent, the other like a fraction</small>")
    return Cell("")


# --- runs, curves, pictures, deviations ---


def _runs(runs: Sequence[RunFolder]) -> str:
    """The run directories given on the command line, one row each."""
    header = ("Run", "Paper", "Method", "Data", "Seed", "Kind", "Last epoch", "Figures", "Settings")
    named = names(runs)
    rows = [_run(run, named[run.path]) for run in runs]
    caption = f"{len(runs)} run directories, as named on the command line"
    return table("own-runs", caption, header, rows)


def _run(run: RunFolder, name: str) -> tuple[str, ...]:
    told = told_of(run)
    title = f"<strong>{text(name)}</strong><br><small>{text(run.path)}</small>"
    for fault in run.faults:
        title += f"<br><small>{text(fault)}</small>"

    command = ""
    if run.command:
        command = f"<p><code>{text(run.command)}</code></p>"
    settings = ""
    for key, value in run.settings.items():
        settings += f"<dt>{text(key)}</dt><dd>{text(value)}</dd>"

    return (
        Cell(title, name),
        text(run.paper or "?"),
        text(run.method),
        text(run.data),
        told.seed,
        told.kind,
        told.epochs,
        text(told.figures),
        fold("settings", f"{command}<dl>{settings}</dl>"),
    )


def _drawn(papers: Sequence[Paper], runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """The charts by paper: its curves.csv, then the runs given; last those of papers not shown."""
    named = names(runs)
    shown = {paper.name: paper for paper in papers}
    by_paper: dict[str, list[RunFolder]] = {name: [] for name in shown}
    for run in runs:
        by_paper.setdefault(run.paper or curves.OTHER, []).append(run)

    drawn = []
    for name, own in by_paper.items():
        measured = ""
        if name in shown:
            measured = curves.measured(shown[name])
        drawn.append((name, measured + curves.charts(name, own, named)))
    return drawn


def _curves(drawn: Sequence[tuple[str, str]]) -> str:
    parts = []
    for name, charts in drawn:
        if charts:
            parts.append(f'<h3>{name}</h3><div class="grid-of">{charts}</div>')
    note = "<p>Of your own runs too: <code>python compare.py RUN [RUN ...]</code></p>"
    return unique_ids("\n".join(parts)) + "\n" + note


def _gallery(papers: Sequence[Paper]) -> str:
    parts = []
    for paper in papers:
        figures = ""
        for path, caption in paper.pictures:
            image = picture(path, f"{paper.name}: {caption}")
            figures += f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"
        if figures:
            parts.append(f'<h3>{paper.name}</h3><div class="grid-of">{figures}</div>')
    return "\n".join(parts) or "<p>No pictures in <code>*/results/figures/</code> yet.</p>"


def _deviations(papers: Sequence[Paper]) -> str:
    parts = [
        "<p>Where a paper, its released code and this repository differ, "
        "and the switch that gives the other way.</p>"
    ]
    for paper in papers:
        if not paper.deviations:
            continue
        first, *others = paper.deviations
        header = [name or "-" for name in first]
        rows = [list(map(markdown, fitted(row, len(header)))) for row in others]
        parts.append(f"<h3>{text(paper.title or paper.name)}</h3>")
        parts.append(table(f"{paper.name}-deviations", f"{len(rows)} deviations", header, rows))
    return "\n".join(parts)
