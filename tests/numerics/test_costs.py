"""What a clipper costs, counted and not timed: passes, copies, sorts, collectives, dispatches."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rows import sampled

import clipax
from benchmarks import programs

CLIPPERS = {
    "global_norm": clipax.global_norm(1.0),
    "per_leaf": clipax.per_leaf(1.0),
    "adaptive": clipax.adaptive(),
    "moving_average": clipax.moving_average(),
    "decaying": clipax.decaying(1.0),
}
new_compiler = pytest.mark.skipif(
    jax.__version_info__ < (0, 12),
    reason="compilers of older jax spread the scalars of the fallback over arrays in memory",
)
fusing_compiler = pytest.mark.skipif(
    jax.__version_info__ < (0, 10),
    reason="compilers of older jax keep squares and products in arrays, for optax too",
)
every = sampled("clipper", CLIPPERS, list(CLIPPERS))


def leaves(dtype, count=4, size=2**18):
    rng = np.random.default_rng(0)
    return [rng.normal(size=size).astype(dtype) for _ in range(count)]


def compiled(clipper, tree, donate=(), wrap=lambda f: f):
    state = jax.eval_shape(wrap(clipper.init), tree)
    update = jax.jit(wrap(lambda g, s: clipper.update(g, s)), donate_argnums=donate)
    return update.lower(tree, state).compile()


def cost(executable, key):
    analysis = executable.cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)[key]


@new_compiler
@sampled("clipper", CLIPPERS, ["adaptive"])
def test_no_float32_copy_of_a_16_bit_gradient_is_kept(clipper):
    tree = leaves(jnp.bfloat16)
    one_leaf_wide = 4 * tree[0].size
    assert compiled(clipper, tree).memory_analysis().temp_size_in_bytes < one_leaf_wide / 4


@new_compiler
@sampled(
    ("clipper", "dtype"),
    {
        f"{dtype.__name__}-{name}": (clipper, dtype)
        for dtype in (jnp.float32, jnp.bfloat16)
        for name, clipper in CLIPPERS.items()
    },
    ["float32-adaptive", "bfloat16-global_norm"],
)
def test_donated_gradient_is_clipped_in_place(clipper, dtype):
    tree = leaves(dtype)
    memory = compiled(clipper, tree, donate=0).memory_analysis()
    assert memory.alias_size_in_bytes >= sum(x.nbytes for x in tree)
    assert memory.temp_size_in_bytes < tree[0].nbytes / 4


@fusing_compiler
@sampled("clipper", CLIPPERS, ["adaptive"])
def test_clipped_gradient_in_front_of_adam_is_kept_nowhere(clipper):
    """Adam uses it three times. What optax clips is an array, made anew at every step."""
    tree = leaves(jnp.float32)
    optimizer = optax.chain(clipper, optax.adam(1e-3))

    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    stepped = jax.jit(step, donate_argnums=(0, 1)).lower(
        tree, jax.eval_shape(optimizer.init, tree), tree
    )
    assert stepped.compile().memory_analysis().temp_size_in_bytes < tree[0].nbytes / 4


@sampled("clipper", CLIPPERS, ["adaptive"])
def test_a_16_bit_gradient_is_converted_once_for_the_norm_and_once_for_the_product(clipper):
    """And back. CPUs choose between 16-bit numbers in float32, on the way and in every entry."""
    tree = leaves(jnp.bfloat16, count=1)
    outside = "\n".join(_outside_of_conditionals(compiled(clipper, tree, donate=0).as_text()))
    assert len(re.findall(rf"\[{tree[0].size}\]\S* convert\(", outside)) == 3, outside


@sampled("clipper", CLIPPERS, ["adaptive"])
def test_usual_path_moves_no_more_than_that_of_optax(clipper):
    """Its metrics are no other look at the gradient."""
    tree = leaves(jnp.float32, size=2**20)
    assert moved(clipper, tree) < 1.01 * moved(optax.clip_by_global_norm(1.0), tree)


@fusing_compiler
@sampled("clipper", CLIPPERS, ["per_leaf", "adaptive"])
def test_usual_path_reads_the_gradient_twice_and_writes_it_once(clipper):
    tree = leaves(jnp.float32, count=1, size=2**22)
    assert 0.99 < moved(clipper, tree) / (3 * tree[0].nbytes) < 1.01


def moved(clipper, tree):
    """The bytes that an update reads and writes on its usual path."""
    return programs.costs(compiled(clipper, tree))[0]["bytes"]


def _outside_of_conditionals(text):
    """The lines of the computations that no `conditional` calls, directly or not."""
    bodies = re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \(.*\) -> )", text)
    by_name = {re.match(r"(?:ENTRY )?%?([\w.\-]+)", body.strip()).group(1): body for body in bodies}
    inside, frontier = set(), []
    for body in bodies:
        for line in body.splitlines():
            if " conditional(" in line:
                frontier += re.findall(r"%([\w.\-]+)", line.split("conditional(")[1])
    while frontier:
        name = frontier.pop()
        if name in by_name and name not in inside:
            inside.add(name)
            frontier += re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", by_name[name])
    return [
        line for name, body in by_name.items() if name not in inside for line in body.splitlines()
    ]


def test_factors_of_units_are_not_computed_for_every_entry():
    """They are vectors: what makes them must not stand in the loops over the matrix."""
    optimizer = optax.chain(clipax.agc(), optax.adam(1e-3))
    matrix = jax.ShapeDtypeStruct((256, 512), jnp.float32)
    state = jax.eval_shape(optimizer.init, matrix)
    lowered = jax.jit(optimizer.update).lower(matrix, state, matrix)
    fused = r"^(%[\w.\-]+ \(.*\) -> f32\[256,512\].*\n(?:  .*\n)*)"
    loops = re.findall(fused, lowered.compile().as_text(), re.MULTILINE)
    vectors = r"= (?:f32|pred)\[(?:1,)?512\]\S* (?!parameter|bitcast|broadcast)"
    assert loops
    assert all(len(re.findall(vectors, loop)) <= 2 for loop in loops)


@sampled("clipper", CLIPPERS, ["adaptive"])
def test_batch_of_runs_costs_what_the_runs_cost(clipper):
    """A `select` in place of the `cond` would compute the fallback of every run."""
    tree = leaves(jnp.float32, count=2, size=2**16)
    batch = [np.stack([x] * 8) for x in tree]
    single, many = compiled(clipper, tree), compiled(clipper, batch, wrap=jax.vmap)
    assert " conditional(" in many.as_text()
    assert cost(many, "flops") <= 8.2 * cost(single, "flops")
    assert many.memory_analysis().temp_size_in_bytes <= 0.3 * sum(x.nbytes for x in batch)


def test_sorted_window_is_never_sorted():
    text = compiled(clipax.adaptive(window=500), leaves(jnp.float32)).as_text()
    assert not re.search(r"\bsort\(", text)


@every
def test_state_of_one_norm_is_small(clipper):
    state = jax.eval_shape(clipper.init, leaves(jnp.float32))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert size <= 8 * 1000 + 100


def test_unnamed_and_named_clippers_cost_the_same():
    tree = leaves(jnp.float32)
    plain, named = (compiled(clipax.global_norm(1.0, name=n), tree) for n in (None, "clip"))
    assert cost(plain, "flops") == cost(named, "flops")
    assert cost(plain, "bytes accessed") == cost(named, "bytes accessed")


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param("per_tree", marks=pytest.mark.exhaustive),
        pytest.param("per_layer", marks=pytest.mark.exhaustive),
        "per_leaf",
    ],
)
def test_leaves_of_one_shape_share_their_loops(measure):
    """What is to be compiled does not grow with the number of leaves."""
    clipper = clipax.moving_average(measure=getattr(clipax.measures, measure)())

    def loops(layers):
        shapes = [(64, 32), (64, 32), (32,)]
        tree = [[np.zeros(shape, np.float32) for shape in shapes] for _ in range(layers)]
        return _distinct_loops(compiled(clipper, tree).as_text())

    assert 0 < loops(7) == loops(6)


def _distinct_loops(text):
    """The fused computations that differ in more than names."""
    fused = r"^(%(?:fused|wrapped)[\w.\-]* \(.*\) -> .*\n(?:  .*\n)*)"
    return len({_without_names(body) for body in re.findall(fused, text, re.MULTILINE)})


def _without_names(text):
    text = re.sub(r", metadata=\{[^}]*\}|to_apply=%[\w.\-]+", "", text)
    names = {}
    return re.sub(
        r"%[\w.\-]+|\bparam_[\w.]+",
        lambda m: names.setdefault(m.group().strip("%"), f"v{len(names)}"),
        text,
    )
