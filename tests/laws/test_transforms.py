"""The laws of `jit`, of derivatives, and of what else `update` is given."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest
from compilations import compiled
from norms import enable_x64
from numpy_groups import norm_of
from rows import each_structure, every, rows, sampled
from trees import alike, filled, mixed, plain
from updates import series

import clipax

# Law 8: eager equals jit, nothing compiles twice, unknown arguments pass.


@rows(
    default=[
        "per_group_dict", "unit_mean", "value", "clippy", "stable_spam", "spectral",
    ]
)  # fmt: skip
def test_eager_equals_jit_and_makes_no_nan(row):
    laws.eager_equals_jit(row.make(), [*series(3), filled(0)], jax.device_put)


@rows(default=["element_mean"])
def test_eager_update_of_numpy_arrays_equals_jit(row):
    laws.eager_equals_jit(row.make(), [*series(3), filled(0)], jax.device_get)


@every
def test_update_is_traced_once(row):
    laws.update_is_traced_once(row.make(), plain())


@rows(default=["unit_mean"])
def test_repeated_eager_updates_compile_nothing(row):
    laws.repeated_eager_updates_compile_nothing(row.make(), [mixed(i % 3) for i in range(5)])


def test_compilations_are_seen():
    before = len(compiled)
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(7)).block_until_ready()
    assert len(compiled) > before


@each_structure
@sampled("x64", {"float32": False, "float64": True}, ["float32"])
def test_nothing_is_promoted_implicitly(x64, row):
    with enable_x64(x64):
        laws.nothing_is_promoted_implicitly(row.make(nonfinite="sanitize"), mixed())


WRAPPED = {
    "skip_spikes": clipax.skip_spikes(clipax.global_norm(1.0), watch="both"),
    "error_feedback": clipax.error_feedback(clipax.per_leaf(1.0)),
    "monitor": clipax.monitor(),
    "momentum_reset": clipax.momentum_reset(optax.identity()),
}
ALIKE = [alike(seed, size) for seed, size in enumerate((0.3, 3.0, 1.0))]
each_wrapper = pytest.mark.parametrize("wrapper", WRAPPED.values(), ids=WRAPPED)


@each_wrapper
@pytest.mark.parametrize("x64", [False, True])
def test_no_wrapper_promotes_implicitly(x64, wrapper):
    with enable_x64(x64):
        laws.nothing_is_promoted_implicitly(wrapper, mixed())


@sampled("wrapper", WRAPPED, ["skip_spikes", "error_feedback"])
def test_no_wrapper_makes_nan_of_finite_gradients(wrapper):
    state = wrapper.init(ALIKE[0])
    with jax.debug_nans(True):
        for gradient in [*ALIKE, jax.tree.map(jnp.zeros_like, ALIKE[0])]:
            _, state = wrapper.update(gradient, state, gradient, value=1.0)


@rows(default=["adaptive_per_layer"])
def test_disabled_jit_changes_no_result(row):
    laws.disabled_jit_changes_no_result(row.make(), ALIKE[:2], row.error)


@sampled("wrapper", WRAPPED, [])
def test_disabled_jit_changes_no_result_of_a_wrapper(wrapper):
    laws.disabled_jit_changes_no_result(wrapper, ALIKE[:2])


@each_structure
def test_unknown_extra_arguments_are_accepted(row):
    laws.unknown_extra_arguments_are_accepted(row.make(), plain())


def test_extra_arguments_reach_the_policy():
    seen = {}

    def update(norm, state, *, step, param_norm, loss, **extra_args):
        seen.update(step=step, loss=loss, params=param_norm())
        return jnp.asarray(1.0), state

    policy = clipax.ThresholdPolicy(lambda norm: (), update)
    clipper = clipax.global_norm(policy)
    gradient = [jnp.ones(4)]
    clipper.update(gradient, clipper.init(gradient), [jnp.full(4, 3.0)], loss=0.25, epoch=2, step=9)
    assert seen["loss"] == 0.25 and int(seen["step"]) == 0
    assert float(seen["params"][0]) == 6.0


# Law 10: derivatives are finite wherever the true one is.


def layer(seed, scale=1.0):
    return {"dense": plain(seed, scale)["dense"]}


DIFFERENTIATED = ("value", "normalize", "clippy", "stable_spam", "spectral")


@rows(default=DIFFERENTIATED)
def test_derivatives_are_finite(row):
    enlarged = row.rule in ("normalize", "stable_spam")  # see the docstring of `rules.normalize`
    sizes = (0.0, 1.0, 1e25, 1e-15 if enlarged else 1e-30)
    laws.derivatives_are_finite(row.make(), [layer(12, size) for size in sizes], layer(14))


@rows(
    "rescale",
    "normalize",
    "smooth",
    "spectral",
    "soft_spectral",
    fixed=True,
    default=DIFFERENTIATED,
)
def test_derivative_far_above_the_threshold_scales_like_one_over_the_norm(row):
    if row.groups != "element":  # an element above its threshold does not depend on the gradient
        laws.derivative_falls_as_one_over_the_norm(row.make(), layer(12, 1e5), layer(14))


@rows(
    "rescale",
    "smooth",
    "normalize",
    "spectral",
    "soft_spectral",
    fixed=True,
    default=DIFFERENTIATED,
)
def test_derivative_is_that_of_the_formula(row):
    """At a gradient that is clipped and at one that is not."""
    with enable_x64():
        gradient = jax.tree.map(lambda x: x.astype(jnp.float64), plain(13))
        sizes = [jax.tree.map(lambda x, s=s: s * x, gradient) for s in (3.0, 0.01)]
        laws.derivative_is_that_of_finite_differences(row.make(), sizes)


# Law 11: params are needed only where the threshold needs them.


def test_missing_params_are_named():
    def update(norm, state, *, step, param_norm, **extra_args):
        return 0.01 * param_norm(), state

    clipper = clipax.clip_by(
        clipax.measures.per_leaf(), clipax.ThresholdPolicy(lambda norm: (), update), name="mine"
    )
    gradient = [jnp.ones(3)]
    state = clipper.init(gradient)
    with pytest.raises(ValueError, match=r"(?s)update\(updates, state, params\).*'mine'"):
        clipper.update(gradient, state)
    result, _ = clipper.update(gradient, state, [jnp.full(3, 2.0)])
    assert norm_of([np.asarray(result[0], np.float64)], 2) == pytest.approx(0.02 * 3**0.5)


@every
def test_clippers_of_the_gradient_alone_need_no_params(row):
    laws.no_parameters_are_needed(row.make(), plain())
