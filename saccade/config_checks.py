"""Checks of the numbers in configurations, said in one sentence with the field's full name."""

import math
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_type_hints


def check_counts(config: object, owner: str, *names: str, least: Literal[0, 1] = 1) -> None:
    """Raises ValueError unless these fields are whole numbers of at least `least`."""
    for name in names:
        value = getattr(config, name)
        if not is_count(value, least):
            wanted = "more than zero" if least else "zero or more"
            default = getattr(type(config), name)
            raise ValueError(
                f"{owner}{name} is {value!r}: expected {wanted}, a whole number"
                + (f" such as {default}, the default." if default is not None else ".")
            )


def check_numbers(config: object, owner: str, *names: str, most: float = math.inf) -> None:
    """Raises ValueError unless these fields are finite numbers from 0 to `most`."""
    for name in names:
        value = getattr(config, name)
        if not is_finite(value) or not 0 <= value <= most:
            wanted = "a finite number of at least 0" if most == math.inf else f"0 to {most:g}"
            default = getattr(type(config), name)
            raise ValueError(
                f"{owner}{name} is {value!r}: expected {wanted}, such as {default}, the default."
            )


def check_choices(config: object, owner: str, *names: str) -> None:
    """Raises ValueError unless these fields hold one of the strings that their types allow."""
    for name in names:
        value, allowed = getattr(config, name), get_args(get_type_hints(type(config))[name])
        if value not in allowed:
            raise ValueError(f'{owner}{name} is "{value}": expected one of {", ".join(allowed)}.')


def is_count(value: Any, least: int) -> bool:
    """Whether it is a whole number of at least `least`."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


def is_finite(value: Any) -> bool:
    """Whether it is a number, and neither infinite nor NaN."""
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
