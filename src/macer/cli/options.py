"""The fields of settings as options of the command line, so that each is named and explained in one place."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Collection
from typing import Annotated, Any

import typer
from rich.markup import escape

from macer.errors import SettingsError
from macer.runs.settings import choices, field_types, flag, options_of, range_words, without_none


@dataclasses.dataclass
class _Option:
    """One option, and the default that each class which has it gives it, by the name of the training method."""

    name: str
    field: dataclasses.Field
    hint: Any
    panel: str | None
    methods: int  # of which there are options
    defaults: dict[str, Any]


def with_options(*classes: type, except_: Collection[str] = ()) -> Callable[[Callable], Callable]:
    """Decorate a command that takes `chosen`: give it an option for each field of `classes` made with `option`.

    Args:
        classes: settings; where two have a field of one name, the first explains it.
        except_: options to leave out, because the command has no use for them.

    Returns:
        A decorator. The command's `chosen` holds the options that were given, by name.
    """
    options: dict[str, _Option] = {}
    methods = sum(hasattr(cls, "name") for cls in classes)
    for cls in classes:
        panel = getattr(cls, "panel", None)
        for name, field in options_of(cls).items():
            if name not in except_:
                new = _Option(name, field, field_types(cls)[field.name], panel or field.metadata["panel"], methods, {})
                options.setdefault(name, new).defaults[getattr(cls, "name", "")] = field.default

    def decorate(command: Callable) -> Callable:
        own = [each for each in inspect.signature(command).parameters.values() if each.name != "chosen"]

        @functools.wraps(command)
        def wrapper(**values: Any) -> Any:
            chosen = {}
            for name, each in options.items():
                value = values.pop(name)
                if value is not None:
                    chosen[each.name] = _parsed(each, value)
            return command(**values, chosen=chosen)

        added = [_parameter(name, each) for name, each in options.items()]
        wrapper.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {each.name: each.annotation for each in [*own, *added]}
        return wrapper

    return decorate


def with_dashes(message: str, names: Collection[str]) -> str:
    """Return a message with the settings in backticks as options, if the command has them.

    >>> with_dashes("give `compile=no`, `num_classes` or `shape`", {"compile", "num_classes"})
    'give --compile no, --num-classes or `shape`'
    """

    def dashed(found: re.Match[str]) -> str:
        name, value = found.groups()
        return " ".join(filter(None, [flag(name), value])) if name in names else found[0]

    return re.sub(r"`(\w+)(?:=([^`]+))?`", dashed, message)


def _parameter(name: str, option: _Option) -> inspect.Parameter:
    kind = without_none(option.hint)
    declared = typer.Option(
        f"{flag(name)}/{flag(name, False)}" if kind is bool else flag(name),
        help=escape(_help(option)),
        show_default=False,
        rich_help_panel=option.panel,
    )
    if not choices(kind) and kind not in (int, float, bool):
        kind = str
    annotation = Annotated[kind | None, declared]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _help(option: _Option) -> str:
    """Return what the option does, and in brackets the methods that have it, its default and its range."""
    text, defaults, words = option.field.metadata["help"], option.defaults, range_words(option.field)
    shown = {method: _shown(default) for method, default in defaults.items() if default is not None}
    methods = "" if "" in defaults or len(defaults) == option.methods else f"{', '.join(defaults)} only"
    if own := re.fullmatch(r"(.*) \[([^\[]*)\]", text):  # it says by itself what happens where the option is left out
        text, notes = own[1], [methods, own[2]]
    elif len(set(shown.values())) > 1:  # the defaults name the methods
        notes = [f"default: {', '.join(f'{method} {default}' for method, default in shown.items())}"]
    else:
        notes = [methods, *(f"default: {default}" for default in set(shown.values()))]
    notes = [each for each in [*notes, words] if each not in ("", "at least 0")]
    return f"{text} [{'; '.join(notes)}]" if notes else text


def _shown(default: Any) -> str:
    """Return a default value as it is shown."""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)


def _parsed(option: _Option, value: Any) -> Any:
    if not isinstance(option.field.default, tuple):
        return value
    try:
        return tuple(int(part) for part in value.split(",") if part.strip())
    except ValueError:
        raise SettingsError(f"{flag(option.name)} takes whole numbers like 200,400, not {value!r}") from None
