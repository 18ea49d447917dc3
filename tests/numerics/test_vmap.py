"""The measures under `vmap`, where the second look stays one scalar condition."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from norms import EPS, NORMS, measure_of
from rows import sampled

from clipax import measures


class _Program(NamedTuple):
    conditions: list[Any]  # the shapes of the predicates
    reductions: int  # of arrays with entries, outside of conditions


def _jaxprs(value):
    if hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield value.jaxpr
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _jaxprs(entry)


def program(function, *args):
    """What a traced function computes unconditionally, and what conditionally."""
    conditions, reductions = [], 0

    def walk(jaxpr):
        nonlocal reductions
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            if name == "cond":
                conditions.append(equation.invars[0].aval.shape)
                continue
            if name in ("reduce_sum", "dot_general"):
                reductions += equation.invars[0].aval.size >= ENTRIES
            for key, value in equation.params.items():
                if "jvp" not in key and "vmap" not in key and key not in ("fwd", "bwd", "rule"):
                    for inner in _jaxprs(value):
                        walk(inner)

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return _Program(conditions, reductions)


ENTRIES = 400
BATCHES = [(), (3,), (2, 3)]


def batched(function, depth):
    for _ in range(depth):
        function = jax.vmap(function)
    return function


@pytest.mark.parametrize("norm", ["l2", "rms"])
@pytest.mark.parametrize("groups", ["tree", "leaf", "unit"])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_second_look_is_one_scalar_condition(batch, groups, norm):
    measure = measure_of(groups, norm)
    x = jnp.ones((*batch, 20, 20))

    def values(x):
        return measure.norms([x]).values

    found = program(batched(values, len(batch)), x)
    assert found == _Program([()], 1)


@pytest.mark.parametrize("groups", ["tree", "leaf", "unit"])
@pytest.mark.parametrize("batch", BATCHES[1:], ids=str)
def test_second_look_is_one_scalar_condition_under_grad(batch, groups):
    measure = measure_of(groups)

    def total(x):
        return jax.tree.leaves(measure.norms([x]).values)[0].sum()

    x = jnp.ones((20, 20))
    single = program(jax.grad(total), x)
    xs = jnp.ones((*batch, 20, 20))
    inside = program(batched(jax.grad(total), len(batch)), xs)
    outside = program(jax.grad(lambda xs: batched(total, len(batch))(xs).sum()), xs)
    assert single.conditions == inside.conditions == outside.conditions == [()]
    assert inside.reductions == outside.reductions == single.reductions


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_compiled_second_look_is_a_conditional(batch):
    def values(x):
        return measures.per_tree().norms([x]).values

    function = jax.jit(batched(values, len(batch)))
    text = function.lower(jnp.ones((*batch, 20, 20))).compile().as_text()
    assert text is not None
    conditionals = [line for line in text.splitlines() if " conditional(" in line]
    assert len(conditionals) == 1
    assert "[" not in conditionals[0].split(" conditional(")[1].split(")")[0].replace("pred[]", "")


@sampled(
    ("groups", "norm"),
    {f"{groups}-{norm}": (groups, norm) for groups in ("tree", "leaf", "unit") for norm in NORMS},
    [*(f"tree-{norm}" for norm in NORMS), "leaf-l2", "unit-l2", "unit-rms"],
)
def test_batched_norms_are_those_of_each_entry_where_some_look_twice(groups, norm):
    rng = np.random.default_rng(0)
    scale = np.array([1, 1e-30, 1e30, 0, 1e-38, 3e37], np.float32).reshape(2, 3, 1, 1)
    xs = rng.uniform(0.5, 1, (2, 3, 4, 5)).astype(np.float32) * scale
    measure = measure_of(groups, norm)

    def values(x):
        return jax.tree.leaves(measure.norms([x]).values)[0]

    found, alone = jax.jit(batched(values, 2))(xs), jax.jit(values)
    expected = [[alone(x) for x in row] for row in xs]
    np.testing.assert_allclose(found, np.array(expected), rtol=4 * EPS)


def test_batch_of_one_leaf_beside_one_that_is_the_same_for_all():
    xs, same = jnp.asarray([[3.0], [1e30]]), jnp.asarray([4.0, 0.0])
    found = jax.jit(jax.vmap(lambda x: measures.per_tree().norms([x, same]).values[0]))(xs)
    np.testing.assert_allclose(found, [5.0, 1e30], rtol=4 * EPS)
