"""Settings as frozen dataclasses: their fields become options of the command line and tables of a run's TOML file."""

import dataclasses
import functools
import math
import numbers
import operator
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from macer import data
from macer.errors import SettingsError

T = TypeVar("T")

DATA = "Data"
"""The group of the options that say what images are used."""

_PROBES = "probes"
"""The setting that holds a network's answers to fixed images (`models.digest`)."""
IMAGES_DIGEST = "images_digest"
"""The setting that tells images from others (`data.images.digest_of_some`). What older versions wrote lacks it."""

_LIMITS = {"least": operator.ge, "above": operator.gt, "most": operator.le, "below": operator.lt}


def option(
    default: Any,
    help: str,
    *,
    least: int | float | None = None,
    above: int | float | None = None,
    most: int | float | None = None,
    below: int | float | None = None,
    panel: str | None = None,
) -> Any:
    """Declare a field of a `Settings` class that is also an option of the command line.

    A field whose type is `Literal["a", "b"]` takes one of these words.

    Args:
        default: the value where none is given.
        help: what the option does, and its unit.
        least: the smallest value allowed.
        above: a value that must be exceeded.
        most: the largest value allowed.
        below: a value that must not be reached.
        panel: the title of the group of options that `--help` shows it in.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Mine(Settings):
    ...     epochs: int = option(10, "Passes over the training images.", least=1)
    ...     schedule: Literal["constant", "cosine"] = option("cosine", "How the learning rate changes.")
    >>> Mine(epochs=0)
    Traceback (most recent call last):
    macer.errors.SettingsError: epochs must be at least 1, not 0
    >>> Mine(schedule="linear")
    Traceback (most recent call last):
    macer.errors.SettingsError: schedule must be constant or cosine, not 'linear'
    """
    limits = {"least": least, "above": above, "most": most, "below": below}
    return dataclasses.field(default=default, metadata={"help": help, "panel": panel, **limits})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of all settings: checks the type of each field, and its range or choices where they are declared.

    Whole numbers become floats where the field is a float, lists become tuples, and paths become text. A subclass
    with conditions between its fields checks them in its own `__post_init__`, after calling this one.

    Attributes:
        prefix: what precedes each field's name on the command line and in messages.
        panel: the title of the group that `--help` shows all fields in, in place of the fields' own.
    """

    prefix: ClassVar[str] = ""
    panel: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        hints = field_types(type(self))
        for field in dataclasses.fields(self):
            name = self.prefix + field.name
            value = _converted(name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
            if value is not None:
                _check_range(name, value, field)


@dataclass(frozen=True, kw_only=True)
class ImageChoice(Settings):
    """Which images of a split are certified: start_img + i * skip for i = 0 .. num_img - 1, as in the original."""

    start_img: int = option(0, "Index of the first image to certify.", least=0, panel="Images")
    num_img: int = option(0, "Number of images to certify; 0: all that there are.", least=0, panel="Images")
    skip: int = option(1, "Distance between the indices of successive images.", least=1, panel="Images")

    def count(self, total: int, split: str) -> int:
        """Return the number of images: num_img, or where that is 0 as many as the split has from start_img on.

        Args:
            total: images in the split.
            split: what to call the split in an error.

        Raises:
            SettingsError: some of the images do not exist.
        """
        count = self.num_img or len(range(self.start_img, total, self.skip)) or 1
        last = self.start_img + (count - 1) * self.skip
        require(
            last < total,
            f"start_img {self.start_img}, num_img {self.num_img} and skip {self.skip} reach image {last}; "
            f"{split} has images 0 to {total - 1}",
        )
        return count


@dataclass(frozen=True, kw_only=True)
class DataOptions(Settings):
    """Where a data set's files are, and how its images are made from them, where they leave that open."""

    root: str | None = option(None, "Directory of the data set.", panel=DATA)
    image_size: int | None = option(
        None,
        "Height and width that pictures are scaled and cut to (imagenet, folder, hf:). "
        "[default: 224, or that of all pictures where they are of one size]",
        least=1,
        panel=DATA,
    )
    split_share: float | None = option(
        None,
        "Fraction of the pictures to hold out for tests, where there is no test split (folder, hf:).",
        above=0,
        below=1,
        panel=DATA,
    )
    image_column: str | None = option(None, "Name of the column of pictures (hf:).", panel=DATA)
    label_column: str | None = option(None, "Name of the column of labels (hf:).", panel=DATA)

    @property
    def data_options(self) -> dict[str, Any]:
        """The options, but the root, as `macer.data.load` takes them."""
        return {name: getattr(self, name) for name in data.OPTIONS}


def options_of(cls: type) -> dict[str, dataclasses.Field]:
    """Return the fields of a settings class that were made with `option`, by name behind the class's prefix."""
    prefix = getattr(cls, "prefix", "")
    return {prefix + field.name: field for field in dataclasses.fields(cls) if "help" in field.metadata}


def flag(name: str, value: bool = True) -> str:
    """Return how the command line spells a setting, and for False how it spells its opposite.

    >>> flag("gauss_num"), flag("deferred", False), flag("no_grad_attack", False)
    ('--gauss-num', '--no-deferred', '--grad-attack')
    """
    dashed = name.replace("_", "-")
    if value:
        return f"--{dashed}"
    return f"--{dashed.removeprefix('no-')}" if dashed.startswith("no-") else f"--no-{dashed}"


def require(condition: bool, message: str) -> None:
    """Refuse impossible settings with one line.

    Raises:
        SettingsError: the condition does not hold.
    """
    if not condition:
        raise SettingsError(message)


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, by name."""
    return typing.get_type_hints(cls)


def choices(hint: Any) -> tuple[str, ...]:
    """Return the words of a `Literal` type, also of one that may be None; none for any other type."""
    hint = without_none(hint)
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def without_none(hint: Any) -> Any:
    """Return X for the type `X | None`, and any other type as it is."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(each for each in typing.get_args(hint) if each is not types.NoneType)
    return hint


