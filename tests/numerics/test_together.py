"""Groups inside leaves: the norms of many leaves are worked on as one vector."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from norms import enable_x64
from rows import sampled

import clipax
from clipax import _layout, measures, thresholds

MEASURES = {
    "units": measures.per_unit(),
    "units_of_stacks": measures.per_unit(stacked=lambda path: "images" in path),
    "units_rms": measures.per_unit(measures.rms),
    "units_l1": measures.per_unit(measures.l1),
    "units_largest": measures.per_unit(measures.linf),
    "units_l3": measures.per_unit(measures.lp(3)),
    "elements": measures.per_element(),
}
POLICIES = {
    "number": 0.7,
    "schedule": lambda step: 0.5 + 0.1 * step,
    "window": thresholds.window_percentile(90.0, window=4),
    "z_score": thresholds.z_score(warmup=2),
    "restarted": thresholds.restarted(thresholds.exponential_mean(1.1, warmup=1), 2, ratio=4.0),
    "parameters": thresholds.relative(0.1),
}


def tree(seed, last=np.inf):
    """Leaves of all ranks and kinds, with units of zeros, out of range and not finite."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "matrix": draw(3, 4),
        "half": draw(3, 4).astype(jnp.bfloat16),
        "complex": draw(3, 2) + 1j * draw(3, 2),
        "images": draw(2, 3, 2, 5),
        "bias": draw(7),
        "scalar": draw(),
        "other": draw(),
        "nothing": np.zeros((3, 0), np.float32),
        "counter": np.arange(3),
        "extreme": np.float32([[0.0, 1e30, 1e-30, 1.0], [0.0, -3e37, 1e-32, last]]),
    }


FEW = ("complex", "images", "scalar", "extreme")


def steps(clipper, names):
    """What is left of each gradient, and the state behind the last."""
    params, *gradients = (
        {name: leaf for name, leaf in tree(seed, last).items() if name in names}
        for seed, last in [(9, 1), (0, 1), (1, np.inf), (2, np.nan), (3, 2), (4, 3)]
    )

    @jax.jit
    def clipped(gradients, params):
        def step(state, gradient):
            updates, state = clipper.update(gradient, state, params)
            return state, updates

        return jax.lax.scan(step, clipper.init(params), gradients)

    return clipped(jax.tree.map(lambda *leaves: np.stack(leaves), *gradients), params)


CASES = (
    [(measure, "number", "propagate") for measure in MEASURES]
    + [("units", policy, "propagate") for policy in POLICIES if policy != "number"]
    + [("units", "z_score", "zero"), ("units", "z_score", "sanitize")]
    + [("elements", "window", "sanitize")]
)
OF_FEW = [
    ("units_of_stacks", "z_score", "zero"),
    ("units_rms", "schedule", "propagate"),
    ("units_l1", "parameters", "propagate"),
    ("units_largest", "number", "sanitize"),
    ("units_l3", "restarted", "propagate"),
    ("elements", "window", "sanitize"),
]


@sampled(
    ("measure", "policy", "nonfinite", "names"),
    {"-".join(case): (*case, tuple(tree(0))) for case in CASES}
    | {"-".join((*case, "few")): (*case, FEW) for case in OF_FEW},
    ["units-number-propagate", "units_of_stacks-z_score-zero-few", "elements-window-sanitize-few"],
)
def test_leaves_together_are_clipped_as_one_by_one(measure, policy, nonfinite, names, monkeypatch):
    clipper = clipax.clip_by(MEASURES[measure], POLICIES[policy], nonfinite=nonfinite)
    together = steps(clipper, names)
    monkeypatch.setattr(_layout, "on_one_device", lambda arrays: False)
    jax.clear_caches()
    chex.assert_trees_all_equal(together, steps(clipper, names))
    jax.clear_caches()


