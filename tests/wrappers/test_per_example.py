"""Gradients clipped example by example: the mean, masks, microbatches, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rows import sampled

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


@functools.cache
def compiled(name, microbatch):
    return jax.jit(clipax.per_example(loss_fn, CLIPPERS[name], microbatch=microbatch))


@functools.cache
def of_one_example(name):
    @jax.jit
    def clipped(x, y):
        loss, gradient = jax.value_and_grad(loss_fn)(PARAMS, x, y)
        return loss, clipax.clip(gradient, CLIPPERS[name], PARAMS)[0]

    return clipped


def one_by_one(name, chosen=slice(None)):
    """The mean of the losses and of the clipped gradients, in a loop."""
    pairs = [of_one_example(name)(x, y) for x, y in zip(X[chosen], Y[chosen], strict=True)]
    losses, gradients = zip(*pairs, strict=True)
    return np.mean(losses), jax.tree.map(lambda *gs: np.mean(gs, axis=0), *gradients)


def assert_close(found, expected):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)

    jax.tree.map(check, found, expected)


CASES = {f"{name}-4": (name, 4) for name in CLIPPERS}
CASES |= {f"global_norm-{size}": ("global_norm", size) for size in (None, 1, 5, 10, 64)}


@sampled("case", CASES, ("agc-4", "global_norm-64"))
def test_gradient_is_the_mean_of_the_clipped_ones(case):
    name, microbatch = case
    assert_close(compiled(name, microbatch)(PARAMS, X, Y), one_by_one(name))


def test_without_a_threshold_it_is_the_gradient_of_the_mean():
    @jax.jit
    @jax.value_and_grad
    def mean(params):
        return jnp.mean(jax.vmap(loss_fn, (None, 0, 0))(params, X, Y))

    assert_close(compiled("infinite", 4)(PARAMS, X, Y), mean(PARAMS))


def test_equals_optax():
    _, found = compiled("global_norm", None)(PARAMS, X, Y)

    @jax.jit
    def theirs(params):
        gradients = jax.vmap(jax.grad(loss_fn), (None, 0, 0))(params, X, Y)
        total, _ = optax.per_example_global_norm_clip(gradients, 0.5)
        private = optax.contrib.differentially_private_aggregate(0.5, 0.0, 0)
        mean, _ = private.update(gradients, private.init(params))
        return jax.tree.map(lambda g: g / 10, total), mean

    for expected in theirs(PARAMS):
        assert_close(found, expected)


@sampled("microbatch", {"None": None, "4": 4}, ("4",))
def test_nothing_is_used_of_what_is_masked(microbatch):
    mask = np.array([True, False] * 5)
    x = np.where(mask[:, None], X, np.nan)
    fn = compiled("global_norm", microbatch)
    assert_close(fn(PARAMS, x, Y, mask=mask), one_by_one("global_norm", mask))
    loss, gradient = fn(PARAMS, x, Y, mask=np.zeros(10, bool))
    assert loss == 0 and all(not np.any(g) for g in jax.tree.leaves(gradient))


def test_one_example_moves_the_mean_by_its_share_at_most():
    fn = compiled("global_norm", None)
    _, before = fn(PARAMS, X, Y)
    _, after = fn(PARAMS, np.concatenate([1e6 * X[:1], X[1:]]), Y)
    pairs = zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True)
    difference = np.concatenate([np.ravel(np.asarray(a) - np.asarray(b)) for a, b in pairs])
    assert np.linalg.norm(difference) <= 2 * 0.5 / 10 * (1 + 1e-5)


def test_sixteen_bits_are_summed_in_float32():
    params = {"w": jnp.ones(1, jnp.bfloat16)}
    fn = clipax.per_example(lambda p, x: jnp.sum(p["w"] * x), clipax.global_norm(1.0))
    loss, gradient = jax.jit(fn)(params, jnp.full((1000, 1), 0.125, jnp.bfloat16))
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
