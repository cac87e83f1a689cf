"""The fields of settings as options of the command line, so that each is named and explained in one place."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from macer.errors import SettingsError
from macer.objectives import OBJECTIVES

T = TypeVar("T")


def with_options(*classes: type, names: dict[str, tuple[str, ...]] | None = None) -> Callable[[Callable], Callable]:
    """Decorate a command that takes `chosen`: give it an option for each field of `classes` made with `option`.

    Args:
        classes: dataclasses; where two have a field of one name, the first explains it.
        names: further spellings of an option, by field.

    Returns:
        A decorator. The command's `chosen` holds the options that were given, by field.
    """
    fields: dict[str, dataclasses.Field] = {}
    defaults: dict[str, dict[str, Any]] = {}  # of each field, by the name of the method that it belongs to
    for cls in classes:
        for field in dataclasses.fields(cls):
            if "help" in field.metadata:
                fields.setdefault(field.name, field)
                defaults.setdefault(field.name, {})[getattr(cls, "name", "")] = field.default

    def decorate(command: Callable) -> Callable:
        own = [each for each in inspect.signature(command).parameters.values() if each.name != "chosen"]

        @functools.wraps(command)
        def wrapper(**values: Any) -> Any:
            given = {name: values.pop(name) for name in fields}
            chosen = {name: _parsed(fields[name], value) for name, value in given.items() if value is not None}
            return command(**values, chosen=chosen)

        added = [
            _parameter(field, defaults[field.name], (names or {}).get(field.name, ())) for field in fields.values()
        ]
        wrapper.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {each.name: each.annotation for each in [*own, *added]}
        return wrapper

    return decorate


def take(cls: type[T], chosen: dict[str, Any]) -> tuple[T, dict[str, Any]]:
    """An instance of the dataclass `cls` from the options that are its fields, and the other options."""
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return (
        cls(**{name: value for name, value in chosen.items() if name in names}),
        {name: value for name, value in chosen.items() if name not in names},
    )


def _parameter(field: dataclasses.Field, defaults: dict[str, Any], more_names: tuple[str, ...]) -> inspect.Parameter:
    kind = _bare_type(field.type)
    name = field.name.replace("_", "-")
    opposite = name.removeprefix("no-") if name.startswith("no-") else f"no-{name}"
    spelling = f"--{name}/--{opposite}" if kind is bool else f"--{name}"
    text = field.metadata["help"]
    if "" not in defaults and len(defaults) < len(OBJECTIVES):
        text = f"{', '.join(defaults)}: {text}"
    texts = {method: shown for method, value in defaults.items() if (shown := _shown(value))}
    if text.endswith("]"):
        pass  # it says by itself what happens where the option is left out
    elif len(set(texts.values())) == 1:
        text += f" [{next(iter(texts.values()))}]"
    elif texts:
        text += f" [{', '.join(f'{method} {shown}' for method, shown in texts.items())}]"
    option = typer.Option(spelling, *more_names, help=text, show_default=False)
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(default: Any) -> str:
    """A default value as it is shown, or nothing where there is none."""
    if default is None:
        return ""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)


def _bare_type(annotation: Any) -> type:
    """The type to parse: X for `X | None`, text for a tuple."""
    if isinstance(annotation, types.UnionType):
        annotation = next(each for each in typing.get_args(annotation) if each is not type(None))
    return annotation if annotation in (int, float, str, bool) else str


def _parsed(field: dataclasses.Field, value: Any) -> Any:
    if not isinstance(field.default, tuple):
        return value
    try:
        return tuple(int(part) for part in value.split(",") if part.strip())
    except ValueError:
        raise SettingsError(
            f"--{field.name.replace('_', '-')} takes whole numbers like 200,400, not {value!r}"
        ) from None
