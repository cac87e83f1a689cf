"""How certificate files of other programs are written: titles of columns, numbers, flags and times."""

import csv
import math
import re

DELIMITERS = ("\t", ",", ";", None)
"""What may separate cells; None: any white space."""

_TITLES = {
    "idx": ("idx", "index", "original_idx"),
    "label": ("label", "true_label", "target"),
    "predict": ("predict", "prediction", "predicted", "pred"),
    "radius": ("radius", "l2_radius", "radius_l2", "certified_radius"),
    "correct": ("correct",),
    "time": ("time", "seconds"),
}
OUR_NAMES = {title: name for name, titles in _TITLES.items() for title in titles}
"""Our name of a column by the titles that it has in files."""
_LEAST_TITLES = 3

_DECIMAL = r"[+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:e[+-]?\d{1,4})?"
_NUMBER = re.compile(rf"{_DECIMAL}|[+-]?inf(?:inity)?|nan", re.ASCII | re.IGNORECASE)
_WRAPPED = re.compile(r"(?:tensor|(?:np|numpy)\.\w+)\(\s*([^\s,()]+)\s*(?:,[^()]*)?\)", re.ASCII)
_TIME = re.compile(r"(?:(\d{1,6})d)?(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\S+?) ?s?", re.ASCII)
_DAYS = re.compile(r"(\d+) days?,? +(?=\d+:)", re.ASCII)
_MISSING = ("", "-", "--", "none", "null", "na", "n/a")


def split_cells(line: str, delimiter: str | None) -> list[str]:
    """Return the cells of a line, without quotes and the space around them.

    A time of days, `1 day, 2:03:04`, stays one cell.

    Raises:
        csv.Error: quotes that cannot be read.
    """
    line = _DAYS.sub(r"\1d", line)
    if delimiter is None:
        return line.split()
    if '"' in line:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]
    return [cell.strip() for cell in line.split(delimiter)]


def titles(line: str) -> tuple[list[str], str | None] | None:
    """Return the lower-case titles of the columns and their delimiter; None if the line is no header."""
    if not re.search("label|predict|radius|correct", line, re.IGNORECASE):
        return None
    line = line.strip("#% \n")
    for delimiter in DELIMITERS:
        try:
            found = [cell.lower() for cell in split_cells(line, delimiter)]
        except csv.Error:
            continue
        known = {OUR_NAMES[title] for title in found if title in OUR_NAMES}
        if len(known) >= _LEAST_TITLES and not starts_like_a_number(found[0]):  # logs begin lines with a date
            return found, delimiter
    return None


def starts_like_a_number(text: str) -> bool:
    """Return whether a text begins as numbers do, which rows do and words do not."""
    return re.match(r"""["']?[+-]?\.?\d""", text, re.ASCII) is not None


def number(text: str) -> float:
    """Return the number in a cell, which may be inf or nan; also out of `tensor(3)` and `np.float64(0.5)`.

    Raises:
        ValueError: it is none.
    """
    text = wrapped[1] if (wrapped := _WRAPPED.fullmatch(text)) else text
    if not _NUMBER.fullmatch(text):
        raise ValueError("is no number")
    return float(text)


def number_or_missing(text: str) -> float:
    """Return the number in a cell, nan where one of the usual signs says that there is none.

    Raises:
        ValueError: it is another text.
    """
    return math.nan if text.lower() in _MISSING else number(text)


def whole(text: str) -> int:
    """Return the whole number in a cell, which may be written as 3.0.

    Raises:
        ValueError: it is none, or has more digits than any index or class.
    """
    value = number(text)
    if not (value.is_integer() and abs(value) < 2**53):
        raise ValueError("is no whole number")
    return int(value)


def flag(text: str) -> int:
    """Return 0 or 1 for False or True, or the whole number in a cell.

    Raises:
        ValueError: it is neither.
    """
    return int(text.lower() == "true") if text.lower() in ("true", "false") else whole(text)


def seconds(text: str) -> float:
    """Return seconds from any notation in the field: 15.4, 15.4s, 0:00:13.736080, or 1d2:03:04 for a day and more.

    Raises:
        ValueError: it is no time.
    """
    parts = _TIME.fullmatch(text)
    if parts is None:
        raise ValueError("is no time")
    days, hours, minutes, rest = parts.groups("0")
    value = number(rest) + 60 * (int(minutes) + 60 * (int(hours) + 24 * int(days)))
    if not 0 <= value < math.inf:
        raise ValueError("is no time")
    return value
