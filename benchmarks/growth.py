"""Suite `growth`: how the time grows with leaves, entries, the window and devices."""

from collections.abc import Iterator

import jax.numpy as jnp

from benchmarks.cases import Case
from benchmarks.clips import clip
from benchmarks.starts import compiled
from benchmarks.steps import fsdp
from benchmarks.trees import Leaves
from benchmarks.windows import of_window

LEAVES = (1, 3, 10, 30, 100, 300, 1000, 3000)
ENTRIES = tuple(2**n for n in range(10, 28))  # to 134 million
WINDOWS = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
DEVICES = (1, 2, 4, 8)
FEW = 2  # points of a curve in a quick run


def cases(*, quick: bool) -> Iterator[Case]:
    def of(points: tuple[int, ...]) -> tuple[int, ...]:
        return points[:FEW] if quick else points

    for count in of(LEAVES):
        case = clip(Leaves(count, 2**10), jnp.float32, "above", apart=False)
        yield _point(case, "leaves of 1k", count)
    for count in of(LEAVES):
        leaves = Leaves(count, 2**10)
        case = compiled("global_norm", f"float32, {leaves}", leaves.described())
        yield _point(case, "leaves of 1k, compilation", count)
    for entries in of(ENTRIES):
        case = clip(Leaves(16, entries // 16), jnp.float32, "above", apart=False)
        yield _point(case, "entries in 16 leaves", entries)
    for window in of(WINDOWS):
        yield _point(of_window(window), "window of a percentile", window)
    for count in () if quick else DEVICES:
        yield _point(fsdp("global_norm", count), "devices", count)


def _point(case: Case, curve: str, size: float) -> Case:
    goals = dict.fromkeys(case.goals)
    rounds = min(10, case.rounds)
    return case._replace(suite="growth", goals=goals, rounds=rounds, curve=curve, size=size)
