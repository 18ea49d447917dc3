"""The published clippers that look at more than one norm, in plain float64 numpy.

Gradients are lists of arrays, one for each leaf. Nothing here is shared with the package that it
checks.
"""

import math
from typing import NamedTuple

import numpy as np

# Factors: of a norm and a threshold.


def rescale(norm: float, threshold: float) -> float:
    return 1.0 if norm <= threshold else threshold / norm


def normalize(norm: float, threshold: float) -> float:
    return 1.0 if norm == 0 or math.isinf(threshold) else threshold / norm


def smooth(norm: float, threshold: float) -> float:
    return threshold / (threshold + norm)


def smooth_root(norm: float, threshold: float) -> float:
    return 1 / math.sqrt(1 + (norm / threshold) ** 2)


def trust_region(norm: float, threshold: float) -> float:
    """HeavyBall bends at 1.5 and cuts off at 2: the scale is three quarters of the threshold."""
    if norm == 0:
        return 1.0
    scale = 0.75 * threshold
    bent = scale * (0.1 * math.log1p(norm / scale) + 0.9 * math.tanh(norm / scale))
    return min(threshold, bent) / norm


def auto_s(norm: float, threshold: float, stability: float = 0.01) -> float:
    return threshold / (norm + stability)


def per_sample(norm: float, threshold: float, r: float = 0.1) -> float:
    return threshold / (norm + r / (norm + r))


def delta_clip(norm: float, threshold: float, delta: float = 1e-3) -> float:
    return 1.0 if norm == 0 else min(1.0, max(delta, threshold / norm))


# One gradient at a time.


def scaled_by_norm(gradient, factor_of) -> list[np.ndarray]:
    """Multiply a whole gradient by a factor of its norm."""
    factor = factor_of(norm(gradient))
    return [factor * np.float64(leaf) for leaf in gradient]


def norm(gradient) -> float:
    return math.sqrt(sum(float(np.sum(np.square(np.float64(leaf)))) for leaf in gradient))


def agc(gradient, params, clipping: float = 0.01, eps: float = 1e-3) -> list[np.ndarray]:
    """Every unit against its parameters: a column of a matrix, a filter of a convolution."""

    def unit_norms(array):
        if array.ndim <= 1:
            return np.sqrt(np.sum(array**2))
        axes = (0,) if array.ndim < 4 else tuple(range(array.ndim - 1))
        return np.sqrt(np.sum(array**2, axis=axes, keepdims=True))

    def clip(leaf, param):
        allowed = clipping * np.maximum(unit_norms(np.float64(param)), eps)
        norms = unit_norms(np.float64(leaf))
        return np.where(norms > allowed, allowed / np.where(norms == 0, 1, norms), 1.0) * leaf

    return [clip(leaf, param) for leaf, param in zip(gradient, params, strict=True)]


def block_rms(gradient, threshold: float = 1.0) -> list[np.ndarray]:
    """Adafactor: each leaf divided by max(1, RMS / threshold)."""

    def clip(leaf):
        return leaf / max(1.0, math.sqrt(np.mean(np.square(np.float64(leaf)))) / threshold)

    return [clip(np.float64(leaf)) for leaf in gradient]


def clippy(update, params, relative: float = 0.1, absolute: float = 1e-7) -> list[np.ndarray]:
    """One scale a leaf: the largest that leaves every entry within its share of the parameter."""

    def scale(leaf, param):
        allowed = relative * np.abs(np.float64(param)) + absolute
        ratios = [
            1.0 if u == 0 else a / abs(u) for u, a in zip(leaf.flat, allowed.flat, strict=True)
        ]
        return min(1.0, min(ratios, default=1.0))

    return [
        scale(leaf, param) * np.float64(leaf) for leaf, param in zip(update, params, strict=True)
    ]


# Over successive steps.


class LeafTrace(NamedTuple):
    """The factor of every leaf at every step, and the nearest decision of all."""

    factor: np.ndarray
    margin: float


def adagc(
    norms,
    ratio: float = 1.04,
    decay: float = 0.99,
    warmup: int = 100,
    max_norm: float = 1.0,
    restart: int | None = 100,
) -> LeafTrace:
    """AdaGC over a matrix of the norms of the leaves (columns) at successive steps (rows).

    The published rule is `restart=None` on norms without zeros, which here enter nothing: then all
    leaves share one warm-up.
    """
    norms = np.asarray(norms, np.float64)
    steps, leaves = norms.shape
    factors = np.ones((steps, leaves))
    tracked = [(np.inf, 0)] * leaves  # gamma, and how many norms have entered it
    runs: list[list[float]] = [[] for _ in range(leaves)]
    margin = np.inf

    def followed(gamma, seen, value):
        if seen < warmup:
            return min(gamma, value), seen + 1
        return decay * gamma + (1 - decay) * min(value, ratio * gamma), seen + 1

    for t, i in np.ndindex(steps, leaves):
        value, (gamma, seen) = norms[t, i], tracked[i]
        starting = seen < warmup
        total = float(np.sqrt(np.sum(norms[t] ** 2)))
        factors[t, i] = rescale(total, max_norm) if starting else rescale(value, ratio * gamma)
        if value == 0:
            continue
        tracked[i] = followed(gamma, seen, value * (factors[t, i] if starting else 1.0))
        if starting:
            continue
        margin = min(margin, abs(value / (4 * ratio * gamma) - 1))
        runs[i] = [*runs[i], value] if value > 4 * ratio * gamma else []
        if len(runs[i]) == restart:
            tracked[i] = (np.inf, 0)
            for known in runs[i]:
                tracked[i] = followed(*tracked[i], known)
            runs[i] = []
    return LeafTrace(factors, margin)


def stable_spam(gradients, decay=0.999, decays=(0.7, 0.9), eps=1e-8) -> list[np.ndarray]:
    """Stable-SPAM on the gradients of one leaf: AdaClip, then AdaGN. Zeros enter nothing."""
    largest = mean = square = 0.0
    count = 0
    results = []
    for gradient in gradients:
        gradient = np.float64(gradient)
        highest = np.abs(gradient).max()
        if highest > 0:
            count += 1
            largest = decay * largest + (1 - decay) * highest
            usual = largest / (1 - decay**count)
            spiky = np.abs(gradient) > usual
            gradient = np.where(spiky, gradient / highest * usual, gradient)
            size = np.sqrt(np.sum(gradient**2))
            mean = decays[0] * mean + (1 - decays[0]) * size
            square = decays[1] * square + (1 - decays[1]) * size**2
            first, second = mean / (1 - decays[0] ** count), square / (1 - decays[1] ** count)
            gradient = gradient / size * first / (np.sqrt(second) + eps)
        results.append(gradient)
    return results


def adam_with_resets(
    gradients, rate, betas, eps, every: int, warmup: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The updates of Adam whose moments are forgotten at each multiple of `every`, and its v.

    The count of the bias corrections goes on; the updates are small for `warmup` steps.
    """
    first = second = np.zeros_like(np.float64(gradients[0]))
    updates, moments = [], []
    for t, gradient in enumerate(np.float64(gradients), 1):
        since = t % every
        if since == 0:
            first = second = np.zeros_like(gradient)
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        corrected = first / (1 - betas[0] ** t), second / (1 - betas[1] ** t)
        share = 1.0
        if t >= every and since < warmup:
            share = 1 - 0.99 * (1 + math.cos(math.pi * since / (warmup + 1))) / 2
        updates.append(-rate * share * corrected[0] / (np.sqrt(corrected[1]) + eps))
        moments.append(second)
    return updates, moments
