"""Gradients clipped example by example: the mean, masks, microbatches, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import clipax

RNG = np.random.default_rng(0)
X = np.float32(RNG.normal(size=(10, 6)) * RNG.lognormal(sigma=2, size=(10, 1)))
Y = np.float32(RNG.normal(size=(10, 3)))
PARAMS = {
    "hidden": {"w": np.float32(RNG.normal(size=(6, 5))), "b": np.zeros(5, np.float32)},
    "out": {"w": np.float32(RNG.normal(size=(5, 3))), "b": np.zeros(3, np.float32)},
}
CLIPPERS = {
    "global_norm": clipax.global_norm(0.5),
    "per_layer": clipax.per_layer(0.5),
    "value": clipax.value(0.1),
    "agc": clipax.agc(0.1),
    "normalize": clipax.normalize(),
    "infinite": clipax.global_norm(np.inf),
}


def loss_fn(params, x, y):
    hidden = jax.nn.softplus(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return jnp.mean((hidden @ params["out"]["w"] + params["out"]["b"] - y) ** 2)


def one_by_one(clipper, chosen=slice(None)):
    """The mean of the losses and of the clipped gradients, in a loop."""
    losses, gradients = [], []
    for x, y in zip(X[chosen], Y[chosen], strict=True):
        loss, gradient = jax.value_and_grad(loss_fn)(PARAMS, x, y)
        losses.append(loss)
        gradients.append(clipax.clip(gradient, clipper, PARAMS)[0])
    return np.mean(losses), jax.tree.map(lambda *gs: np.mean(gs, axis=0), *gradients)


def assert_close(found, expected):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)

    jax.tree.map(check, found, expected)


MICROBATCHES = [("global_norm", size) for size in (None, 1, 5, 10, 64)]


@pytest.mark.parametrize(("name", "microbatch"), [(name, 4) for name in CLIPPERS] + MICROBATCHES)
def test_gradient_is_the_mean_of_the_clipped_ones(name, microbatch):
    fn = clipax.per_example(loss_fn, CLIPPERS[name], microbatch=microbatch)
    assert_close(jax.jit(fn)(PARAMS, X, Y), one_by_one(CLIPPERS[name]))


def test_without_a_threshold_it_is_the_gradient_of_the_mean():
    fn = clipax.per_example(loss_fn, clipax.global_norm(np.inf), microbatch=4)

    def mean(params):
        return jnp.mean(jax.vmap(loss_fn, (None, 0, 0))(params, X, Y))

    assert_close(fn(PARAMS, X, Y), jax.value_and_grad(mean)(PARAMS))


def test_equals_optax():
    _, found = clipax.per_example(loss_fn, clipax.global_norm(0.5))(PARAMS, X, Y)
    gradients = jax.vmap(jax.grad(loss_fn), (None, 0, 0))(PARAMS, X, Y)
    total, _ = optax.per_example_global_norm_clip(gradients, 0.5)
    assert_close(found, jax.tree.map(lambda g: g / 10, total))
    private = optax.contrib.differentially_private_aggregate(0.5, 0.0, 0)
    mean, _ = private.update(gradients, private.init(PARAMS))
    assert_close(found, mean)


@pytest.mark.parametrize("microbatch", [None, 4])
def test_nothing_is_used_of_what_is_masked(microbatch):
    mask = np.array([True, False] * 5)
    x = np.where(mask[:, None], X, np.nan)
    fn = jax.jit(clipax.per_example(loss_fn, CLIPPERS["global_norm"], microbatch=microbatch))
    assert_close(fn(PARAMS, x, Y, mask=mask), one_by_one(CLIPPERS["global_norm"], mask))
    loss, gradient = fn(PARAMS, x, Y, mask=np.zeros(10, bool))
    assert loss == 0 and all(not np.any(g) for g in jax.tree.leaves(gradient))


def test_one_example_moves_the_mean_by_its_share_at_most():
    fn = jax.jit(clipax.per_example(loss_fn, clipax.global_norm(0.5)))
    _, before = fn(PARAMS, X, Y)
    _, after = fn(PARAMS, np.concatenate([1e6 * X[:1], X[1:]]), Y)
    difference = jax.tree.map(lambda a, b: a - b, after, before)
    assert float(optax.tree_utils.tree_norm(difference)) <= 2 * 0.5 / 10 * (1 + 1e-5)


def test_sixteen_bits_are_summed_in_float32():
    params = {"w": jnp.ones(1, jnp.bfloat16)}
    fn = clipax.per_example(lambda p, x: jnp.sum(p["w"] * x), clipax.global_norm(1.0))
    loss, gradient = fn(params, jnp.full((1000, 1), 0.125, jnp.bfloat16))
    assert gradient["w"].dtype == jnp.bfloat16 and loss.dtype == jnp.float32
    assert float(gradient["w"][0]) == 0.125 and float(loss) == 0.125


def test_memory_is_bounded_by_the_microbatch():
    """Of 256 examples by a network with 20,000 numbers, the gradients of all are 20 MB."""
    rng = np.random.default_rng(0)
    params = {
        "hidden": {"w": np.float32(rng.normal(size=(64, 256))), "b": np.zeros(256, np.float32)},
        "out": {"w": np.float32(rng.normal(size=(256, 16))), "b": np.zeros(16, np.float32)},
    }
    x, y = np.float32(rng.normal(size=(256, 64))), np.float32(rng.normal(size=(256, 16)))

    def peak(microbatch):
        fn = clipax.per_example(loss_fn, clipax.global_norm(1.0), microbatch=microbatch)
        return jax.jit(fn).lower(params, x, y).compile().memory_analysis().temp_size_in_bytes

    whole = peak(None)
    assert peak(256 // 8) <= whole / 4
    assert peak(256 // 64) <= whole / 16


def test_wrong_batches_and_clippers_are_refused():
    fn = clipax.per_example(loss_fn, clipax.global_norm(1.0))
    with pytest.raises(ValueError, match=r"same first axis, got \[\(10, 6\), \(9, 3\)\]"):
        fn(PARAMS, X, Y[:9])
    with pytest.raises(ValueError, match="same first axis"):
        fn(PARAMS, X, Y, mask=np.ones(3, bool))
    with pytest.raises(ValueError, match=r"got \[\(\), \(\)\]"):
        fn(PARAMS, 1.0, 2.0)
    with pytest.raises(TypeError, match="`clipper` must be a clipper without a state"):
        clipax.per_example(loss_fn, clipax.adaptive())(PARAMS, X, Y)
