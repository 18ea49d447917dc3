"""Numbers that sum up a run."""

import numpy as np

SPIKE_FIRST, SPIKE_WINDOW, SPIKE_DEVIATIONS = 50, 1000, 10.0


def spike_score(losses: np.ndarray) -> np.ndarray:
    """Share of steps whose loss jumps far above the losses before it.

    A step counts when its loss lies 10 standard deviations above the mean of up to 1,000 finite
    losses before it. Steps are looked at from the fiftieth on; one that is not finite is no
    spike: the run is failed instead.

    Args:
        losses: `[run, step]`.

    Returns:
        Share `[run]`; 0 for runs of fewer than fifty steps.
    """
    losses = np.where(np.isfinite(losses), losses, np.nan).astype(np.float64)
    steps = range(SPIKE_FIRST - 1, losses.shape[1])
    spikes = [_is_spike(losses[:, max(0, t - SPIKE_WINDOW) : t], losses[:, t]) for t in steps]
    return np.mean(spikes, axis=0) if spikes else np.zeros(len(losses))


def _is_spike(before: np.ndarray, loss: np.ndarray) -> np.ndarray:
    known = np.isfinite(before)
    count = np.maximum(known.sum(1), 1)
    mean = np.where(known, before, 0).sum(1) / count
    spread = np.where(known, before - mean[:, None], 0)
    return loss > mean + SPIKE_DEVIATIONS * np.sqrt((spread**2).sum(1) / count)


def clip_share(clipped: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Share of the steps with a finite gradient that were clipped, `[run]`."""
    finite = np.isfinite(norms)
    return (clipped & finite).sum(1) / np.maximum(finite.sum(1), 1)


def failed(scores: dict[str, np.ndarray], floors: dict[str, float]) -> np.ndarray:
    """Whether a score is not finite or worse than its floor, `[run]`."""
    good = [np.isfinite(scores[name]) & (scores[name] <= floor) for name, floor in floors.items()]
    return ~np.all(good, axis=0)
