"""Number by number: a row of paper.csv beside the row of ours.csv that is of the same task.

Of the same task are rows that agree in the first five columns.
"""

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
    def row(self) -> Row:
        """The side that names data set, setting and method: ours, where it is there."""
        row = self.ours or self.published
        assert row is not None
        return row

    @property
    def _known(self) -> tuple[Row, Row] | None:
        """Both sides, where both have a number."""
        if self.published is None or self.published.value is None:
            return None
        if self.ours is None or self.ours.value is None:
            return None
        return self.published, self.ours

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, where both are known and of one unit."""
        if self._known is None or self.other_units:
            return None
        published, ours = self._known
        return ours.known_value - published.known_value

    @property
    def other_units(self) -> bool:
        """Whether one side looks like percent and the other like a fraction."""
        return self._known is not None and units_differ(*self._known)

    @property
    def inside(self) -> bool | None:
        """Whether the paper's number lies in our 95 % t interval; None where there is none."""
        if self._known is None or self.other_units:
            return None
        published, ours = self._known
        ends = mean_interval(ours.side)
        if ends is None:
            return None
        return ends[0] <= published.known_value <= ends[1]

    @property
    def why(self) -> str:
        """What stands beside the difference: where the paper's number lies, or why none knows."""
        if self.inside is True:
            return "paper inside our 95 % interval"
        if self.inside is False:
            return "paper outside our 95 % interval"
        if self.row.n < 2:
            return "one run"
        if self.row.std is None:
            return "no deviation known"
        return "one seed"


_SHARE = re.compile(r"acc|mAP|f1|top-?\d|iou|pxap|precision|recall|coverage", re.I)


def units_differ(one: Row, other: Row) -> bool:
    """Whether two numbers of a share look like a fraction and percent of one size (0.83 and 83.4).

    A metric that names its unit (`accuracy %`) is taken at its word.
    """
    metric = one.cells["metric"]
    if "%" in metric or not _SHARE.search(metric):
        return False
    small, large = sorted((abs(one.known_value), abs(other.known_value)))
    return 0 < small <= 1 < large <= 100 and 50 <= large / small <= 200


def lines_of(paper: Paper) -> list[Line]:
    """The real-data lines of a paper: its own rows, then ours that have no counterpart."""
    ours = {row.key: row for row in paper.real}
    lines = [Line(row, ours.pop(row.key, None)) for row in paper.published]
    lines += [Line(None, row) for row in ours.values()]
    return lines
