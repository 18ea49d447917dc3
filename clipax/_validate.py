"""Checks of arguments, and the name of the clipper in what is raised when it is used.

Arrays pass unread when a clipper is built, since they may be traced (`optax.inject_hyperparams`
builds a clipper from traced numbers); what a negative one does is decided where it is used.
"""

import contextlib
import numbers
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def number(
    name: str,
    value: Any,
    *,
    low: float = 0.0,
    high: float = np.inf,
    above: bool = False,
    below: bool = False,
    static: bool = False,
) -> None:
    """Checks that `value` is a number in [low, high], an end being open where the caller says so.

    Args:
        name: the argument's name, for the message.
        value: what was received.
        low: the least accepted number.
        high: the largest accepted number.
        above: whether `low` itself is refused.
        below: whether `high` itself is refused.
        static: whether arrays are refused because the number shapes the computation.

    Raises:
        TypeError: if it is not a real number (or, unless `static`, a scalar array).
        ValueError: if it is NaN or out of range.
    """
    if not static and isinstance(value, jax.Array) and _is_real_scalar(value):
        return
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]  # never traced, so it can be read
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        kind = "a Python number (see `static_args` of optax.inject_hyperparams)"
        raise TypeError(f"`{name}` must be {kind if static else 'a number'}, got {shown(value)}")
    given = float(value)
    inside = (low < given if above else low <= given) and (given < high if below else given <= high)
    if not inside:
        interval = f"{'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
        raise ValueError(f"`{name}` must be in {interval}, got {value!r}")


def _is_real_scalar(value: jax.Array) -> bool:
    real = jnp.issubdtype(value.dtype, jnp.integer) or jnp.issubdtype(value.dtype, jnp.floating)
    return value.ndim == 0 and real


def count(name: str, value: Any) -> None:
    """Checks that `value` is a Python integer of at least 1.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is less than 1.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"`{name}` must be a Python integer, got {shown(value)}")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value!r}")


def shorter(name: str, value: Any, other: str, most: Any) -> None:
    """Checks that one number is below another, if both can be read.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, jax.Array) and not isinstance(most, jax.Array) and value >= most:
        raise ValueError(f"`{name}` must be below `{other}`, got {value!r} for {most!r}")


def choice(name: str, value: Any, accepted: tuple[str, ...]) -> None:
    """Checks that `value` is one of a few words.

    Raises:
        ValueError: if it is not.
    """
    if value not in accepted:
        raise ValueError(f"`{name}` must be one of {accepted}, got {shown(value)}")


def flag(name: str, value: Any) -> None:
    """Checks that `value` is a truth value.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {shown(value)}")


def axis_names(value: Any) -> tuple[Hashable, ...]:
    """The mapped axes of an argument `axis_name`: none, one or several; each of them once.

    Raises:
        TypeError: if it is something else.
    """
    if value is None:
        return ()
    names = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for name in names:
        # JAX takes an integer for the position of an axis.
        if isinstance(name, (int, tuple)) or name is None or not isinstance(name, Hashable):
            raise TypeError(
                f"`axis_name` must be the name of a mapped axis, or several in a tuple, got "
                f"{shown(value)}"
            )
    return tuple(dict.fromkeys(names))


def shown(value: Any) -> str:
    """A value in an error message: itself if it is short, else its type."""
    text = repr(value)
    return text if len(text) <= 60 else f"an object of type {type(value).__name__}"


def options(nonfinite: Any, name: Any) -> None:
    """Checks the two arguments that every clipper takes.

    Raises:
        TypeError: if `name` is not a string.
        ValueError: if `nonfinite` is unknown or `name` is empty.
    """
    choice("nonfinite", nonfinite, ("propagate", "zero", "sanitize"))
    if name is not None and not isinstance(name, str):
        raise TypeError(f"`name` must be a string or None, got {shown(name)}")
    if name == "":
        raise ValueError("`name` must not be empty, got ''")


def same_tree(found: Any, known: Any) -> None:
    """Checks that the gradient is one that the state of a clipper was made for.

    Raises:
        ValueError: if what was `found` of it is not what is `known`.
    """
    if found != known:
        raise ValueError(
            "a clipper must get a gradient like the tree that its `init` was given: "
            f"got {found} for {known}; call `init` again for another tree"
        )


@contextlib.contextmanager
def naming(name: str | None) -> Iterator[None]:
    """Adds a transformation's name, if it has one, to what its functions raise: a decorator."""
    try:
        yield
    except Exception as error:
        note = f"This was in the gradient transformation {name!r}."
        if name is not None and note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


def transformation(argument: str, value: Any, kind: str) -> None:
    """Checks that `value` is a gradient transformation, which the message calls `kind`.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(value, optax.GradientTransformation):
        raise TypeError(f"`{argument}` must be {kind}, got {shown(value)}")


def name_of_wrapper(name: Any) -> None:
    """Checks the name of what always has one.

    Raises:
        TypeError: if it is not a string.
        ValueError: if it is empty.
    """
    if name is None:
        raise TypeError("`name` must be a string, got None")
    options("propagate", name)
