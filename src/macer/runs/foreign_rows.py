"""What the rows of another program's file mean together: abstentions, running totals, and rows that stand there twice.

A spelling counts only if the whole file keeps to it, so that a damaged row is not taken for another spelling.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from macer.errors import RecordsError
from macer.runs.certificates import Row, is_radius
from macer.smoothing.certificate import ABSTAIN


class Line(NamedTuple):
    """A row as it is written.

    Attributes:
        at: the number of its line.
        idx: the image's index.
        label: its class.
        predict: the prediction; what stands for an abstention may be any number.
        radius: the radius; of an abstention anything, nan where there is none.
        correct: 0 or 1, or a running total; None where there is no such column.
        seconds: the time; nan where there is none.
    """

    at: int
    idx: int
    label: int
    predict: int
    radius: float
    correct: int | None
    seconds: float

    @property
    def right(self) -> bool:
        """Whether the prediction is the label."""
        return self.predict == self.label

    @property
    def says(self) -> str:
        """Prediction and radius in words."""
        return f"predict {self.predict} with radius {self.radius:g}"


def settle(file: Path, parts: Sequence[Sequence[Line]]) -> tuple[list[Row], frozenset[int], list[str]]:
    """Return the rows of a file by ascending idx.

    Args:
        file: for messages.
        parts: the lines under each header.

    Returns:
        The rows; the images whose prediction is right, but not by the column correct; notes on what was interpreted.

    Raises:
        RecordsError: a row is impossible, or rows contradict each other.
    """
    notes: list[str] = []
    parts = _abstentions(file, parts, notes)
    for line in (line for part in parts for line in part):
        _check(file, line)
    uncertified = frozenset[int]().union(*(_uncertified(file, part, notes) for part in parts))
    if uncertified:
        notes.append(
            f"rows with predict = label and radius 0 whose column correct says no, counted as wrong: {len(uncertified)}"
        )
    found = _without_repeats(file, [line for part in parts for line in part], notes)
    rows = [Row(each.idx, each.label, each.predict, each.radius, each.seconds) for each in found]
    return rows, uncertified, notes


def _abstentions(file: Path, parts: Sequence[Sequence[Line]], notes: list[str]) -> list[list[Line]]:
    """Return the lines with abstentions as they are in our files: class -1, radius 0."""
    every = [line for part in parts for line in part]
    written, told = _class_of_abstentions(file, every)
    abstained = [line for line in every if line.predict == written]
    radii = {line.radius for line in abstained if is_radius(line.radius) and line.radius > 0}
    for line in abstained:
        if line.radius in radii and not (len(radii) == 1 < len(abstained) == _count(abstained, line.radius)):
            _refuse(file, line, "radius", f"{line.radius:g} contradicts predict {written}, an abstention")
    if told:
        notes.append(f"rows with predict {written}, counted as abstentions: {len(abstained)}")
    if placeholders := sorted({f"{line.radius:g}" for line in abstained if line.radius != 0}):
        notes.append(f"radius {', '.join(placeholders[:3])} of abstentions, taken for 0")
    return [
        [line._replace(predict=ABSTAIN, radius=0.0) if line.predict == written else line for line in part]
        for part in parts
    ]


def _count(lines: Sequence[Line], radius: float) -> int:
    return sum(line.radius == radius for line in lines)


def _class_of_abstentions(file: Path, lines: Sequence[Line]) -> tuple[int, bool]:
    """Return the class that stands for an abstention, and whether a reader must be told.

    It is a negative one; or else the largest prediction, if it is larger than every label and never has a radius.
    """
    negative = [line for line in lines if line.predict < 0]
    for line in negative:
        if line.predict != negative[0].predict:
            reason = f"{line.predict} is no class, and line {negative[0].at} abstains with {negative[0].predict}"
            _refuse(file, line, "predict", reason)
    if negative:
        return negative[0].predict, negative[0].predict != ABSTAIN
    largest = max((line.predict for line in lines), default=ABSTAIN)
    of_it = [line for line in lines if line.predict == largest]
    known = largest <= max((line.label for line in lines), default=0)
    if known or any(is_radius(line.radius) and line.radius > 0 for line in of_it):
        return ABSTAIN, False
    return largest, True


def _check(file: Path, line: Line) -> None:
    if line.idx < 0:
        _refuse(file, line, "idx", f"{line.idx} is impossible")
    if line.label < 0:
        _refuse(file, line, "label", f"{line.label} is impossible")
    if not is_radius(line.radius):
        _refuse(file, line, "radius", f"{line.radius:g} is impossible as an L2 radius")


def _uncertified(file: Path, lines: Sequence[Line], notes: list[str]) -> set[int]:
    """Check the column correct (0 and 1, or running totals), and return the right images that do not count."""
    told = [line for line in lines if line.correct is not None]
    wrong = next((line for line in told if line.correct not in _steps(line)), None)
    if wrong is None:
        return {line.idx for line in told if line.right and line.correct == 0}
    steps = _running_totals(told)
    if steps is None:
        _refuse(file, wrong, "correct", f"{wrong.correct} contradicts label {wrong.label} and {wrong.says}")
    if _TOTALS not in notes:
        notes.append(_TOTALS)
    return {line.idx for line, step in zip(told, steps, strict=True) if line.right and step == 0}


_TOTALS = "the column correct holds running totals; label and predict say what is correct"


def _steps(line: Line) -> set[int]:
    """Return what a row may add to the correct ones: some programs do not count what is right with radius 0."""
    return {0, 1} if line.right and line.radius == 0 else {int(line.right)}


def _running_totals(lines: Sequence[Line]) -> list[int] | None:
    """Return what each row adds to the running total; None if they are no totals. A second start counts anew."""
    total, above, steps = 0, -1, []
    for line in lines:
        correct = line.correct or 0
        again = line.idx <= above and correct - total not in _steps(line)
        steps.append(correct if again else correct - total)
        if steps[-1] not in _steps(line):
            return None
        total, above = correct, line.idx
    return steps if any((line.correct or 0) > 1 for line in lines) else None


def _without_repeats(file: Path, lines: Sequence[Line], notes: list[str]) -> list[Line]:
    """Return the first line of each image, by ascending index; times of the others may differ, and nothing else."""
    found: dict[int, Line] = {}
    for line in lines:
        first = found.setdefault(line.idx, line)
        if first is not line and line._replace(at=first.at, correct=first.correct, seconds=first.seconds) != first:
            there = f"label {first.label}, {first.says} in line {first.at}"
            raise RecordsError(
                f"{file}, line {line.at}: image {line.idx} was there before, but {there} and label {line.label}, "
                f"{line.says} here"
            )
    if len(found) < len(lines):
        notes.append(f"rows that repeat others and count once: {len(lines) - len(found)}")
    return [found[idx] for idx in sorted(found)]


def _refuse(file: Path, line: Line, column: str, reason: str) -> NoReturn:
    raise RecordsError(f"{file}, line {line.at}: column {column}: {reason}")
