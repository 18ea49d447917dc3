"""A checkpoint of each release restores in this one, and training goes on as it did there."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import CLIPPERS, WRAPPERS
from rows import sampled
from states import store

import clipax

FILES = sorted(store.FOLDER.glob("*.npz"))
Arrays = dict[str, np.ndarray]


def stored(file: pathlib.Path) -> dict[str, dict[str, Arrays]]:
    """By call and part: arrays by their paths."""
    with np.load(file) as arrays:
        calls = json.loads(str(arrays["calls"]))
        found: dict[str, dict[str, Arrays]] = {call: {} for call in calls}
        for key in set(arrays.files) - {"calls"}:
            i, part, path = key.split("/", 2)
            found[calls[int(i)]].setdefault(part, {})[path] = arrays[key]
    return found


def restored(like, arrays: Arrays):
    """The arrays in the places of a tree, which must have the same."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    assert len(leaves) == len(arrays)
    for path, leaf in leaves:
        array = arrays[jax.tree_util.keystr(path)]
        assert (leaf.shape, leaf.dtype) == (array.shape, array.dtype), path
    return treedef.unflatten(jnp.asarray(arrays[jax.tree_util.keystr(p)]) for p, _ in leaves)


GRADIENT = store.gradient(0)
STORED = {file.stem: stored(file) for file in FILES}


CASES = {
    f"{version}-{call}": (call, parts)
    for version, calls in STORED.items()
    for call, parts in calls.items()
}


@pytest.mark.parametrize(("call", "parts"), CASES.values(), ids=CASES)
def test_stored_state_has_the_arrays_of_this_release(call, parts):
    optimizer = store.build(call)
    params, gradient = (restored(GRADIENT, parts[k]) for k in ("params", "gradient"))
    state = restored(jax.eval_shape(optimizer.init, params), parts["state"])
    updates, after = jax.eval_shape(optimizer.update, gradient, state, params)
    restored(updates, parts["updates"])
    restored(after, parts["after"])


# One for each kind of state, of thresholds, of clippers of their own and of wrappers.
KINDS = (
    "clipax.global_norm(optax.linear_schedule(2.0, 1.0, 100))",
    "clipax.adaptive(warmup=10)",
    "clipax.moving_average()",
    "clipax.zclip()",
    "clipax.quantile()",
    "clipax.adagc(warmup=10)",
    "clipax.stable_spam()",
    "clipax.skip_spikes(optax.adam(1e-3), warmup=10)",
    "clipax.error_feedback(clipax.global_norm(1.0))",
)


@sampled("case", CASES, [name for name, (call, _) in CASES.items() if call in KINDS])
def test_stored_state_restores_and_goes_on(case):
    call, parts = case
    optimizer = store.build(call)
    params, gradient = (restored(GRADIENT, parts[k]) for k in ("params", "gradient"))
    state = restored(optimizer.init(params), parts["state"])
    # One program costs less than one for each of its operations.
    options = {"xla_backend_optimization_level": 0}
    update = jax.jit(optimizer.update, compiler_options=options)
    updates, after = update(gradient, state, params)
    for part, tree in (("updates", updates), ("after", after)):
        found = store.named(tree)
        assert found.keys() == parts[part].keys()
        for path, array in found.items():
            np.testing.assert_allclose(array, parts[part][path], rtol=2e-5, atol=1e-6, err_msg=path)


def test_every_clipper_is_stored():
    if "dev" not in clipax.__version__:
        assert STORED[clipax.__version__].keys() == set(store.CALLS)
    assert set(KINDS) <= set(store.CALLS)
    called = " ".join(store.CALLS)
    stateless = {"clip_cotangent", "per_example"}
    names = CLIPPERS.keys() | WRAPPERS.keys() - stateless
    assert [name for name in names if f"clipax.{name}(" not in called] == []
