"""The groups of the measures: layers, units and labels."""

import math
from typing import Any, NamedTuple

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from norms import EPS, NORMS, check
from numpy_groups import norm_of
from rows import sampled

import clipax
from clipax import measures

ONE = jnp.ones(1)


# Layers.


def layers(tree):
    """The paths of the leaves of each layer."""
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    seen = []

    def values(tree):
        norms = measures.per_layer().norms(tree)
        seen.append(norms.groups)
        return norms.values

    shape = jax.eval_shape(values, tree).shape
    (groups,) = seen
    assert groups is not None and shape == (len(set(groups)),)
    found: dict[Any, list[str]] = {}
    for group, path in zip(groups, paths, strict=True):
        found.setdefault(group, []).append(path)
    assert list(found) == sorted(found)
    return list(found.values())


def together(tree, *parents):
    """Asserts that the layers of a tree are the leaves below each of these paths."""
    found = layers(tree)
    assert len(found) == len(parents), found
    for layer, parent in zip(sorted(found), sorted(parents), strict=True):
        assert all(path.startswith(parent) for path in layer), (parent, layer)


def test_flat_dict_is_one_layer():
    assert layers({"w": ONE, "b": ONE}) == [["['b']", "['w']"]]


def test_nested_dict_has_a_layer_for_every_parent():
    tree = {"cell": {"w": ONE, "b": ONE}, "out": {"w": ONE}, "scale": ONE, "bias": ONE}
    assert len(layers(tree)) == 3
    assert ["['bias']", "['scale']"] in layers(tree)


def test_list_of_pairs_has_a_layer_for_every_pair():
    together([(ONE, ONE), (ONE, ONE)], "[0]", "[1]")
    together({"net": [(ONE, ONE), (ONE,)]}, "['net'][0]", "['net'][1]")
    assert len(layers({"net": [ONE, ONE]})) == 1


@pytest.mark.parametrize("make", [list, tuple])
def test_leaves_directly_in_a_root_list_are_layers_of_their_own(make):
    assert len(layers(make([ONE, ONE, ONE]))) == 3
    assert len(layers(make([ONE, (ONE, ONE), ONE]))) == 3
    assert len(layers(ONE)) == 1


def test_dict_key_called_value_is_no_box():
    tree = {"key": {"value": ONE}, "query": {"value": ONE}}
    together(tree, "['key']", "['query']")


def test_layers_of_linen_params_are_its_modules():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.RNN(nn.LSTMCell(4))(nn.Dense(3)(x)))

    x = jax.ShapeDtypeStruct((1, 5, 2), jnp.float32)
    params = jax.eval_shape(Model().init, jax.random.key(0), x)["params"]
    gates = [
        f"['LSTMCell_0']['{gate}']" for gate in ["hf", "hg", "hi", "ho", "if", "ig", "ii", "io"]
    ]
    together(params, "['Dense_0']", "['Dense_1']", *gates)
    pairs = [layer for layer in layers(params) if len(layer) == 2]
    assert len(pairs) == 6  # kernel and bias of the dense ones and of the hidden gates


@pytest.mark.parametrize("bias", [True, False], ids=["all", "kernels"])
def test_linen_metadata_boxes_are_no_parents(bias):
    def boxed(init, *names):
        return nn.with_partitioning(init, names)

    init = nn.initializers.ones_init()
    bias_init = boxed(init, "model") if bias else init

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.Dense(3, kernel_init=boxed(init, None, "model"), bias_init=bias_init)(x)
            return x

    x = jax.ShapeDtypeStruct((1, 2), jnp.float32)
    params = jax.eval_shape(Model().init, jax.random.key(0), x)["params"]
    assert any(isinstance(x, nn.Partitioned) for x in params["Dense_0"].values())
    together(params, "['Dense_0']", "['Dense_1']")


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.LSTMCell(3, 4, rngs=rngs))
        self.out = nnx.Linear(4, 2, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(2))


def test_layers_of_nnx_state_are_its_modules():
    state = nnx.state(Recurrent(nnx.Rngs(0)), nnx.Param)
    gates = ["hf", "hg", "hi", "ho", "if_", "ig", "ii", "io"]
    gates = [f"['rnn']['cell']['{gate}']" for gate in gates]
    together(state, "['out']", "['scale']", *gates)
    assert len([layer for layer in layers(state) if len(layer) == 2]) == 5


