"""Times what does the same work in turns, and compares the times of each round."""

import gc
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Timed = Callable[[], float]  # does its work once and returns the seconds


class Ratio(NamedTuple):
    """Quartiles of a ratio over rounds."""

    low: float
    middle: float
    high: float


def in_turns(contestants: Mapping[str, Timed], rounds: int) -> dict[str, np.ndarray]:
    """Seconds `[round]` of each contestant; each round begins with another one.

    Args:
        contestants: what is timed, by name.
        rounds: how often.
    """
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for first in itertools.islice(itertools.cycle(range(len(names))), rounds):
            for name in (*names[first:], *names[:first]):
                seconds[name].append(contestants[name]())
    finally:
        gc.enable()
    return {name: np.array(found) for name, found in seconds.items()}


def ratio(ours: np.ndarray, theirs: np.ndarray) -> Ratio:
    """One over the other, round by round."""
    return Ratio(*np.quantile(ours / theirs, [0.25, 0.5, 0.75]).tolist())


class Call:
    """A function of arrays, timed with arguments that are made before and not timed.

    Args:
        function: is called with what `make` returns, all of which it may donate.
        make: makes its arguments.
        least: seconds that one measurement takes at least; calls are repeated until then.
        most: how often at most.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        make: Callable[[], tuple[Any, ...]],
        *,
        least: float = 2e-3,
        most: int = 100,
    ):
        self._function, self._make, self._repeats = function, make, 1
        self()  # compiles
        once = min(self() for _ in range(3))
        self._repeats = min(most, math.ceil(least / once))

    def __call__(self) -> float:
        arguments = jax.block_until_ready([self._make() for _ in range(self._repeats)])
        begin = time.perf_counter()
        results = [self._function(*each) for each in arguments]
        jax.block_until_ready(results)
        return (time.perf_counter() - begin) / self._repeats


class Loop:
    """A function that carries its state from call to call, in buffers that it donates.

    Args:
        function: from the carry and the other arguments to the next carry.
        carry: the first carry.
        others: arguments that stay the same.
    """

    def __init__(self, function: Callable[..., Any], carry: Any, *others: Any):
        self._function, self._carry, self._others = function, carry, others
        for _ in range(3):
            self()

    def __call__(self) -> float:
        begin = time.perf_counter()
        self._carry = jax.block_until_ready(self._function(self._carry, *self._others))
        return time.perf_counter() - begin
