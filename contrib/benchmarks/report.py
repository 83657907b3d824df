"""What was measured, as tables: medians, and how they compare with the base in the same rounds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True)
class Goal:
    """What a figure of the server that is in view is to be: `most` or `least`, of itself or, with `base`, compared as the
    metric says: a ratio to that server, or the difference from it. `variant` as in the case's own list."""

    key: str
    what: str
    base: str = ""
    most: float | None = None
    least: float | None = None
    variant: str = ""


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


def judged(goal: Goal, metric: Metric, samples: Mapping[str, Sequence[Sample]], name: str) -> list[str] | None:
    """A row of the table of goals; None if the server was not measured, or what it is compared with."""
    if name not in samples or (goal.base and goal.base not in samples):
        return None
    if goal.base:
        found = _compared_value(replace(metric, base=goal.base), samples[name], samples[goal.base])
    else:
        found = _value(metric, samples[name])
    wanted = f"at most {goal.most:g}" if goal.most is not None else f"at least {goal.least:g}"
    if found is None:
        return [goal.what, "-", wanted, "-"]
    met = found <= goal.most if goal.most is not None else goal.least is not None and found >= goal.least
    return [goal.what, f"{found:.3g}", wanted, "yes" if met else "no"]


def _figure(metric: Metric, samples: Sequence[Sample]) -> str:
    value = _value(metric, samples)
    return "-" if value is None else f"{value:,.{metric.digits}f}"


def _value(metric: Metric, samples: Sequence[Sample]) -> float | None:
    values = [sample.values[metric.key] for sample in samples if metric.key in sample.values]
    if not values:
        return None
    return max(values) if metric.worst else statistics.median(values)


def _compared(metric: Metric, mine: Sequence[Sample], base: Sequence[Sample]) -> str:
    value = _compared_value(metric, mine, base)
    if value is None:
        return "-"
    return f"{value:+.{metric.digits}f}" if metric.against == "added" else f"{value:.2f}"


def _compared_value(metric: Metric, mine: Sequence[Sample], base: Sequence[Sample]) -> float | None:
    pairs = [
        (one.values[metric.key], other.values[metric.key])
        for one, other in zip(mine, base, strict=True)
        if metric.key in one.values and metric.key in other.values
    ]
    if metric.against == "added":
        found = [one - other for one, other in pairs]
    else:
        found = [one / other for one, other in pairs if other]
    return statistics.median(found) if found else None