def test_layers_of_an_nnx_gradient_are_those_of_its_state():
    model = Recurrent(nnx.Rngs(0))

    def loss(model):
        return (model.out(model.rnn(jnp.ones((1, 5, 3)))) * model.scale[...]).sum()

    gradient = nnx.grad(loss)(model)
    assert layers(gradient) == layers(nnx.state(model, nnx.Param))
    result, _ = clipax.clip(gradient, clipax.per_layer(1e-3))
    after = measures.per_layer().norms(result).values
    assert (np.asarray(after) <= 1e-3).all()
    chex.assert_trees_all_equal_structs(result, gradient)


class Attention(eqx.Module):
    query: jax.Array
    key: jax.Array
    value: jax.Array


class Net(eqx.Module):
    attention: Attention
    linear: eqx.nn.Linear
    mlp: eqx.nn.MLP
    scale: jax.Array


def equinox_net():
    key = jax.random.key(0)
    attention = Attention(jnp.ones(2), jnp.ones(2), jnp.ones(2))
    net = Net(
        attention,
        eqx.nn.Linear(2, 3, key=key),
        eqx.nn.MLP(2, 2, 3, 1, key=key),
        jnp.ones(2),
    )
    return eqx.filter(net, eqx.is_inexact_array)


def test_layers_of_equinox_are_its_modules():
    net = equinox_net()
    parents = [".attention", ".linear", ".mlp.layers[0]", ".mlp.layers[1]", ".scale"]
    together(net, *parents)


def test_attribute_called_value_beside_others_is_no_box():
    attention = Attention(jnp.ones(2), jnp.ones(2), jnp.ones(2))
    assert layers(attention) == [[".query", ".key", ".value"]]
    together([attention, attention], "[0]", "[1]")
    together({"a": attention, "b": {"c": attention}}, "['a']", "['b']['c']")
    check("leaf", attention)


def test_layers_of_a_named_tuple_are_its_own():
    class Pair(NamedTuple):
        w: Any
        b: Any

    assert len(layers(Pair(ONE, ONE))) == 1
    together([Pair(ONE, ONE), Pair(ONE, ONE)], "[0]", "[1]")


def test_integer_leaves_and_missing_ones_do_not_change_the_layers():
    tree = {"a": {"n": jnp.arange(2), "w": ONE, "x": None}, "b": {"n": jnp.arange(2)}}
    norms = measures.per_layer().norms(tree)
    assert norms.groups == (None, 0, None) and norms.values.shape == (1,)


# Units.


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), ()),
        ((5,), (1,)),
        ((4, 3), (1, 3)),
        ((2, 4, 3), (1, 4, 3)),
        ((2, 4, 3, 5), (1, 1, 1, 5)),
        ((2, 2, 2, 3, 4), (1, 1, 1, 1, 4)),
        ((0, 3), (1, 3)),
        ((3, 0), (1, 0)),
    ],
    ids=str,
)
def test_unit_spans_the_axes_of_the_table(shape, expected):
    leaf = np.ones(shape, np.float32)
    (norms,) = jax.eval_shape(lambda x: measures.per_unit().norms([x]).values, leaf)
    assert norms.shape == expected == measures.per_unit().init([leaf]).values[0].shape
    assert np.broadcast_shapes(norms.shape, shape) == shape


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (0, (1, 4, 3)),
        (-1, (2, 4, 1)),
        ((0, 2), (1, 4, 1)),
        ((0, -3), (1, 4, 3)),
        ([1, -3], (1, 1, 3)),
        ((), (2, 4, 3)),
    ],
    ids=str,
)
@sampled("name", {name: name for name in NORMS}, ["l2", "rms"])
def test_unit_spans_the_axes_that_are_asked_for(name, axis, expected):
    norm, ord = NORMS[name]
    if axis == () and name == "rms":
        return  # which is the norm of one element by l2
    leaf = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    measure = measures.per_unit(norm, axis=axis)
    (norms,) = measure.norms([leaf]).values
    assert norms.shape == expected == measure.init([leaf]).values[0].shape
    axes = (axis,) if isinstance(axis, int) else tuple(a % 3 for a in axis)
    rest = [a for a in range(3) if a not in [a % 3 for a in axes]]
    units = np.moveaxis(leaf, rest, range(len(rest))).reshape(*np.array(leaf.shape)[rest], -1)
    reference = [norm_of([unit], ord) for unit in units.reshape(-1, units.shape[-1])]
    np.testing.assert_allclose(np.ravel(norms), reference, rtol=4 * EPS)


