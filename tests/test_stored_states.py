"""A checkpoint of each release restores in this one, and training goes on as it did there."""

import json
import pathlib

import jax
import numpy as np
import pytest
from states import store

import clipax

FILES = sorted(store.FOLDER.glob("*.npz"))


def stored(file: pathlib.Path) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """By call: the arrays of its state, of the next update, and of the state after it."""
    with np.load(file) as arrays:
        calls = json.loads(str(arrays["calls"]))
        found = {call: {"state": {}, "update": {}, "after": {}} for call in calls}
        for key in set(arrays.files) - {"calls"}:
            i, part, path = key.split("/", 2)
            found[calls[int(i)]][part][path] = arrays[key]
    return found


STORED = [
    pytest.param(call, parts, id=f"{file.stem}-{call}")
    for file in FILES
    for call, parts in stored(file).items()
]


@pytest.mark.parametrize(("call", "parts"), STORED)
def test_stored_state_restores_and_goes_on(call, parts):
    optimizer, params = store.build(call), store.gradient(1000)
    like = optimizer.init(params)
    for path, array in store.named(like).items():
        assert (array.shape, array.dtype) == (
            parts["state"][path].shape,
            parts["state"][path].dtype,
        ), path
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    assert len(leaves) == len(parts["state"])
    state = treedef.unflatten(
        jax.numpy.asarray(parts["state"][jax.tree_util.keystr(path)]) for path, _ in leaves
    )
    update, after = optimizer.update(store.gradient(store.STEPS), state, params)
    for part, tree in (("update", update), ("after", after)):
        found = store.named(tree)
        assert found.keys() == parts[part].keys()
        for path, array in found.items():
            np.testing.assert_allclose(array, parts[part][path], rtol=2e-5, atol=1e-6, err_msg=path)


def test_this_release_has_stored_every_clipper():
    assert f"{clipax.__version__}.npz" in [file.name for file in FILES]
    called = " ".join(store.CALLS)
    functions = {"clip", "clip_by", "clip_cotangent", "metrics", "per_example", "suggest_threshold"}
    names = {"Suggestion", "ThresholdPolicy", "measures", "rules", "thresholds"} | functions
    assert [n for n in clipax.__all__ if n not in names and f"clipax.{n}(" not in called] == []
