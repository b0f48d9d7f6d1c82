"""The HTML page: one file that needs nothing else. All markup stands in sidebyside/templates."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from markupsafe import Markup

from sidebyside import chart, curves, downloads
from sidebyside.claims import Judgement
from sidebyside.forest import Forest, forest
from sidebyside.markup import HERE, environment, fitted, slug, unique
from sidebyside.numbers import Line, lines_of
from sidebyside.records import Paper
from sidebyside.runs import RunFolder, names, told_of
from sidebyside.terminal import tally
from sidebyside.verdict import MIXED, RULE

VIEW = SimpleNamespace(  # of the charts' view box
    width=chart.WIDTH,
    height=chart.HEIGHT,
    left=chart.LEFT,
    right=chart.RIGHT,
    bottom=chart.BOTTOM,
)


@dataclass(frozen=True)
class Card:
    """One claim as the page shows it: its anchor, what its badge adds, and its forest plot."""

    judgement: Judgement
    anchor: str
    tally: str
    forest: Forest | None


def build(
    papers: Sequence[Paper], judgements: Sequence[Judgement], runs: Sequence[RunFolder] = ()
) -> str:
    """The whole page."""
    named = names(runs)
    missing: list[str] = []
    known_by_seed = 0
    for paper in papers:
        missing += paper.missing
        known_by_seed += sum(row.by_seed is not None for row in paper.ours)

    template = environment().get_template("page.html.j2")
    return template.render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        js=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        rule=RULE,
        today=time.strftime("%Y-%m-%d"),
        papers=papers,
        judgements=judgements,
        cards=_cards(judgements),
        sections=_sections(papers, runs),
        known_by_seed=known_by_seed,
        missing=missing,
        lines_of={paper.name: _lines(paper) for paper in papers},
        runs=[(run, named[run.path], told_of(run)) for run in runs],
        drawn=_drawn(papers, runs),
        view=VIEW,
        deviations=_deviations(papers),
        downloads=downloads.build(papers, judgements),
    )


def _sections(papers: Sequence[Paper], runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """Anchor and heading of the parts of the page, in their order."""
    sections = [("claims", "Does it reproduce?"), ("rule", "The rule")]
    sections += [(paper.name, paper.title or paper.name) for paper in papers]
    if runs:
        sections.append(("runs", "Your runs"))
    sections += [("curves", "Learning curves"), ("gallery", "Pictures")]
    sections += [("deviations", "Deviations register"), ("downloads", "Every number as CSV")]
    return sections


def _cards(judgements: Sequence[Judgement]) -> list[Card]:
    cards = []
    for judgement in judgements:
        claim = judgement.claim
        told = ""
        if judgement.verdict == MIXED:
            told = f": {tally([task.verdict for task in judgement.tasks])}"
        anchor = f"claim-{slug(f'{claim.paper} {claim.name}')}"
        cards.append(Card(judgement, anchor, told, forest(judgement.real)))
    return cards


def _lines(paper: Paper) -> list[Line]:
    """The lines of a paper, those that were measured first."""
    return sorted(lines_of(paper), key=lambda line: line.ours is None or line.ours.value is None)


def _drawn(
    papers: Sequence[Paper], runs: Sequence[RunFolder]
) -> list[tuple[str, list[tuple[chart.Chart, str]]]]:
    """The charts by paper with their anchors: its curves.csv, then the runs given.

    Last those of papers that are not shown.
    """
    named = names(runs)
    shown = {paper.name: paper for paper in papers}
    by_paper: dict[str, list[RunFolder]] = {name: [] for name in shown}
    for run in runs:
        by_paper.setdefault(run.paper or curves.OTHER, []).append(run)

    charts: dict[str, list[chart.Chart]] = {}
    for name, own in by_paper.items():
        charts[name] = []
        if name in shown:
            charts[name] += curves.measured(shown[name], own, named)
        charts[name] += curves.charts(name, own, named)

    anchors = []
    for own_charts in charts.values():
        anchors += [slug(f"{one.title} {one.task}") for one in own_charts]
    free = iter(unique(anchors))
    drawn = []
    for name, own_charts in charts.items():
        drawn.append((name, [(one, next(free)) for one in own_charts]))
    return drawn


def _deviations(papers: Sequence[Paper]) -> list[tuple[Paper, list[str], list[list[str]]]]:
    """Paper, header and rows of the deviations tables that the READMEs hold."""
    found = []
    for paper in papers:
        if not paper.deviations:
            continue
        first, *others = paper.deviations
        header = [name or "-" for name in first]
        rows = [fitted(row, len(header)) for row in others]
        found.append((paper, header, rows))
    return found
