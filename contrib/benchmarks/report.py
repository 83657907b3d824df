"""What was measured, as tables: medians, and how they compare with the base in the same rounds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One figure of a sample. `against` adds a column: the ratio to the server `base`, or the difference from it; in each
    round, then the median. `worst` shows the highest of all rounds instead of the median."""

    key: str
    title: str
    digits: int = 0
    against: Literal["ratio", "added", ""] = ""
    base: str = "nginx-cache"
    worst: bool = False


@dataclass
class Sample:
    """What one server did in one round: figures by the key of their metric, and what went wrong, in a few words each."""

    values: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column to the left, the others to the right."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Columns for a terminal."""
        widths = [max(len(row[column]) for row in (self.head, *self.rows)) for column in range(len(self.head))]
        lines = [self.title]
        for row in (self.head, *self.rows):
            cells = [
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        return "\n".join(lines)

    def markdown(self) -> str:
        """A table for a README."""
        lines = [f"**{self.title}**", "", "| " + " | ".join(self.head) + " |"]
        lines.append("|---|" + "--:|" * (len(self.head) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines)


def tabulate(title: str, metrics: Sequence[Metric], samples: Mapping[str, Sequence[Sample]]) -> Table:
    """A row for each name, from its samples in the order of the rounds."""
    head = [""]
    for metric in metrics:
        head.append(metric.title)
        if metric.against and metric.base in samples:
            head.append(f"/ {metric.base}" if metric.against == "ratio" else f"- {metric.base}")
    flawed = any(sample.faults for of_one in samples.values() for sample in of_one)
    rows = []
    for name, of_one in samples.items():
        row = [name]
        for metric in metrics:
            row.append(_figure(metric, of_one))
            if metric.against and metric.base in samples:
                row.append(_compared(metric, of_one, samples[metric.base]) if name != metric.base else "")
        rows.append([*row, faults(of_one)] if flawed else row)
    return Table(title, [*head, "faults"] if flawed else head, rows)


def faults(samples: Sequence[Sample]) -> str:
    """What went wrong in any round, each kind once, with how often if more than once."""
    said = [text for sample in samples for text in sample.faults]
    return "; ".join(f"{text} ({said.count(text)} times)" if said.count(text) > 1 else text for text in dict.fromkeys(said))


def _figure(metric: Metric, samples: Sequence[Sample]) -> str:
    values = [sample.values[metric.key] for sample in samples if metric.key in sample.values]
    if not values:
        return "-"
    return f"{max(values) if metric.worst else statistics.median(values):,.{metric.digits}f}"


def _compared(metric: Metric, mine: Sequence[Sample], base: Sequence[Sample]) -> str:
    pairs = [
        (one.values[metric.key], other.values[metric.key])
        for one, other in zip(mine, base, strict=True)
        if metric.key in one.values and metric.key in other.values
    ]
    if metric.against == "added":
        return f"{statistics.median([one - other for one, other in pairs]):+.{metric.digits}f}" if pairs else "-"
    ratios = [one / other for one, other in pairs if other]
    return f"{statistics.median(ratios):.2f}" if ratios else "-"
