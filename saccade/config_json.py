"""Configurations as plain values that JSON can hold, and back."""

from dataclasses import MISSING, Field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")

VERSION = 1
"""Of config.json in our own layout. A field with a default may be added without another version."""


def to_dict(config: Any) -> dict[str, Any]:
    """Every field of a nested configuration, tuples as lists."""
    return {field.name: _plain(getattr(config, field.name)) for field in fields(config)}


def from_dict(kind: type[Config], values: object, name: str = "") -> Config:
    """The inverse of `to_dict`; an absent field takes its default.

    Args:
        kind: A dataclass.
        values: A dictionary with its fields.
        name: What to call it in errors; empty for the outermost.

    Raises:
        ValueError: If a field is unknown, lacks both value and default, or holds another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{name or 'the configuration'} is {values!r}: expected its fields.")
    hints = get_type_hints(kind)
    known: dict[str, Field[Any]] = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    prefix = f"{name}." if name else ""
    for key in values:
        if key not in known:
            raise ValueError(
                f"{prefix}{key} is not a field of {kind.__name__}: expected some of "
                f"{', '.join(known)}; a newer version of saccade may have written it."
            )
    for key, field in known.items():
        required = field.default is MISSING and field.default_factory is MISSING
        if required and key not in values:
            raise ValueError(f"{prefix}{key} is missing: it has no default.")
    read = {key: _read(hints[key], value, prefix + key) for key, value in values.items()}
    return kind(**read)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _read(hint: Any, value: Any, name: str) -> Any:
    if is_dataclass(hint):
        return from_dict(hint, value, name)  # type: ignore[arg-type]
    kind, options = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        fitting = [option for option in options if _fits(option, value)]
        if fitting:
            return _read(fitting[0], value, name)
    elif kind is tuple and isinstance(value, list | tuple):
        repeated = len(options) == 2 and options[1] is Ellipsis
        items = [options[0]] * len(value) if repeated else list(options)
        if len(items) == len(value):
            return tuple(
                _read(item, each, f"{name}[{index}]")
                for index, (item, each) in enumerate(zip(items, value, strict=True))
            )
    elif kind is dict and isinstance(value, dict):
        return {key: _read(options[1], each, f"{name}[{key!r}]") for key, each in value.items()}
    elif _fits(hint, value):
        return float(value) if hint is float else value
    raise ValueError(f"{name} is {value!r}: expected {_described(hint)}.")


def _fits(hint: Any, value: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple)
    if get_origin(hint) is dict:
        return isinstance(value, dict)
    if is_dataclass(hint):
        return isinstance(value, dict)
    if hint is float:
        return _is_number(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        # YAML 1.1 takes 1e-4, which lacks a point, for a word.
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, int | float) and not isinstance(value, bool)


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
