"""When a trainer skips a step: clipax's rule and those of others, in plain float64 numpy.

Each takes a series of losses or norms and gives, for each step, whether it is skipped.
"""

import numpy as np


def clipax(series, sigma=6.0, window=128, warmup=64, max_consecutive=200):
    past, skipped, consecutive = [], [], 0
    for value in series:
        last = np.array(past[-window:])
        root = np.sqrt(np.mean(last**2)) if past else 0.0
        threshold = np.inf
        if len(past) >= warmup and root > 0:
            threshold = np.mean(last) + sigma * max(np.std(last), 0.002 * root)
        if not np.isfinite(value):
            skipped.append(True)
        elif value > threshold and consecutive >= max_consecutive:
            past, consecutive = [value], 0
            skipped.append(False)
        else:
            past.append(min(value, threshold))
            consecutive = consecutive + 1 if value > threshold else 0
            skipped.append(value > threshold)
    return np.array(skipped)


def olmo_core(series, sigma=6.0, window=128):
    """`SkipStepOptimizer`: the value itself enters, and there is no least deviation."""
    past, skipped = [], []
    for value in series:
        last = np.float32(past[-window:])
        enough = len(past) >= max(2, window // 2)
        with np.errstate(invalid="ignore", over="ignore"):
            calm = not enough or value - last.mean() <= sigma * last.std(ddof=1)
        skipped.append(not calm)
        past.append(value)
    return np.array(skipped)


def axlearn(series, sigma=6.0, decay=0.99, warmup=64):
    """`drop_norm_by_grad_norm_stddev`: running means of n and n^2 in float32, of what is kept."""
    mean = square = np.float32(0)
    seen, skipped = 0, []
    for value in np.float32(series):
        with np.errstate(invalid="ignore"):
            deviation = np.sqrt(square - mean * mean)
            calm = seen < warmup or bool(value < mean + np.float32(sigma) * deviation)
        skipped.append(not calm)
        if calm:
            first = np.float32(decay if seen else 0.0)
            mean = first * mean + (1 - first) * value
            square = first * square + (1 - first) * value * value
            seen += 1
    return np.array(skipped)


def levanter(series, sigma=3.0, window=128, warmup=64):
    """Its clip by the norms seen: `mean + sigma max(std, 1e-6)`; the norm itself enters."""
    past, clipped = [], []
    for value in series:
        last = np.float32(past[-window:])
        with np.errstate(invalid="ignore", over="ignore"):
            threshold = (
                last.mean() + sigma * max(last.std(), 1e-6) if len(past) >= warmup else np.inf
            )
        clipped.append(bool(value > threshold))
        past.append(value)
    return np.array(clipped)
