"""Number by number: a row of paper.csv beside the row of ours.csv that agrees with it in the first five columns."""

import re
from dataclasses import dataclass

from sidebyside.records import Paper, Row
from sidebyside.verdict import mean_interval


@dataclass(frozen=True)
class Line:
    """One line of a table; either side may be missing, never both."""

    published: Row | None
    ours: Row | None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, where both are known and of one unit."""
        if self.other_units or not _both_known(self.published, self.ours):
            return None
        return self.ours.value - self.published.value

    @property
    def other_units(self) -> bool:
        """Whether one side looks like percent and the other like a fraction."""
        return _both_known(self.published, self.ours) and units_differ(self.published, self.ours)

    @property
    def inside(self) -> bool | None:
        """Whether the paper's number lies in our 95 % t interval; None where there is no interval."""
        ends = mean_interval(self.ours.side) if self.difference is not None else None
        return None if ends is None else ends[0] <= self.published.value <= ends[1]

    @property
    def why(self) -> str:
        """What stands beside the difference: where the paper's number lies, or why that is not known."""
        if self.inside is not None:
            return (
                "paper inside our 95 % interval"
                if self.inside
                else "paper outside our 95 % interval"
            )
        if self.ours.n < 2:
            return "one run"
        return "no deviation known" if self.ours.std is None else "one seed"


def _both_known(one: Row | None, other: Row | None) -> bool:
    return (
        one is not None and other is not None and one.value is not None and other.value is not None
    )


_SHARE = re.compile(r"acc|mAP|f1|top-?\d|iou|pxap|precision|recall|coverage", re.I)


def units_differ(one: Row, other: Row) -> bool:
    """Whether two known numbers of a share look like a fraction and percent of about the same size (0.83 and 83.4).

    A metric that names its unit (`accuracy %`) is taken at its word.
    """
    metric = one.cells["metric"]
    if "%" in metric or not _SHARE.search(metric):
        return False
    small, large = sorted((abs(one.value), abs(other.value)))
    return 0 < small <= 1 < large <= 100 and 50 <= large / small <= 200


def lines_of(paper: Paper) -> list[Line]:
    """All real-data lines of a paper: the paper's rows first, then ours that have no counterpart. No sample rows."""
    ours = {row.key: row for row in paper.real}
    lines = [Line(row, ours.pop(row.key, None)) for row in paper.published]
    return [*lines, *[Line(None, row) for row in ours.values()]]
