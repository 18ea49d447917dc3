"""Layers that are stacked along the first axis of their leaves, as `scan` keeps them.

The law: they are clipped as a list of the layers would be.
"""

import functools
import math
from typing import Any

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from methods_page import QUICK
from norms import NORMS
from rows import sampled

import clipax
from clipax import measures, rules, thresholds

LAYERS = 3
STACKED = {"blocks": True, "head": False}


def layers(seed=0, scale=1.0, dtype=np.float32) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def leaf(*shape, size=1.0):
        return np.asarray(rng.normal(size=shape) * size * scale, dtype)

    blocks = [{"bias": leaf(5), "kernel": leaf(3, 5, size=4.0**i)} for i in range(LAYERS)]
    return {"blocks": blocks, "head": {"kernel": leaf(5, 2)}}


def stacked(tree):
    return {**tree, "blocks": jax.tree.map(lambda *x: np.stack(x), *tree["blocks"])}


def both(make, gradients):
    """Last result and state of a list of layers and of their stack, the result stacked."""
    clippers = make(None), make(STACKED)
    found = []
    for clipper, place in zip(clippers, (lambda g: g, stacked), strict=True):
        update = jax.jit(clipper.update, compiler_options=QUICK)
        state = jax.jit(clipper.init, compiler_options=QUICK)(place(gradients[0]))
        for g in gradients:
            result, state = update(place(g), state, place(gradients[0]))
        found.append((result, state))
    (listed, listed_state), own = jax.tree.map(np.asarray, found)
    return (stacked(listed), listed_state), own


CLIPPERS = {
    "per_layer": lambda s: clipax.per_layer(2.0, stacked=s),
    "per_layer_max": lambda s: clipax.per_layer(2.0, ord=math.inf, stacked=s),
    "adaptive": lambda s: clipax.adaptive(
        50.0, window=3, warmup=1, measure=measures.per_layer(stacked=s)
    ),
    "zclip": lambda s: clipax.zclip(warmup=1, measure=measures.per_layer(stacked=s)),
    "relative": lambda s: clipax.clip_by(measures.per_layer(stacked=s), thresholds.relative(0.1)),
    "skip": lambda s: clipax.clip_by(measures.per_layer(stacked=s), 2.0, rules.skip),
    "sanitize": lambda s: clipax.per_layer(2.0, stacked=s, nonfinite="sanitize"),
    "max_sanitize": lambda s: clipax.per_layer(2.0, ord=math.inf, stacked=s, nonfinite="sanitize"),
    "zclip_skip": lambda s: clipax.clip_by(
        measures.per_layer(stacked=s), thresholds.z_score(warmup=1), rules.skip
    ),
}


@sampled("make", CLIPPERS, ["relative", "max_sanitize", "zclip_skip"])
def test_stack_is_clipped_as_a_list_of_layers(make):
    expected, found = both(make, [layers(i, 3.0**i) for i in range(4)])
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


SCALES = {"usual": 1.0, "small": 1e-30, "large": 1e30}