def test_leaf_with_fewer_than_two_axes_is_one_unit_whatever_the_axis():
    tree = [jnp.ones(4), jnp.asarray(-3.0), jnp.ones((4, 2))]
    values = measures.per_unit(axis=1).norms(tree).values
    assert [x.shape for x in values] == [(1,), (), (4, 1)]
    assert [x.item() for x in values[:2]] == [2, 3]


@pytest.mark.parametrize("axis", [2, -3, (0, 5)], ids=str)
def test_axis_that_a_leaf_does_not_have_is_refused_by_name(axis):
    measure = measures.per_unit(axis=axis)
    for use in (measure.init, measure.norms):
        with pytest.raises(ValueError, match=r"`axis` must be axes of every leaf, got .*\(4, 2\)"):
            use([jnp.ones((4, 2))])


# Labels.


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"a": "x", "b": "x", "c": "y"}, [5, 2]),
        ({"a": 1, "b": 2, "c": 1}, [math.hypot(3, 2), 4]),
        (lambda path: path[0], [3, 4, 2]),
        (lambda path: path == "c/w", [5, 2]),
        ("same", [math.sqrt(29)]),
    ],
    ids=["prefix", "numbers", "path", "booleans", "one"],
)
def test_leaves_with_the_same_label_are_one_group(labels, expected):
    tree = {"a": jnp.asarray(3.0), "b": [jnp.asarray(4.0)], "c": {"w": jnp.asarray(2.0)}}
    norms = measures.per_group(labels).norms(tree)
    np.testing.assert_allclose(norms.values, expected, rtol=4 * EPS)


def test_label_function_sees_the_path_of_every_leaf():
    seen = []
    tree = {"encoder": {"dense": [jnp.ones(1), jnp.ones(1)]}, "head": ONE}
    measures.per_group(lambda path: seen.append(path) or "x").norms(tree)
    assert seen == ["encoder/dense/0", "encoder/dense/1", "head"]


def test_names_give_the_order_and_may_have_no_leaf():
    tree = {"a": jnp.asarray(3.0), "b": jnp.asarray(4.0)}
    measure = measures.per_group({"a": "x", "b": "y"}, names=["z", "y", "x"])
    np.testing.assert_array_equal(measure.norms(tree).values, [0, 4, 3])
    assert measure.init(tree).values.shape == (3,)


def test_unknown_label_is_refused_with_those_that_are_accepted():
    tree = {"a": ONE, "b": ONE}
    measure = measures.per_group(lambda path: path, names=["a", "c"])
    for use in (measure.init, measure.norms):
        with pytest.raises(ValueError, match=r"`labels` gave 'b'; accepted are \['a', 'c'\]"):
            use(tree)


@pytest.mark.parametrize(
    "labels",
    [{"a": "x"}, {"a": "x", "c": "y"}, ["x", "y"], {"a": ["x"], "b": "y"}, {"a": "x", "b": None}],
    ids=str,
)
def test_labels_that_do_not_fit_the_tree_are_refused_by_name(labels):
    measure = measures.per_group(labels)
    for use in (measure.init, measure.norms):
        with pytest.raises(ValueError, match="`labels` must be a prefix of the gradient's tree"):
            use({"a": ONE, "b": ONE})


@pytest.mark.parametrize(
    "labels", [lambda path: None if path == "b" else "x", lambda path: ["x"]], ids=["none", "list"]
)
def test_label_function_that_gives_no_label_is_refused_by_name(labels):
    measure = measures.per_group(labels)
    for use in (measure.init, measure.norms):
        with pytest.raises((TypeError, ValueError), match="`labels`"):
            use({"a": ONE, "b": ONE})


def test_labels_of_leaves_without_a_norm_do_not_matter():
    tree = {"a": ONE, "n": jnp.arange(2), "none": None, "masked": optax.MaskedNode()}
    measure = measures.per_group(lambda path: path, names=["a"])
    assert measure.norms(tree).groups == (0, None)
