"""The groups of a tree and their norms, written once more in float64 numpy."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import reference

LABELS = {"dense": "a", "cell": "b", "scalar": "b", "rest": "b"}


def label_of(path: str) -> str:
    return LABELS[path.split("/")[0]]


def inexact(leaf: Any) -> bool:
    return jnp.issubdtype(np.asarray(leaf).dtype, jnp.inexact)


def double(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def group_arrays(groups: str, tree: Any) -> list[list[np.ndarray]]:
    """The float64 arrays of each group."""
    found = [(p, x) for p, x in jax.tree_util.tree_flatten_with_path(tree)[0] if inexact(x)]
    if groups == "element":
        return [[entry] for _, x in found for entry in double(x).ravel()]
    if groups == "unit":
        return [[column] for _, x in found for column in _units(double(x))]
    if groups == "matrix":
        return [[matrix] for _, x in found for matrix in matrices(double(x))]
    by_key: dict[Any, list[np.ndarray]] = {label: [] for label in "ab" if groups == "label"}
    for i, (path, x) in enumerate(found):
        keys = tuple(getattr(k, "key", getattr(k, "idx", getattr(k, "name", None))) for k in path)
        key = {
            "tree": lambda: 0,
            "layer": lambda keys=keys: reference.layer(keys),
            "leaf": lambda i=i: i,
            "label": lambda keys=keys: LABELS[keys[0]],
        }[groups]()
        by_key.setdefault(key, []).append(double(x))
    return list(by_key.values())


def _units(array: np.ndarray) -> list[np.ndarray]:
    if array.ndim < 2:
        return [array]
    spanned = 1 if array.ndim < 4 else array.ndim - 1
    rest = math.prod(array.shape[spanned:])
    return list(array.reshape(-1, rest).T)


def matrices(array: np.ndarray) -> list[np.ndarray]:
    """The matrices of a leaf: its last two axes. A leaf with fewer is one column."""
    if array.ndim < 2:
        return [array.reshape(-1, 1)]
    count = math.prod(array.shape[:-2])
    return list(array.reshape(count, *array.shape[-2:]))


def norm_of(arrays: list[np.ndarray], ord: Any) -> float:
    """The norm of one group in float64."""
    if ord == "rms":
        size = sum(np.size(a) for a in arrays)
        return reference.norm(arrays) / math.sqrt(size) if size else 0.0
    if ord == "spectral":
        (matrix,) = arrays
        return float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0
    return reference.norm(arrays, ord)