@sampled(
    ("measure", "norm", "scale", "dtype"),
    {
        f"{measure.__name__}-{name}-{scale}-{dtype.__name__}": (measure, norm, SCALES[scale], dtype)
        for measure in (measures.per_layer, measures.per_leaf)
        for name, (norm, _) in NORMS.items()
        for scale in SCALES
        for dtype in (np.float32, jnp.bfloat16, np.float16)
    },
    [
        *(f"per_layer-{norm}-{scale}-float32" for norm in ("l2", "l3") for scale in SCALES),
        *(f"per_leaf-linf-{scale}-bfloat16" for scale in SCALES),
        *(f"per_layer-l1-{scale}-float16" for scale in SCALES),
    ],
)
def test_norms_are_those_of_the_slices(measure, norm, scale, dtype):
    if dtype == np.float16 and scale != 1.0:
        scale = 2.0 ** (8 if scale > 1 else -8)
    tree = layers(0, scale, dtype)
    expected = np.sort(compiled_norms(measure, norm, False)(tree))
    found = np.sort(compiled_norms(measure, norm, True)(stacked(tree)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@functools.cache
def compiled_norms(measure, norm, is_stacked):
    measure = measure(norm, stacked=STACKED) if is_stacked else measure(norm)
    return jax.jit(lambda tree: measure.norms(tree).values)


LEAF_BY_LEAF = {
    "agc": lambda s: clipax.agc(0.2, stacked=s),
    "agc, one axis": lambda s: clipax.agc(0.2, axis=-1, stacked=s),
    "agc, but for the head": lambda s: clipax.agc(
        0.2, exclude=lambda path: path.startswith("head"), stacked=s
    ),
    "agc, one axis, but for the head": lambda s: clipax.agc(
        0.2, axis=-1, exclude=lambda path: path.startswith("head"), stacked=s
    ),
    "clippy": lambda s: clipax.clippy(0.1, stacked=s),
    "stable_spam": lambda s: clipax.stable_spam(stacked=s),
    "units": lambda s: clipax.adaptive(
        50.0, window=3, warmup=1, measure=measures.per_unit(stacked=s)
    ),
    "per_leaf": lambda s: clipax.per_leaf(1.0, stacked=s),
    "block_rms": lambda s: clipax.block_rms(1.0, stacked=s),
    "adagc": lambda s: clipax.adagc(warmup=2, stacked=s),
    "olmo": lambda s: clipax.olmo(measure=measures.per_leaf(stacked=s)),
}
OF_MATRICES = {
    "spectral, soft adaptive": lambda s: clipax.spectral(
        thresholds.window_percentile(50.0, window=3, warmup=1),
        method="svd",
        rule="soft",
        stacked=s,
    ),
    "spectral": lambda s: clipax.spectral(2.0, stacked=s),
    "spectral, soft": lambda s: clipax.spectral(2.0, rule="soft", stacked=s),
    "spectral, adaptive": lambda s: clipax.spectral(
        thresholds.window_percentile(50.0, window=3, warmup=1), method="svd", stacked=s
    ),
}


@sampled(
    "make",
    LEAF_BY_LEAF,
    ["agc, one axis, but for the head", "stable_spam"],
)
def test_leaves_of_a_stack_have_norms_of_their_own(make):
    """The state has them in another order than for a list: slice by slice, not layer by layer."""
    (expected, _), (found, _) = both(make, [layers(i, 3.0**i) for i in range(4)])
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


@sampled("make", OF_MATRICES, ["spectral"])
def test_matrices_and_vectors_of_a_stack_have_singular_values_of_their_own(make):
    """A small entry of a matrix is rounded as its largest ones are."""
    (expected, _), (found, _) = both(make, [layers(i, 3.0**i) for i in range(4)])
    chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=1e-6)


@sampled(
    ("make", "error", "nonfinite"),
    {
        f"{name}-{nonfinite}": (make, error, nonfinite)
        for name, make, error in [
            ("agc", clipax.agc, 0.0),
            ("spectral", functools.partial(clipax.spectral, 2.0), 1e-6),
        ]
        for nonfinite in ("propagate", "zero", "sanitize")
    },
    ["agc-sanitize"],
)
def test_nan_in_one_vector_of_a_stack_leaves_the_others_alone(make, error, nonfinite):
    bad = layers()
    bad["blocks"][1]["bias"][2] = np.nan
    (expected, _), (found, _) = both(
        lambda s: make(stacked=s, nonfinite=nonfinite), [layers(), bad]
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=error)
    lost = np.isnan(found["blocks"]["bias"]).any(1).tolist()
    assert lost == [False, nonfinite == "propagate", False]


@pytest.mark.parametrize(
    "nonfinite", [pytest.param("propagate", marks=pytest.mark.exhaustive), "zero"]
)
def test_nan_in_one_slice_leaves_the_others_alone(nonfinite):
    bad = layers()
    bad["blocks"][1]["bias"][2] = np.nan
    expected, (result, state) = both(
        lambda s: clipax.per_layer(2.0, stacked=s, nonfinite=nonfinite), [layers(), bad]
    )
    chex.assert_trees_all_close((result, state), expected, rtol=1e-6)
    lost = np.isnan(result["blocks"]["kernel"]).all((1, 2))
    if nonfinite == "zero":
        lost = (result["blocks"]["kernel"] == 0).all((1, 2))
    assert lost.tolist() == [False, True, False]


@sampled("scale", {"usual": 1.0, "fallback": 1e-30}, ["fallback"])
def test_vmap_and_derivatives(scale):
    clipper = clipax.per_layer(20.0 * scale, stacked=STACKED)
    trees = [stacked(layers(i, scale)) for i in range(3)]
    runs = jax.tree.map(lambda *x: np.stack(x), *trees)

    def clipped(tree):
        return clipax.clip(tree, clipper)[0]

    one = jax.jit(clipped, compiler_options=QUICK)
    each = jax.tree.map(lambda *x: np.stack(x), *map(one, trees))
    batch = jax.jit(jax.vmap(clipped), compiler_options=QUICK)
    chex.assert_trees_all_close(batch(runs), each, rtol=1e-6)

    def moved(clipper, tree):
        def total(factor):
            scaled = jax.tree.map(lambda x: x * factor, tree)
            return sum(x.sum() for x in jax.tree.leaves(clipax.clip(scaled, clipper)[0]))

        return float(jax.jit(jax.grad(total), compiler_options=QUICK)(1.5))

    tree, listed = layers(0, scale), clipax.per_layer(20.0 * scale)
    assert moved(clipper, stacked(tree)) == pytest.approx(moved(listed, tree), rel=1e-4, abs=0)


def test_leaf_within_its_threshold_is_unchanged_to_the_bit():
    tree = stacked(layers())
    clipper = clipax.per_layer(10.0, stacked=STACKED)
    result, metrics = jax.jit(lambda tree: clipax.clip(tree, clipper))(tree)
    norms = measures.per_layer(stacked=STACKED).norms(tree).values
    assert (norms > 10).sum() == 2 and metrics["clipped"] == pytest.approx(2 / 4)
    for x, y in zip(
        jax.tree.leaves(result["blocks"]), jax.tree.leaves(tree["blocks"]), strict=True
    ):
        assert np.array_equal(x[:1], y[:1]) and not np.array_equal(x[1:], y[1:])


def test_stacks_and_single_leaves_side_by_side():
    """Leaves of one parent are together where they have as many slices."""
    tree = {"w": jnp.ones((2, 9)), "b": jnp.ones((2, 7)), "long": jnp.ones((3, 4)), "one": 2.0}
    told = {"w": True, "b": True, "long": True, "one": False}
    norms = measures.per_layer(stacked=told).norms(tree)
    assert norms.groups == (range(0, 2), range(2, 5), 5, range(0, 2))
    np.testing.assert_allclose(norms.values, [4, 4, 2, 2, 2, 2])


@pytest.mark.parametrize("slices", [0, 1])
def test_few_slices(slices):
    tree = {"w": jnp.full((slices, 4), 2.0)}
    result, _ = clipax.clip(tree, clipax.per_leaf(2.0, stacked=lambda path: True))
    np.testing.assert_allclose(result["w"], np.ones((slices, 4)), rtol=1e-6)


def test_monitor_names_the_slices():
    watch = clipax.monitor(measure=measures.per_layer(stacked=STACKED))
    tree = stacked(layers())
    _, state = jax.jit(lambda tree: watch.update(tree, watch.init(tree)))(tree)
    names = {key.split("/", 1)[1].rsplit("/", 1)[0] for key in clipax.metrics(state)}
    assert {f"blocks/{i}" for i in range(LAYERS)} <= names


@pytest.mark.parametrize(("slices", "last"), [(10, "9"), (11, "10"), (101, "100")])
def test_slices_of_leaves_at_the_root_are_named_in_order(slices, last):
    measure = measures.per_layer(stacked=lambda path: True)
    names = measure.names({"w": jnp.ones((slices, 2))})
    assert names == sorted(names) and names[-1] == last and len(set(map(len, names))) == 1


class Dense(eqx.Module):
    """A module that can be called, as those of Equinox are: a tree of flags all the same."""

    kernel: Any
    bias: Any

    def __call__(self, x):
        return x @ self.kernel + self.bias


def test_prefix_tree_that_can_be_called_is_a_tree():
    measure = measures.per_leaf(stacked=Dense(kernel=True, bias=False))
    norms = measure.norms(Dense(kernel=jnp.ones((3, 4)), bias=jnp.ones(4))).values
    np.testing.assert_allclose(norms, [2, 2, 2, 2])


def test_scalar_that_is_said_to_be_a_stack_is_refused():
    with pytest.raises(ValueError, match=r"`stacked` must be False for scalars, .* 'scale'"):
        clipax.per_leaf(1.0, stacked=lambda path: True).init({"scale": jnp.ones(())})


@pytest.mark.parametrize(
    "make",
    [
        clipax.agc,
        clipax.clippy,
        clipax.stable_spam,
        clipax.adagc,
        clipax.block_rms,
        functools.partial(clipax.spectral, 1.0),
    ],
)
@pytest.mark.parametrize("stacked", ["blocks", {"w": 1}, lambda path: "yes", lambda path: None])
def test_stacked_that_is_no_boolean_is_refused(make, stacked):
    with pytest.raises(TypeError, match=r"`stacked` must be True or False .* for 'w'"):
        make(stacked=stacked).init({"w": jnp.ones((2, 3))})


def test_stacked_that_does_not_fit_the_tree_is_refused():
    with pytest.raises(ValueError, match=r"`stacked` must be a prefix"):
        clipax.per_layer(1.0, stacked={"other": True}).init(stacked(layers()))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(4)(jnp.tanh(nn.Dense(8)(x))), None


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        scan = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = scan(name="blocks")(x, None)
        return nn.Dense(1, name="head")(x)


@pytest.mark.exhaustive
def test_scanned_layers_of_linen_train():
    model, x = Model(), jnp.ones((5, 4))
    params = jax.jit(model.init, compiler_options=QUICK)(jax.random.key(0), x)["params"]
    measure = measures.per_layer(stacked=lambda path: path.startswith("blocks/"))
    clipper = clipax.adaptive(50.0, window=10, warmup=5, initial=0.1, measure=measure)
    optimizer = optax.chain(clipper, optax.sgd(0.02))
    state = jax.jit(optimizer.init, compiler_options=QUICK)(params)
    assert measure.init(params).values.shape == (2 * 3 + 1,)  # two Dense in each, and the head

    def loss_of(params):
        return jnp.mean((model.apply({"params": params}, x) - 1.0) ** 2)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(params, state):
        loss, gradient = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(50):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.1 * losses[0]