POLICY = thresholds.exponential_mean(1.1)
LEARNS = {
    "units": clipax.clip_by(measures.per_unit(), POLICY),
    "units_rms": clipax.clip_by(measures.per_unit(measures.rms), POLICY),
    "elements": clipax.clip_by(measures.per_element(), POLICY),
    "agc": clipax.agc(),
}
each = pytest.mark.parametrize("clipper", LEARNS.values(), ids=LEARNS)
SHAPES = {"kernel": (3, 4), "bias": (5,)}


def update(clipper):
    return lambda g: clipper.update(g, clipper.init(g), g)[0]


def zeros(shapes=SHAPES):
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "measure",
    [measures.per_unit(axis_name="a"), measures.per_element()],
    ids=["units", "elements"],
)
def test_mapped_mesh_of_one_device_changes_no_types(measure):
    specs = {"kernel": P(None, "a"), "bias": P()}
    mesh = jax.make_mesh((1,), ("a",), (jax.sharding.AxisType.Auto,))
    one_step = update(clipax.clip_by(measure, POLICY))
    mapped = jax.shard_map(one_step, mesh=mesh, in_specs=(specs,), out_specs=specs)
    assert jax.eval_shape(mapped, zeros()).keys() == SHAPES.keys()


@each
def test_typed_mesh_of_one_device_changes_no_types(clipper):
    mesh = jax.make_mesh((1, 1), ("a", "b"), (jax.sharding.AxisType.Explicit,) * 2)
    shapes = {"kernel": (3, 4), "other": (3, 5)}
    set_mesh = jax.set_mesh if hasattr(jax, "set_mesh") else jax.sharding.use_mesh
    with set_mesh(mesh):
        given = {
            name: jax.ShapeDtypeStruct(
                shape, jnp.float32, sharding=jax.sharding.NamedSharding(mesh, P(None, "b"))
            )
            for name, shape in shapes.items()
        }
        found = jax.jit(update(clipper)).trace(given).out_info
    assert jax.tree.map(lambda x: x.shape, found) == shapes


@each
def test_batch_under_strict_promotion(clipper):
    batch = zeros({name: (2, *shape) for name, shape in SHAPES.items()})
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        found = jax.eval_shape(jax.vmap(update(clipper)), batch)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, batch)


@pytest.mark.parametrize("integer", ["gradient", "parameter", "neither"])
def test_parameters_may_differ_from_the_gradient(integer):
    """In what has a norm, and in dtype."""
    clipper, gradient, params = clipax.agc(0.1), zeros(), zeros()
    if integer == "gradient":
        gradient["bias"] = jnp.zeros(5, jnp.int32)
    elif integer == "parameter":
        params["bias"] = jnp.zeros(5, jnp.int32)
    with enable_x64(True), jax.numpy_dtype_promotion("strict"):
        if integer == "neither":
            params["bias"] = jnp.zeros(5, jnp.float64)
        found = jax.eval_shape(clipper.update, gradient, clipper.init(params), params)[0]
    assert jax.tree.map(jnp.shape, found) == SHAPES


def operations(clipper, count):
    """Those of the program, before it is compiled, of leaves that all have other shapes."""
    leaves = [jax.ShapeDtypeStruct((32 + i, 16 + i), jnp.float32) for i in range(count)]
    state = jax.eval_shape(clipper.init, leaves)
    return jax.jit(clipper.update).lower(leaves, state, leaves).as_text().count(" = ")


@pytest.mark.parametrize(
    "clipper, most",
    [
        (clipax.clip_by(measures.per_unit(), 1.0), 70),
        (clipax.agc(), 80),
        (clipax.zclip(measure=measures.per_unit()), 120),
    ],
    ids=["number", "agc", "zclip"],
)
def test_each_leaf_adds_few_operations(clipper, most):
    assert operations(clipper, 12) - operations(clipper, 6) <= 6 * most


def test_one_threshold_a_group_is_for_groups_of_whole_leaves():
    clipper = clipax.clip_by(measures.per_element(), thresholds.by_group([1.0, 2.0]))
    leaves = [jnp.ones(2), jnp.ones(2)]
    with pytest.raises(ValueError, match=r"`thresholds` must have one entry a group, got 2"):
        clipper.update(leaves, clipper.init(leaves))
