"""Number by number: a row of paper.csv beside the row of ours.csv that agrees with it in the first five columns."""

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
        """Ours minus the paper's, where both are known."""
        known = self.published and self.ours and self.published.value is not None and self.ours.value is not None
        return self.ours.value - self.published.value if known else None

    @property
    def inside(self) -> bool | None:
        """Whether the paper's number lies in our 95 % t interval; None where there is no interval."""
        ends = mean_interval(self.ours.side) if self.difference is not None else None
        return None if ends is None else ends[0] <= self.published.value <= ends[1]


def lines_of(paper: Paper) -> list[Line]:
    """All real-data lines of a paper: the paper's rows first, then ours that have no counterpart. No sample rows."""
    ours = {row.key: row for row in paper.real}
    lines = [Line(row, ours.pop(row.key, None)) for row in paper.published]
    return [*lines, *[Line(None, row) for row in ours.values()]]
