"""`clipax.metrics`: found in every optax state, right against numpy, and free."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import CATALOGUE, group_norms
from flax import nnx
from rows import sampled
from trees import plain

import clipax
from clipax import measures, rules, thresholds

KEYS = ["norm", "threshold", "factor", "clipped", "clip_rate", "nonfinite"]
PARAMS = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
GRADIENT: dict[str, Any] = {
    "a": jnp.array([3.0, 4.0]),
    "b": jnp.array([12.0]),
}  # norms 5 and 12, together 13


def keys(*prefixes: str) -> set[str]:
    return {f"{prefix}/{key}" for prefix in prefixes for key in KEYS}


def after(optimizer, *gradients, params: Any = PARAMS) -> dict[str, Any]:
    """The metrics after some updates."""
    state = optimizer.init(params)
    update = jitted(optimizer)
    for gradient in gradients or (GRADIENT,):
        _, state = update(gradient, state, params)
    return clipax.metrics(state)


@functools.cache
def jitted(optimizer):
    return jax.jit(optimizer.update)


def names_after(optimizer) -> set[str]:
    """The names of the metrics after an update, which is traced and not compiled."""

    def metrics(gradient, state, params):
        return clipax.metrics(optimizer.update(gradient, state, params)[1])

    return set(jax.eval_shape(metrics, GRADIENT, optimizer.init(PARAMS), PARAMS))


def assert_metrics(found: dict[str, Any], **expected: Any):
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-6, err_msg=key)


# Names


def test_keys_of_a_single_clipper_are_plain():
    found = after(
        optax.chain(optax.identity(), optax.chain(clipax.global_norm(6.5), optax.sgd(1.0)))
    )
    assert list(found) == KEYS
    assert_metrics(found, norm=13, threshold=6.5, factor=0.5, clipped=1, clip_rate=1, nonfinite=0)
    assert names_after(clipax.global_norm(6.5)) == set(KEYS)


def test_without_a_clipper_there_are_no_metrics():
    assert names_after(optax.adam(1e-3)) == set()
    assert clipax.metrics(()) == {}


def test_several_clippers_have_their_positions_as_prefix():
    found = after(optax.chain(clipax.per_leaf(6.0), optax.sgd(1e-3), clipax.global_norm(1.0)))
    assert set(found) == keys("0", "2")
    assert_metrics(found, **{"0/norm": 12, "0/threshold": 6, "2/threshold": 1})


def test_position_in_nested_chains_is_the_path_of_indices():
    inner = optax.chain(clipax.per_leaf(6.0), optax.sgd(1.0))
    deeper = optax.chain(optax.chain(clipax.per_leaf(1.0)))
    found = names_after(optax.chain(optax.identity(), inner, deeper))
    assert found == keys("1/0", "2/0/0")


def test_name_is_the_prefix_even_of_a_single_clipper():
    assert names_after(clipax.global_norm(1.0, name="first")) == keys("first")


def test_named_and_unnamed_clippers_stand_side_by_side():
    clippers = clipax.per_leaf(6.0, name="leaves"), clipax.global_norm(1.0)
    assert names_after(optax.chain(*clippers)) == keys("leaves", "1")


def test_name_that_occurs_twice_has_its_position_before_it():
    same = [clipax.per_leaf(6.0, name="same"), clipax.global_norm(1.0, name="same")]
    found = after(optax.chain(*same, clipax.global_norm(0.5, name="other")))
    assert set(found) == keys("0/same", "1/same", "other")
    assert_metrics(found, **{"0/same/threshold": 6, "1/same/threshold": 1, "other/threshold": 0.5})


def test_named_chain_gives_its_names():
    chain = optax.named_chain(
        ("leaves", clipax.per_leaf(6.0)),
        ("inner", optax.chain(optax.identity(), clipax.global_norm(1.0))),
    )
    assert names_after(chain) == keys("leaves", "inner/1")


class Two(NamedTuple):
    generator: Any
    critic: Any


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(Two(*[clipax.global_norm(1.0).init(PARAMS)] * 2), id="bare"),
        pytest.param(
            Two(*[optax.chain(clipax.global_norm(1.0), optax.sgd(1.0)).init(PARAMS)] * 2),
            id="chain",
        ),
        pytest.param(Two(*[clipax.global_norm(1.0, name="x").init(PARAMS)] * 2), id="named"),
    ],
)
def test_clippers_in_fields_of_the_users_own_state_are_all_found(state):
    assert len(clipax.metrics(state)) == 2 * len(KEYS)


def test_name_that_looks_like_a_position_hides_no_other_clipper():
    chain = optax.chain(clipax.global_norm(5.0, name="1"), clipax.global_norm(1.0))
    assert len(names_after(chain)) == 2 * len(KEYS)


# Where clippers hide

INNER = optax.chain(clipax.per_leaf(6.0), optax.sgd(1e-3))


@pytest.mark.parametrize(
    ("wrapped", "expected"),
    [
        pytest.param(optax.MultiSteps(INNER, 1), {"norm": 12.0}, id="MultiSteps"),
        pytest.param(optax.apply_if_finite(INNER, 3), {"norm": 12.0}, id="apply_if_finite"),
        pytest.param(optax.masked(INNER, {"a": True, "b": False}), {"norm": 5.0}, id="masked"),
        pytest.param(
            optax.inject_hyperparams(clipax.per_leaf)(max_norm=lambda step: 6.0),
            {"norm": 12.0, "threshold": 6.0},
            id="inject_hyperparams",
        ),
        pytest.param(
            optax.inject_hyperparams(clipax.adaptive, static_args=("percentile", "window"))(
                initial=6.5, window=5
            ),
            {"norm": 13.0, "threshold": 6.5},
            id="inject_hyperparams-adaptive",
        ),
        pytest.param(
            optax.partition({"x": INNER, "y": optax.sgd(1.0)}, {"a": "x", "b": "y"}),
            {"norm": 5.0},
            id="partition",
        ),
        pytest.param(
            optax.contrib.schedule_free(INNER, 1.0, b1=0.5), {"norm": 12.0}, id="schedule_free"
        ),
        pytest.param(optax.flatten(INNER), {"norm": 13.0}, id="flatten"),
    ],
)
def test_clipper_inside_a_wrapper_is_found(wrapped, expected):
    found = after(wrapped)
    assert list(found) == KEYS
    assert_metrics(found, **expected)


def test_clippers_of_a_partition_are_told_apart_by_their_labels():
    clippers: Any = {"x": clipax.global_norm(1.0), "y": optax.chain(clipax.global_norm(2.0))}
    found = after(optax.partition(clippers, {"a": "x", "b": "y"}))
    assert set(found) == keys("x", "y/0")
    assert_metrics(found, **{"x/norm": 5, "y/0/norm": 12})


def test_accumulated_gradient_is_what_counts_in_multi_steps():
    zero = jax.tree.map(jnp.zeros_like, GRADIENT)
    found = after(optax.MultiSteps(INNER, 2), GRADIENT, zero, GRADIENT, zero)
    assert_metrics(found, norm=6, clip_rate=0)


def test_found_in_the_state_of_an_nnx_optimizer():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(
        model, optax.chain(clipax.adaptive(), optax.adam(1e-3)), wrt=nnx.Param
    )

    @nnx.jit
    def step(model, optimizer, x):
        gradient = nnx.grad(lambda model: jnp.sum(model(x) ** 2))(model)
        optimizer.update(model, gradient)
        return optax.tree.norm(gradient), clipax.metrics(optimizer.opt_state)

    norm, inside = step(model, optimizer, jnp.ones((4, 2)))
    outside = clipax.metrics(optimizer.opt_state)
    assert set(inside) == set(outside) == set(KEYS)  # jit sorts the keys of a dict
    for found in (inside, outside):
        assert_metrics(found, norm=norm, threshold=10)
        assert all(isinstance(x, jax.Array) and x.shape == () for x in found.values())
    step(model, optimizer, 10 * jnp.ones((4, 2)))
    assert_metrics(outside, norm=norm)  # what was read stays as it was


def test_found_in_a_state_that_went_through_flatten_and_unflatten():
    optimizer = optax.chain(clipax.global_norm(1.0, name="only"), optax.adam(1e-3))
    leaves, treedef = jax.tree.flatten(optimizer.init(PARAMS))
    assert set(clipax.metrics(jax.tree.unflatten(treedef, leaves))) == keys("only")


# Values


def test_before_the_first_update_nothing_was_clipped():
    found = clipax.metrics(clipax.global_norm(1.0).init(PARAMS))
    expected = {"norm": 0, "threshold": math.inf, "factor": 1, "clipped": 0}
    assert_metrics(found, **expected, clip_rate=0, nonfinite=0)


MEASURED = {
    row.name: row
    for row in CATALOGUE
    if row.fixed and row.rule in ("rescale", "spectral") and row.groups != "element"
}


@sampled("row", MEASURED, ("per_layer", "unit"))
def test_values_are_those_of_numpy(row):
    gradients = [plain(seed, size) for seed, size in enumerate([0.01, 0.3, 0.2, 2.0])]
    clipper = row.make()
    update, state = jax.jit(clipper.update), clipper.init(plain())
    clipped_steps = 0
    for step, gradient in enumerate(gradients):
        _, state = update(gradient, state)
        norms = group_norms(row, gradient)
        clipped_steps += norms.max() > row.fixed
        assert_metrics(
            clipax.metrics(state),
            norm=norms.max(),
            threshold=row.fixed,
            factor=min(1, row.fixed / norms.max()),
            clipped=np.mean(norms > row.fixed),
            clip_rate=clipped_steps / (step + 1),
            nonfinite=0,
        )
    assert 0 < clipped_steps < len(gradients)


def test_threshold_is_that_of_the_group_with_the_largest_norm():
    clipper = clipax.per_group({"x": 100.0, "y": 3.0}, {"a": "y", "b": "x"})
    found = after(clipper)
    assert_metrics(found, norm=12, threshold=100, factor=3 / 5, clipped=1 / 2, clip_rate=1)


@pytest.mark.parametrize(
    ("rule", "factor", "clipped"),
    [(rules.skip, 0, 1 / 2), (rules.smooth, 6 / 18, 1), (rules.normalize, 1 / 2, 1 / 2)],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_smallest_factor_and_share_are_those_of_the_rule(rule, factor, clipped):
    found = after(clipax.clip_by(measures.per_leaf(), 6.0, rule))
    assert_metrics(found, norm=12, factor=factor, clipped=clipped)


def test_clip_rate_counts_all_steps_and_any_group():
    small = jax.tree.map(lambda x: x / 100, GRADIENT)
    half = {"a": GRADIENT["a"], "b": GRADIENT["b"] / 100}
    found = after(clipax.per_leaf(1.0), GRADIENT, small, half, small)
    assert_metrics(found, norm=0.12, factor=1, clipped=0, clip_rate=1 / 2)


ONE_NORM = {
    mode: clipax.global_norm(0.5, nonfinite=mode) for mode in ("propagate", "zero", "sanitize")
}


@pytest.mark.parametrize("nonfinite", ONE_NORM)
@pytest.mark.parametrize("entry", [math.nan, math.inf])
def test_nonfinite_steps_are_counted(nonfinite, entry):
    broken = {"a": jnp.array([entry, 0.6]), "b": jnp.array([0.8])}
    clipper = ONE_NORM[nonfinite]
    found = after(clipper, broken, GRADIENT, broken, broken)
    assert_metrics(found, nonfinite=3, norm=entry, threshold=0.5)
    factor = {"propagate": math.nan, "zero": 0, "sanitize": 0.5}[nonfinite]
    assert_metrics(found, factor=factor)
    assert_metrics(after(clipper, broken, GRADIENT), nonfinite=1, norm=13, factor=0.5 / 13)


def test_nonfinite_norm_of_one_group_is_told_with_its_threshold():
    clipper = clipax.per_group({"y": 3.0, "x": 100.0}, {"a": "y", "b": "x"}, nonfinite="zero")
    found = after(clipper, {"a": jnp.array([math.nan, 1.0]), "b": GRADIENT["b"]})
    assert_metrics(found, norm=math.nan, threshold=3, factor=0, clipped=1 / 2, nonfinite=1)


def test_clippers_of_single_entries_keep_a_scalar_threshold_only():
    for clipper in (clipax.value(2.0), clipax.clip_by(measures.per_element(), 2.0)):
        found = after(clipper)
        assert list(found) == ["threshold"]
        assert_metrics(found, threshold=2)
    assert_metrics(after(clipax.value((-1.0, 3.0))), threshold=3)
    assert_metrics(after(clipax.value(lambda step: 2.0 + step), GRADIENT, GRADIENT), threshold=3)
    assert after(clipax.value(thresholds.moving_mean())) == {}


def test_metrics_are_scalars_of_fixed_dtype():
    optimizer = optax.chain(clipax.adaptive(), optax.sgd(1.0))
    for found in (clipax.metrics(optimizer.init(PARAMS)), after(optimizer)):
        dtypes = {key: x.dtype.name for key, x in found.items()}
        assert dtypes == dict.fromkeys(KEYS, "float32") | {"nonfinite": "int32"}
        assert {x.shape for x in found.values()} == {()}


def test_vmapped_states_give_arrays():
    optimizer = optax.chain(clipax.global_norm(1.0), optax.sgd(1e-3))
    sizes = jnp.array([0.01, 1.0, 10.0])
    params, gradients = (
        jax.tree.map(lambda x: sizes.reshape(-1, 1) * x, tree) for tree in (PARAMS, GRADIENT)
    )
    state = jax.vmap(optimizer.init)(params)
    _, state = jax.jit(jax.vmap(optimizer.update))(gradients, state, params)
    found = clipax.metrics(state)
    assert_metrics(found, norm=13 * sizes, factor=[1, 1 / 13, 1 / 130], clip_rate=[0, 1, 1])
    assert {x.shape for x in found.values()} == {(3,)}


def test_scanned_metrics_are_curves():
    optimizer = optax.chain(clipax.moving_average(warmup=1, initial=1e3), optax.sgd(0.0))

    def step(state, size):
        gradient = jax.tree.map(lambda x: size * x, GRADIENT)
        _, state = optimizer.update(gradient, state)
        return state, clipax.metrics(state)

    _, found = jax.lax.scan(step, optimizer.init(PARAMS), jnp.array([1.0, 1.0, 10.0]))
    assert_metrics(found, norm=[13, 13, 130], threshold=[1000, 26, 26], clip_rate=[0, 0, 1 / 3])


def test_clip_gives_the_metrics_of_its_one_step():
    clipped: Any
    clipped, found = clipax.clip(GRADIENT, clipax.global_norm(6.5))
    assert_metrics(found, norm=13, threshold=6.5, factor=0.5, clipped=1, clip_rate=1, nonfinite=0)
    np.testing.assert_allclose(clipped["b"], 6.0, rtol=1e-6)
    chain = optax.chain(clipax.per_leaf(6.0), clipax.global_norm(1.0))
    assert set(clipax.clip(GRADIENT, chain)[1]) == keys("0", "1")


# Cost

COSTLY = {
    "global_norm": clipax.global_norm(1.0),
    "maximum": clipax.global_norm(1.0, ord=math.inf),
    "per_layer": clipax.per_layer(1.0),
    "value": clipax.value(1.0),
    "adaptive": clipax.adaptive(window=10),
    "per_element": clipax.clip_by(measures.per_element(), 1.0),
}


def cost(function, *args) -> dict[str, float]:
    analysis = jax.jit(function).lower(*args).compile().cost_analysis()
    assert analysis
    return {key: analysis[key] for key in ("flops", "bytes accessed")}


@sampled("clipper", COSTLY, ("adaptive",))
def test_metrics_take_no_second_look_at_the_gradient(clipper):
    """Without them the compiler would drop what only they need."""
    gradient = {"a": np.ones((256, 256), np.float32), "b": {"c": np.ones(65536, np.float32)}}
    state = clipper.init(gradient)

    def without(gradient, state):
        return clipper.update(gradient, state)[0]

    def read(gradient, state):
        updates, state = clipper.update(gradient, state)
        return updates, clipax.metrics(state)

    plain, with_metrics = cost(without, gradient, state), cost(read, gradient, state)
    one_look = sum(x.size for x in jax.tree.leaves(gradient))
    assert plain["bytes accessed"] > one_look  # the analysis sees what is to be seen
    for key, value in with_metrics.items():
        assert value - plain[key] < 0.02 * one_look, key
