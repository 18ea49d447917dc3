"""The clippers in plain float64 numpy, written from their definitions.

Two kinds of function. A *replay* takes the norms of successive steps and returns the threshold of
each step and whether it was clipped. A *clipper* takes one gradient, a dict from a leaf's path (a
tuple of keys) to its array, and returns the clipped gradient.

Nothing here is shared with the package that it checks.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

import numpy as np

Path = tuple[Hashable, ...]
Gradient = Mapping[Path, np.ndarray]
Clipped = dict[Path, np.ndarray]


class Replay(NamedTuple):
    """What a threshold policy does over a sequence of norms.

    `clipped` is True where the norm is finite and above the threshold.
    """

    threshold: np.ndarray
    clipped: np.ndarray


# Replays: one threshold a step.


def adaptive(
    norms,
    percentile: float = 95.0,
    *,
    multiplier: float = 2.0,
    window: int = 1000,
    warmup: int = 100,
    initial: float = 10.0,
) -> Replay:
    """Multiplier times a percentile of the last `window` finite norms, the current one included.

    The percentile interpolates linearly. The norms enter as they were before clipping, zeros too.
    `initial` stands in until `warmup` finite norms have been seen, the current one included, and
    wherever the percentile is 0. A non-finite norm changes nothing; the threshold beside it is that
    of the norms seen so far.

    >>> adaptive([1.0, 3.0, 5.0], 50.0, warmup=2).threshold
    array([10.,  4.,  6.])
    """
    seen: list[float] = []

    def threshold_of(norm: float) -> float:
        if np.isfinite(norm):
            seen.append(norm)
        if not seen or len(seen) < warmup:
            return initial
        return multiplier * float(np.percentile(seen[-window:], percentile)) or initial

    return _replay(norms, threshold_of)


def moving_average(
    norms,
    multiplier: float = 2.0,
    *,
    window: int = 100,
    warmup: int = 10,
    initial: float = 10.0,
) -> Replay:
    """Multiplier times the mean of the last `window` recorded norms before the current one.

    What is recorded is the norm after clipping, min(norm, threshold). `initial` stands in until
    `warmup` norms have been recorded, the current one not counted, and wherever the mean is 0. A
    non-finite norm is not recorded.

    >>> moving_average([1.0, 3.0, 50.0, 5.0], warmup=1).threshold
    array([10.,  2.,  3.,  4.])
    """
    recorded: list[float] = []

    def threshold_of(norm: float) -> float:
        threshold = initial
        if recorded and len(recorded) >= warmup:
            threshold = multiplier * float(np.mean(recorded[-window:])) or initial
        if np.isfinite(norm):
            recorded.append(min(norm, threshold))
        return threshold

    return _replay(norms, threshold_of)


def decaying(
    norms,
    initial: float,
    decay: float = 0.999,
    *,
    every: int = 1,
    floor: float = 0.0,
    clip_rate: float | None = None,
    window: int = 100,
) -> Replay:
    """The larger of `floor` and initial * decay**k; k is 0 at the first step.

    k grows by 1 after each `every` finite steps. With `clip_rate` it then grows only if, among the
    last `window` finite steps (all of them while there are fewer), the one just finished included,
    the share that were clipped is above `clip_rate`. A non-finite step does not count.

    >>> decaying([1.0, 1.0, 1.0, 1.0], 8.0, 0.5, every=2).threshold
    array([8., 8., 4., 4.])
    >>> decaying([9.0, 1.0, 1.0, 9.0], 8.0, 0.5, clip_rate=0.4).threshold
    array([8., 4., 2., 2.])
    """
    exponent = 0
    was_clipped: list[bool] = []

    def threshold_of(norm: float) -> float:
        nonlocal exponent
        threshold = max(floor, initial * decay**exponent)
        if np.isfinite(norm):
            was_clipped.append(norm > threshold)
            busy = clip_rate is None or np.mean(was_clipped[-window:]) > clip_rate
            if busy and len(was_clipped) % every == 0:
                exponent += 1
        return threshold

    return _replay(norms, threshold_of)


def _replay(norms, threshold_of: Callable[[float], float]) -> Replay:
    norms = np.asarray(norms, np.float64)
    thresholds = np.array([threshold_of(float(norm)) for norm in norms], np.float64)
    return Replay(thresholds, np.isfinite(norms) & (norms > thresholds))


# Clippers: one gradient.


def global_norm(gradient: Gradient, max_norm: float, *, ord: float = 2, nonfinite="propagate"):
    """All leaves are one group.

    >>> global_norm({("w",): np.array([3.0, 4.0])}, 1.0)
    {('w',): array([0.6, 0.8])}
    """
    return _by_group(gradient, lambda _: 0, lambda _: max_norm, ord, nonfinite)


def per_leaf(gradient: Gradient, max_norm: float, *, ord: float = 2, nonfinite="propagate"):
    """Every leaf is a group."""
    return _by_group(gradient, lambda path: path, lambda _: max_norm, ord, nonfinite)


def per_layer(gradient: Gradient, max_norm: float, *, ord: float = 2, nonfinite="propagate"):
    """The leaves that share a parent are a group.

    Leaves directly in a root list or tuple (a path of one integer) are groups of their own; those
    directly in a root dict are one group.
    """
    return _by_group(gradient, layer, lambda _: max_norm, ord, nonfinite)


def layer(path: Path) -> Path:
    """The layer that a leaf belongs to.

    >>> layer(("dense", "kernel")), layer(("kernel",)), layer((0,)), layer((0, 1))
    (('dense',), (), (0,), (0,))
    """
    return path if len(path) == 1 and isinstance(path[0], int) else path[:-1]


def per_group(
    gradient: Gradient,
    max_norm: float | Mapping[Hashable, float],
    labels: Mapping[Path, Hashable],
    *,
    ord: float = 2,
    nonfinite="propagate",
):
    """The leaves with the same label are a group; `max_norm` may differ by label."""

    def threshold_of(label: Hashable) -> float:
        return max_norm[label] if isinstance(max_norm, Mapping) else max_norm

    return _by_group(gradient, lambda path: labels[path], threshold_of, ord, nonfinite)


def value(gradient: Gradient, limit: float | tuple[float, float], *, nonfinite="propagate"):
    """Every entry is held within [-limit, limit], or [low, high].

    Entries are judged one by one, and an infinite one is as bad as a NaN: NaN with "propagate",
    0 with "zero" and "sanitize". A complex entry keeps its phase; its modulus is at most the limit.

    >>> value({("w",): np.array([-3.0, 0.5, np.inf])}, (-1.0, 2.0))
    {('w',): array([-1. ,  0.5,  nan])}
    """
    low, high = limit if isinstance(limit, tuple) else (-limit, limit)
    bad = np.nan if nonfinite == "propagate" else 0.0
    clipped = {}
    for path, array in gradient.items():
        finite = np.isfinite(array)
        entries = np.where(finite, _double(array), 0.0)
        if np.iscomplexobj(entries):
            within = entries * np.vectorize(factor, otypes=[float])(np.abs(entries), high)
        else:
            within = np.clip(entries, low, high)
        clipped[path] = np.where(finite, within, bad)
    return clipped


def spectral(
    gradient: Gradient,
    max_singular_value: float,
    *,
    rule: str = "hard",
    nonfinite: str = "propagate",
) -> Clipped:
    """Each matrix, the last two axes of an array, with its singular values clipped.

    "hard" makes s into min(s, tau), "soft" into s / sqrt(1 + s^2 / tau^2). An array with fewer axes
    is one column.

    >>> spectral({("w",): np.diag([3.0, 0.5])}, 1.0)[("w",)]
    array([[1. , 0. ], [0. , 0.5]])
    """
    clipped: Clipped = {}
    for path, array in gradient.items():
        stack = _double(array) if np.ndim(array) > 1 else _double(array).reshape(-1, 1)
        finite = np.isfinite(stack)
        u, s, vh = np.linalg.svd(np.where(finite, stack, 0), full_matrices=False)
        if rule == "soft":
            s = s / np.sqrt(1 + (s / max_singular_value) ** 2)
        result = (u * np.minimum(s, max_singular_value)[..., None, :]) @ vh
        if nonfinite != "sanitize":
            whole = np.all(finite, axis=(-2, -1), keepdims=True)
            result = np.where(whole, result, np.nan if nonfinite == "propagate" else 0)
        clipped[path] = result.reshape(np.shape(array))
    return clipped


def norm(arrays, ord: float = 2) -> float:
    """The p-norm of the moduli of all entries together; 0 of none.

    >>> norm([np.array([3e20, 0.0]), np.array([4e20j])])
    5e+20
    """
    entries = np.concatenate([np.abs(_double(array)).ravel() for array in arrays] or [np.zeros(0)])
    largest = float(entries.max(initial=0.0))
    if ord == np.inf or largest == 0 or not np.isfinite(largest):
        return largest
    return largest * float(np.sum((entries / largest) ** ord) ** (1 / ord))


def factor(norm: float, threshold: float) -> float:
    """The rule `rescale`: min(1, threshold / norm), and 1 for a norm of 0."""
    return 1.0 if norm <= threshold else threshold / norm


def _by_group(gradient: Gradient, group_of, threshold_of, ord: float, nonfinite: str) -> Clipped:
    members: dict[Hashable, list[Path]] = {}
    for path in gradient:
        members.setdefault(group_of(path), []).append(path)
    clipped: Clipped = {}
    for group, paths in members.items():
        arrays = [_double(gradient[path]) for path in paths]
        clipped |= zip(paths, _rescale(arrays, threshold_of(group), ord, nonfinite), strict=True)
    return {path: clipped[path] for path in gradient}


def _rescale(arrays: list[np.ndarray], threshold: float, ord: float, nonfinite: str):
    if not np.isfinite(norm(arrays, ord)):
        if nonfinite == "propagate":
            return [np.full_like(array, np.nan) for array in arrays]
        if nonfinite == "zero":
            return [np.zeros_like(array) for array in arrays]
        arrays = [np.where(np.isfinite(array), array, 0) for array in arrays]
    scale = factor(norm(arrays, ord), threshold)
    return [array if scale == 1 else array * scale for array in arrays]


def _double(array) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
