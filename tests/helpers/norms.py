"""The measures and norms by name, and their comparison with float64 numpy."""

import functools
import math
from typing import Any

import jax
import jax.experimental as jax_experimental
import numpy as np
import pytest
from numpy_groups import double, group_arrays, inexact, norm_of

from clipax import measures

_holder: Any = jax if hasattr(jax, "enable_x64") else jax_experimental
enable_x64 = _holder.enable_x64
EPS = float(np.finfo(np.float32).eps)
TINY, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def label_of(path: str) -> str:
    """A label for the leaves of any tree."""
    return "even" if len(path) % 2 == 0 else "odd"


MEASURES = {
    "tree": measures.per_tree,
    "layer": measures.per_layer,
    "leaf": measures.per_leaf,
    "label": functools.partial(measures.per_group, label_of),
    "unit": measures.per_unit,
    "element": measures.per_element,
}
NORMS = {  # with the order that the reference calls them by
    "l2": (measures.l2, 2),
    "l1": (measures.l1, 1),
    "linf": (measures.linf, math.inf),
    "rms": (measures.rms, "rms"),
    "l3": (measures.lp(3), 3),
}
every_measure = pytest.mark.parametrize("groups", list(MEASURES))


@functools.cache
def measure_of(groups, norm="l2"):
    return MEASURES[groups](NORMS[norm][0])


def arrays_of(groups, tree):
    if groups != "label":
        return group_arrays(groups, tree)
    members: dict[str, list[np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if inexact(leaf):
            label = label_of(jax.tree_util.keystr(path, simple=True, separator="/"))
            members.setdefault(label, []).append(double(leaf))
    return list(members.values())


def expected_norms(groups, tree, ord):
    if groups == "tree" and not arrays_of(groups, tree):
        return np.zeros(1)  # one group, with nothing in it
    return np.array([norm_of(arrays, ord) for arrays in arrays_of(groups, tree)])


def flat(norms, tree):
    """The norms of all groups as one vector."""
    if norms.groups is not None:
        return np.asarray(norms.values)
    leaves = zip(jax.tree.leaves(norms.values), jax.tree.leaves(tree), strict=True)
    found = [np.ravel(values) for values, leaf in leaves if inexact(leaf)]
    return np.concatenate([np.zeros(0, np.float32), *found])


def check(groups, tree, norm="l2", rtol=4 * EPS):
    """Compares with the reference; returns the norms."""
    norms = measure_of(groups, norm).norms(tree)
    expected = expected_norms(groups, tree, NORMS[norm][1])
    np.testing.assert_allclose(flat(norms, tree), expected, rtol=rtol)
    return norms