def range_words(field: dataclasses.Field) -> str:
    """Return the range that a field is declared with in words, such as "at least 1" or "in (0, 1]"; or ""."""
    least, above, most, below = (typing.cast(Any, field.metadata.get(name)) for name in _LIMITS)
    low, high = (least if above is None else above), (most if below is None else below)
    if low is not None and high is not None:
        return f"in {'[' if above is None else '('}{low:g}, {high:g}{']' if below is None else ')'}"
    if low is not None:
        return f"at least {low:g}" if above is None else "positive" if low == 0 else f"above {low:g}"
    if high is not None:
        return f"at most {high:g}" if below is None else f"below {high:g}"
    return ""


def _converted(name: str, value: Any, hint: Any, where: str = "") -> Any:
    """Return a value as its field's type, or refuse it."""
    bare, words = without_none(hint), choices(hint)
    if (value is None and bare is not hint) or (words and value in words):
        return value
    require(not words, f"{where}{name} must be {', '.join(words[:-1])} or {' '.join(words[-1:])}, not {value!r}")
    kind: Any = typing.get_origin(bare) or bare
    if isinstance(value, numbers.Integral):  # TOML files may hold numbers of thousands of digits
        require(-(2**63) <= int(value) < 2**63, f"{where}{name} must be a number of at most 64 bits")
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(_converted(name, each, typing.get_args(bare)[0], where) for each in value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind not in (int, float) and isinstance(value, kind):
        return value
    raise SettingsError(f"{where}{name} must be of type {kind.__name__}, not {value!r}")


def _check_range(name: str, value: Any, field: dataclasses.Field) -> None:
    if type(value) not in (int, float):
        return
    limits = ((holds, field.metadata.get(name)) for name, holds in _LIMITS.items())
    inside = all(limit is None or holds(value, limit) for holds, limit in limits)
    if not inside:
        words_of_range = range_words(field)
        if words_of_range == "at least 0" and value < 0:
            must = "must not be negative"
        else:
            must = f"must {'lie' if words_of_range.startswith('in ') else 'be'} {words_of_range}"
        raise SettingsError(f"{name} {must}, not {value:g}")
    require(math.isfinite(value), f"{name} must be a finite number, not {value:g}")


def take(cls: type[T], chosen: dict[str, Any]) -> tuple[T, dict[str, Any]]:
    """Return an instance of the settings class `cls`, made from those of `chosen` that are its fields, and the rest.

    Args:
        cls: its `prefix` precedes the names of its fields in `chosen`.
        chosen: values by name.
    """
    prefix = getattr(cls, "prefix", "")
    fields = {prefix + field.name: field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return (
        cls(**{fields[name]: value for name, value in chosen.items() if name in fields}),
        {name: value for name, value in chosen.items() if name not in fields},
    )


def from_table(cls: type, table: Mapping[str, Any], where: str) -> Any:
    """Return an instance of the dataclass `cls` from a TOML table.

    Raises:
        SettingsError: the table has a key that is not a field, lacks one that has no default, or has a value that is
            not possible.
    """
    hints = field_types(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    arguments = {}
    for key, value in table.items():
        if key not in names:
            raise SettingsError(f"{where}: unknown setting {key!r}; known are {', '.join(names)}")
        arguments[key] = _converted(key, value, hints[key], f"{where}: ")
    fields = dataclasses.fields(cls)
    needed = [each.name for each in fields if each.default is each.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in arguments]:
        raise SettingsError(f"{where}: lacks the setting {missing[0]!r}")
    return cls(**arguments)


def default_table(cls: type) -> dict[str, Any]:
    """Return the TOML table of the defaults of a dataclass's fields, of those that have one."""
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    return _table({key: value for key, value in defaults.items() if value is not dataclasses.MISSING})


def to_table(settings: Any) -> dict[str, Any]:
    """Return the TOML table of a dataclass: its fields, without those that are None."""
    return _table({field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)})


def _table(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if value is not None
    }


def differences(old: dict[str, Any], new: dict[str, Any], *, ignored: frozenset[str] = frozenset()) -> list[str]:
    """Return what differs between two tables of settings, each as "key: old there, new here".

    Answers to probes, where both tables have them, may differ by rounding whether they are ignored or not. Digests of
    images are compared where both tables have them.
    """
    found = [
        f"{key}: {old.get(key, 'unset')} there, {new.get(key, 'unset')} here"
        for key in sorted(old.keys() | new.keys())
        if key not in ignored | {_PROBES, IMAGES_DIGEST} and old.get(key) != new.get(key)
    ]
    digests = {each.get(IMAGES_DIGEST) for each in (old, new)} - {None}
    if len(digests) > 1 and IMAGES_DIGEST not in ignored:
        found.append(f"{IMAGES_DIGEST}: the images or their labels are others than there")
    if not _agree(old.get(_PROBES), new.get(_PROBES)):
        found.append(f"{_PROBES}: the network answers {len(new[_PROBES])} fixed images otherwise than there")
    return found


def _agree(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    """Return whether two measurements agree to 1% of the largest number: machines round differently."""
    if one is None or other is None:  # not finite
        return True
    if not all(isinstance(each, float) for each in (*one, *other)):
        return one == other
    allowed = 0.01 * max(map(abs, (*one, *other)), default=0.0)
    return len(one) == len(other) and all(abs(a - b) <= allowed for a, b in zip(one, other, strict=True))
