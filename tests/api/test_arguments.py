"""What the public names say to a wrong argument, and which ones they accept."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import CATALOGUE
from rows import sampled
from wrong_arguments import BAD, GRADIENT, PYTHON
from wrong_arguments_methods import BAD_METHODS

import clipax
from clipax import measures, thresholds


@pytest.mark.parametrize(("function", "args", "kwargs", "error", "message"), BAD + BAD_METHODS)
def test_wrong_argument_is_refused_when_built(function, args, kwargs, error, message):
    with pytest.raises(error, match=message) as caught:
        function(*args, **kwargs)
    assert type(caught.value) is error


def test_traced_percentile_is_refused():
    """As a schedule in `optax.inject_hyperparams` would give it."""

    def clipped(percentile):
        return clipax.clip(GRADIENT, clipax.adaptive(percentile))[0]

    with pytest.raises(TypeError, match=f"`percentile` {PYTHON}.*Trace"):
        jax.jit(clipped)(95.0)


# Errors that only show when a clipper meets a gradient.

MEAN = thresholds.moving_mean()
PREFIX = (
    "`labels` must be a prefix of the gradient's tree or a function of the path of a leaf, got "
)
COUNT = r"`thresholds` must have one entry a group, got 1 for \(2,\)"


@pytest.mark.parametrize(
    ("clipper", "message"),
    [
        pytest.param(clipper, message, id=name)
        for name, clipper, message in [
            ("unknown", clipax.per_group({"x": 1.0}, lambda path: "y"), "`labels` gave 'y'; .*'x'"),
            ("unknown-tree", clipax.per_group({"x": 1.0}, {"a": "x", "b": "z"}), "gave 'z'; .*'x'"),
            ("no-prefix", clipax.per_group(1.0, {"a": "x"}), PREFIX + ".*'a'"),
            ("too-many", clipax.per_group(1.0, {"a": 1, "b": 1, "c": 1}), PREFIX + ".*'c'"),
            ("labels-None", clipax.per_group(1.0, None), PREFIX + ".*None"),
            ("replicated", clipax.clip_by(measures.per_tree(replicated={"c": True}), 1.0), "`repl"),
            ("unbound", clipax.global_norm(1.0, axis_name="data"), "`axis_name` must .*'data'"),
            ("unit-axis", clipax.clip_by(measures.per_unit(axis=5), 1.0), "`axis` must .* got 5"),
            ("count", clipax.clip_by(measures.per_leaf(), thresholds.by_group([1.0])), COUNT),
            ("pair-complex", clipax.value((-1.0, 1.0)), "`limit` must be .*complex.*got"),
        ]
    ],
)
def test_wrong_argument_is_refused_when_used(clipper, message):
    gradient = GRADIENT | {"b": jnp.ones((2, 3))}
    if "complex" in message:
        gradient = {"a": jnp.ones(2, jnp.complex64)}
    with pytest.raises(ValueError, match=message):
        clipax.clip(gradient, clipper)


ON_NO_DEVICES = {
    "global_norm": lambda **options: clipax.global_norm(1.0, **options),
    "agc": clipax.agc,
    "clippy": clipax.clippy,
    "stable_spam": clipax.stable_spam,
    "monitor": clipax.monitor,
    "skip_spikes": lambda **options: clipax.skip_spikes(optax.sgd(0.1), **options),
}


@pytest.mark.parametrize("make", ON_NO_DEVICES.values(), ids=ON_NO_DEVICES)
def test_error_about_a_gradient_names_the_clipper(make):
    clipper = make(axis_name="data", name="mine")
    with pytest.raises(ValueError, match=r"`axis_name` must be bound .* leave it out") as error:
        clipper.update(GRADIENT, clipper.init(GRADIENT), GRADIENT)
    assert error.value.__notes__ == ["This was in the gradient transformation 'mine'."]


@pytest.mark.parametrize("axis_name", [5, True, {"i"}, (("i",),), ("i", None)], ids=repr)
@pytest.mark.parametrize("make", ON_NO_DEVICES.values(), ids=ON_NO_DEVICES)
def test_axis_name_that_is_no_name_is_refused(make, axis_name):
    with pytest.raises(TypeError, match=r"`axis_name` must be the name of a mapped axis.* got "):
        make(axis_name=axis_name)


def test_axis_that_is_named_twice_counts_once():
    twice, once = (clipax.global_norm(1.0, axis_name=a) for a in (("i", "i"), "i"))
    found, expected = (
        jax.vmap(lambda x, c=c: clipax.clip(x, c)[0], axis_name="i")(jnp.array([3.0, 4.0]))
        for c in (twice, once)
    )
    assert found.tolist() == expected.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("exclude", [lambda path: "yes", lambda path: None, {"other": True}])
def test_error_about_excluded_leaves_names_the_clipper(exclude):
    with pytest.raises((TypeError, ValueError), match="`exclude` must be") as error:
        clipax.agc(exclude=exclude, name="mine").init({"w": jnp.ones(2)})
    assert error.value.__notes__ == ["This was in the gradient transformation 'mine'."]


def test_error_that_is_raised_again_is_told_once():
    failure = ValueError("once made")

    def rule(norm, threshold):
        raise failure

    clipper = clipax.clip_by(clipax.measures.per_tree(), 1.0, rule, name="mine")
    for _ in range(2):
        with pytest.raises(ValueError, match="once made"), jax.disable_jit():
            clipper.update(GRADIENT, clipper.init(GRADIENT))
    assert failure.__notes__ == ["This was in the gradient transformation 'mine'."]


NAMED = {row.name: row.make(name="mine") for row in CATALOGUE} | {
    "agc": clipax.agc(name="mine"),
    "clippy": clipax.clippy(name="mine"),
    "monitor": clipax.monitor(name="mine"),
    "skip_spikes": clipax.skip_spikes(optax.sgd(0.1), name="mine"),
    "error_feedback": clipax.error_feedback(clipax.global_norm(1.0)),
    "momentum_reset": clipax.momentum_reset(clipax.global_norm(1.0)),
}


@pytest.mark.parametrize(("row", "clipper"), NAMED.items(), ids=NAMED)
def test_errors_of_init_and_update_tell_the_name_of_the_clipper(row, clipper):
    right = {"dense": jnp.ones(2)}
    wrong = {"dense": "no array"}
    state = clipper.init(right)
    for raising in (lambda: clipper.init(wrong), lambda: clipper.update(wrong, state, right)):
        with pytest.raises(TypeError) as error:
            raising()
        name = row if row in ("error_feedback", "momentum_reset") else "mine"
        assert error.value.__notes__ == [f"This was in the gradient transformation {name!r}."]


@pytest.mark.parametrize("label", [None, ["x"]], ids=repr)
@pytest.mark.parametrize("max_norm", [1.0, {"x": 1.0}], ids=repr)
def test_label_that_is_no_label_is_refused(label, max_norm):
    clipper = clipax.per_group(max_norm, lambda path: label)
    with pytest.raises(TypeError, match=f"`labels` must .*, got {re.escape(repr(label))}"):
        clipax.clip(GRADIENT, clipper)


@pytest.mark.parametrize("other", [{"a": jnp.ones(2)}, {}, {**GRADIENT, "c": jnp.ones(1)}], ids=len)
@pytest.mark.parametrize(
    "clipper",
    [
        pytest.param(clipax.moving_average(measure=measures.per_leaf()), id="moving_average"),
        pytest.param(clipax.adaptive(measure=measures.per_leaf(), window=5), id="adaptive"),
        pytest.param(clipax.value(MEAN), id="value"),
        pytest.param(clipax.clip_by(measures.per_unit(), MEAN), id="per_unit"),
        pytest.param(clipax.clip_by(measures.per_element(), MEAN), id="per_element"),
        pytest.param(clipax.spam(), id="spam"),
        pytest.param(clipax.stable_spam(), id="stable_spam"),
        pytest.param(clipax.adagc(), id="adagc"),
        pytest.param(clipax.monitor(measure=measures.per_leaf()), id="monitor"),
        pytest.param(clipax.error_feedback(clipax.global_norm(1.0)), id="error_feedback"),
    ],
)
def test_gradient_of_another_tree_than_at_init_is_refused(clipper, other):
    state = clipper.init(GRADIENT)
    with pytest.raises(ValueError, match=r"must get a gradient like .* `init` .* got "):
        clipper.update(other, state)


def test_message_about_another_tree_names_the_clipper():
    clipper = clipax.olmo(name="encoder")
    state = clipper.init(GRADIENT)
    with pytest.raises(ValueError, match=r"(?s)must get a gradient like.*'encoder'"):
        clipper.update({"a": jnp.ones(2)}, state)


def test_gradient_of_another_shape_than_at_init_is_refused():
    clipper = clipax.value(MEAN)
    state = clipper.init(GRADIENT)
    with pytest.raises(ValueError, match=r"a gradient like .* `init` .* got .*\(4,\)"):
        clipper.update(GRADIENT | {"b": jnp.ones(4)}, state)


# What looks unusual and is right.


@pytest.mark.parametrize(
    "limit",
    [
        0,
        0.5,
        math.inf,
        np.float64(0.5),
        np.int32(1),
        np.float32(0.5),
        np.array(0.5),
        jnp.array(0.5),
        jnp.array(1),
        lambda step: 0.5,
        thresholds.constant(0.5),
    ],
    ids=lambda x: type(x).__name__,
)
@sampled(
    "clipper",
    {"global_norm": clipax.global_norm, "value": clipax.value, "per_leaf": clipax.per_leaf},
    ["global_norm"],
)
def test_every_kind_of_threshold_is_accepted(clipper, limit):
    clipped, _ = clipax.clip(GRADIENT, clipper(limit))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clipped))


@pytest.mark.parametrize("order", [3, 3.0, np.int64(3), np.float32(3), np.float64(3)], ids=repr)
def test_every_kind_of_order_is_accepted(order):
    _, metrics = clipax.clip(GRADIENT, clipax.global_norm(1.0, ord=order))
    np.testing.assert_allclose(metrics["norm"], (2 + 3 * 8) ** (1 / 3), rtol=1e-6)
    assert measures.lp(order) == measures.lp(3)


@pytest.mark.parametrize(
    "pair",
    [(-1.0, 2.0), [-1, 2], (0, 0), (-math.inf, 1.0), (-1.0, lambda step: 2.0)],
    ids=["tuple", "list", "zeros", "one-sided", "schedule"],
)
def test_every_kind_of_pair_is_accepted(pair):
    clipped: Any = clipax.clip(GRADIENT, clipax.value(pair))[0]
    low, high = (side(0) if callable(side) else side for side in pair)
    np.testing.assert_array_equal(clipped["b"], np.clip(GRADIENT["b"], low, high))
