"""What the clippers have in common: the choice of their measure."""

from collections.abc import Callable
from typing import Any

from clipax import _validate, measures
from clipax.measures import Measure, Norm


def norm_of(ord: float | None) -> Norm:
    """The norm of the order `ord`."""
    if ord is None:
        return measures.l2
    _validate.number("ord", ord, above=True, static=True)
    return measures.lp(ord)


def measure_of(
    measure: Measure | None,
    ord: float | None,
    axis_name: Any,
    usual: Callable[..., Measure] = measures.per_tree,
) -> Measure:
    """The measure of a clipper that lets the user choose it."""
    if measure is None:
        return usual(norm_of(ord), axis_name=axis_name)
    for argument, given in (("ord", ord), ("axis_name", axis_name)):
        if given is not None:
            raise ValueError(
                f"`{argument}` belongs to the measure, got {given!r} beside `measure`: "
                f"pass it to the function that makes the measure"
            )
    return measure
