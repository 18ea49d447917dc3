"""The one equation: measure -> norm -> threshold -> rule -> factor.

`clip_by` puts the three parts together; nearly every named clipper is one call of it.
"""

import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from clipax import _validate, rules
from clipax._scale import scale
from clipax._state import ClipState, initial_metrics
from clipax._together import Bundle, bundles, in_order
from clipax._trees import incremented, is_measured, where_groups
from clipax.measures import Measure, Norms
from clipax.rules import Rule
from clipax.thresholds import Threshold, ThresholdPolicy, as_policy


def clip_by(
    measure: Measure,
    threshold: Threshold,
    rule: Rule = rules.rescale,
    *,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Build a clipper from a measure, a threshold and a rule.

    `phi = rule(n, tau)` and `g <- phi g` for every group g with norm `n = measure(g)`.

    Args:
        measure: what the groups are and how large they are, from `clipax.measures`.
        threshold: a number >= 0, a schedule of the step, or a policy from `clipax.thresholds`. A
            schedule or policy that gives NaN makes NaN of the group.
        rule: `(norm, threshold) -> factor`, from `clipax.rules` or your own.
        nonfinite: what becomes of a group whose norm is NaN or infinite. `"propagate"`: all of it
            becomes NaN. `"zero"`: all of it becomes zero. `"sanitize"`: its non-finite entries
            become zero and the rest is clipped, at the price of a second look at every gradient.
            In each case the threshold's state of that group stays as it was.
        name: the prefix of the keys that `clipax.metrics` gives. Errors tell it too.

    Returns:
        A gradient transformation. Its updates keep the dtypes of the gradient, and with the rules
        `rescale`, `skip` and `at_least` a group within its threshold is unchanged to the bit. It
        needs `params` only if the threshold does.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the threshold is negative or NaN, or `nonfinite` is unknown.

    Example:
        >>> clipper = clipax.clip_by(clipax.measures.per_leaf(), 1.0, clipax.rules.skip)
        >>> clipax.clip([jnp.array([3.0, 4.0]), jnp.array([0.5])], clipper)[0]
        [Array([0., 0.], dtype=float32), Array([0.5], dtype=float32)]

    References:
        Pascanu, Mikolov, Bengio, *On the difficulty of training recurrent neural networks*, 2013,
        https://arxiv.org/abs/1211.5063
    """
    if not isinstance(measure, Measure):
        raise TypeError(f"`measure` must be a clipax Measure, got {_validate.shown(measure)}")
    if not callable(rule):
        raise TypeError(f"`rule` must be a function, got {_validate.shown(rule)}")
    if not isinstance(rule, Hashable):
        raise TypeError(f"`rule` must be hashable, as functions are, got {_validate.shown(rule)}")
    policy = as_policy("threshold", threshold)
    _validate.options(nonfinite, name)
    scalar = not isinstance(threshold, ThresholdPolicy)

    @_validate.naming(name)
    def init_fn(params: optax.Params) -> ClipState:
        return initial_state(measure, policy, params, name, scalar=scalar)

    @_validate.naming(name)
    def update_fn(updates, state, params=None, **extra_args):
        norms = measure.norms(updates)
        given = Given(measure, state.step, params, extra_args)
        thresholds, policy_state = follow(policy, norms, state.policy, given)
        clean = norms
        if nonfinite == "sanitize":
            updates = jax.tree.map(without_nonfinite, updates)
            clean = measure.norms(updates)
        updates, metrics = scale(
            rule, nonfinite, updates, (norms, clean), thresholds, state.metrics
        )
        return updates, ClipState(incremented(state.step), policy_state, metrics)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def initial_state(
    measure: Measure,
    policy: ThresholdPolicy,
    params: optax.Params,
    name: str | None,
    *,
    scalar: bool,
) -> ClipState:
    """The state of a clipper before its first update; `scalar`: it has one threshold for all."""
    norms = jax.tree.leaves(measure.init(params).values)
    metrics = initial_metrics(norms, name, observed=measure.observed, scalar=scalar)
    state = initial_policy_state(measure, policy, params)
    return ClipState(jnp.zeros((), jnp.int32), state, metrics)


def initial_policy_state(measure: Measure, policy: ThresholdPolicy, params: optax.Params) -> Any:
    """The state of a policy for the groups of a measure."""
    norms, treedef = jax.tree.flatten(measure.init(params).values)
    states = [policy.init(norm) for norm in norms]
    for norm, state in zip(norms, states, strict=True):
        for leaf in jax.tree.leaves(state):
            if jnp.shape(leaf)[jnp.ndim(leaf) - norm.ndim :] != norm.shape:
                raise ValueError(
                    "every array in the state of a policy must end with the axes of the norms, "
                    f"{norm.shape}, as `jnp.zeros_like(norm)` does, got {jnp.shape(leaf)}"
                )
    return _as_tree(policy, states, treedef)


class Given(NamedTuple):
    """What a policy is given beside the norms.

    Attributes:
        measure: measures the parameters if the policy asks.
        step: how many updates there were.
        params: the parameters, if given.
        extra_args: those of the optimizer's `update`; the policy receives them.
    """

    measure: Measure
    step: Array
    params: optax.Params | None
    extra_args: dict[str, Any]


def follow(policy: ThresholdPolicy, norms: Norms, state: Any, given: Given) -> tuple[Any, Any]:
    """The thresholds for the norms, none of them negative, and the policy's next state.

    The state of a group whose norm is not finite stays as it was, whatever the policy made of it.

    Args:
        policy: the policy.
        norms: the norms of the gradient.
        state: the state of the policy.
        given: what else it is given.
    """
    arrays, treedef = jax.tree.flatten(norms.values)
    olds = _of_each(policy, state, norms)
    for norm, old in zip(arrays, olds, strict=True):
        _check_groups(norm, old)
    parameter_norms = functools.cache(lambda: _parameter_norms(given, arrays))
    parts = bundles(arrays, olds, dense=not given.measure.observed)
    thresholds, states = [], []
    for part in parts:
        norm, old = part.joined(arrays), part.joined(olds)

        def param_norm(part: Bundle = part) -> Array:
            return part.joined(parameter_norms())

        own = {"step": given.step, "param_norm": param_norm}
        threshold, new = policy.update(norm, old, **{**given.extra_args, **own})
        threshold = jnp.maximum(jnp.asarray(threshold).astype(norm.dtype), 0)
        new = where_groups(jnp.isfinite(norm), new, old)
        if len(part.members) > 1:  # or all of the policy is computed anew for each of their arrays
            new = lax.optimization_barrier(new)
        one = threshold.ndim == 0  # for all groups
        full = threshold if one else jnp.broadcast_to(threshold, norm.shape)
        thresholds.append([full] * len(part.members) if one else part.apart(full))
        states.append(part.apart(new))
    in_all = in_order(parts, thresholds), in_order(parts, states)
    return treedef.unflatten(in_all[0]), _as_tree(policy, in_all[1], treedef)


# For groups inside leaves a policy has a state for each leaf, and it is stored with a tree like the
# gradient in place of each array, so that optax knows it for something shaped like the
# parameters. For groups of whole leaves that tree is a single array, and nothing changes.


def _as_tree(policy: ThresholdPolicy, states: list[Any], treedef: Any) -> Any:
    if not states:
        states = [jax.eval_shape(policy.init, jax.ShapeDtypeStruct((), jnp.float32))]
        return jax.tree.map(lambda _: treedef.unflatten(()), states[0])
    return jax.tree.map(lambda *leaves: treedef.unflatten(leaves), *states)


def _of_each(policy: ThresholdPolicy, stored: Any, norms: Norms) -> list[Any]:
    arrays, treedef = jax.tree.flatten(norms.values)
    if norms.groups is not None:
        return [stored]
    single = jax.eval_shape(policy.init, jax.ShapeDtypeStruct((), jnp.float32))
    single = jax.tree.structure(single)
    trees = single.flatten_up_to(stored)
    for tree in trees:
        _validate.same_tree(treedef, jax.tree.structure(tree))
    columns = [treedef.flatten_up_to(tree) for tree in trees]
    return [single.unflatten(column[i] for column in columns) for i in range(len(arrays))]


def _check_groups(norm: Array, policy_state: Any) -> None:
    for leaf in jax.tree.leaves(policy_state):
        groups = leaf.shape[leaf.ndim - norm.ndim :]
        _validate.same_tree(f"norms of shape {norm.shape}", f"norms of shape {groups}")


def required(params: optax.Params | None) -> optax.Params:
    """The parameters; a ValueError where a clipper relative to them is not given them."""
    if params is None:
        raise ValueError(
            "a clipper with a threshold relative to the parameters needs them: "
            "call `update(updates, state, params)`"
        )
    return params


def _parameter_norms(given: Given, norms: list[Array]) -> list[Array]:
    """Those of the parameters, shaped like those of the gradient; zero where one has no norm."""

    def fitted(found: Array, norm: Array) -> Array:
        if norm.ndim == 0 < found.ndim:
            return jnp.zeros_like(norm)
        return jnp.broadcast_to(found, norm.shape) if found.ndim == 0 else found

    found = jax.tree.leaves(given.measure.norms(required(given.params)).values)
    return list(map(fitted, found, norms))


def without_nonfinite(leaf: Any) -> Any:
    """A leaf with zeros for its entries that are NaN or infinite."""
    return jnp.where(jnp.isfinite(leaf), leaf, 0) if is_measured(leaf) else leaf
