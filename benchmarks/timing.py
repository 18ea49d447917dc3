"""Measures what does the same work in turns, and compares within each round."""

import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Measured = Callable[[], float]  # does its work and returns its cost: seconds, bytes, flops


class Ratio(NamedTuple):
    """Quartiles of a ratio over rounds."""

    low: float
    middle: float
    high: float


def in_turns(
    contestants: Mapping[str, Measured], rounds: int, *, pause: float = 0.0
) -> dict[str, np.ndarray]:
    """Costs `[round]` of each contestant.

    The order is drawn anew for every second round and reversed for the next, so that each comes as
    often before another as behind it.

    Args:
        contestants: what is measured, by name.
        rounds: how often.
        pause: seconds before each turn.
    """
    draw, order = np.random.default_rng(0), list(contestants)
    found: dict[str, list[float]] = {name: [] for name in order}
    with quiet():
        for i in range(rounds):
            order = order[::-1] if i % 2 else draw.permutation(order).tolist()
            for name in order:
                time.sleep(pause)
                found[name].append(contestants[name]())
    return {name: np.array(values) for name, values in found.items()}


class quiet:
    """Without collections of garbage."""

    def __enter__(self) -> None:
        gc.collect()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()


def ratio(ours: np.ndarray, theirs: np.ndarray) -> Ratio:
    """One over the other, round by round."""
    return Ratio(*np.quantile(ours / theirs, [0.25, 0.5, 0.75]).tolist())


class Call:
    """A function, timed with arguments that are made before and not timed.

    Args:
        function: is called with what `make` returns, all of which it may overwrite.
        make: makes its arguments.
        least: seconds over which a measurement is a mean; of longer calls it is one.
        most: calls of a measurement at most.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        make: Callable[[], tuple[Any, ...]] = tuple,
        *,
        least: float = 2e-3,
        most: int = 100,
    ):
        self._function, self._make, self._repeats = function, make, 1
        self()  # compiles
        once = min(self() for _ in range(3))
        self._repeats = min(most, math.ceil(least / once))

    def __call__(self) -> float:
        return sum(self._once() for _ in range(self._repeats)) / self._repeats

    def _once(self) -> float:
        arguments = jax.block_until_ready(self._make())
        begin = time.perf_counter()
        result = jax.block_until_ready(self._function(*arguments))
        seconds = time.perf_counter() - begin
        del result  # not while the clock runs
        return seconds


class Loop:
    """A function that carries its state from call to call, in buffers that it overwrites.

    Args:
        function: from the carry and one of the inputs to the next carry.
        carry: the first carry.
        inputs: what the calls are given, one after the other and again from the first.
        before: how many calls are made before any is measured.

    Attributes:
        carry: the last carry.
    """

    def __init__(
        self, function: Callable[..., Any], carry: Any, inputs: Iterable[Any], *, before: int = 3
    ):
        self.carry = carry
        self._function, self._inputs, self._calls = function, list(inputs), 0
        for _ in range(before):
            self()

    def __call__(self) -> float:
        given = self._inputs[self._calls % len(self._inputs)]
        self._calls += 1
        begin = time.perf_counter()
        self.carry = jax.block_until_ready(self._function(self.carry, given))
        return time.perf_counter() - begin
