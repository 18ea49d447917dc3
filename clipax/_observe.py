"""What a clipper did: metrics out of an optimizer's state, and clipping without an optimizer."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.tree_util import SequenceKey

from clipax import _validate
from clipax._monitor import MonitorState
from clipax._skip_spikes import Spikes
from clipax._state import ClipState
from clipax._trees import path_name


def metrics(opt_state: Any) -> dict[str, Array]:
    """Read from an optimizer's state what its clippers did at the last step.

    Args:
        opt_state: any nested state of optax, with any number of clippers in it.

    Returns:
        A dict of scalars, `{}` if there is nothing to tell. Of a clipper:

        * `norm`: the largest norm of a group before clipping
        * `threshold`: the threshold of that group
        * `factor`: the smallest factor of a group
        * `clipped`: the share of groups with a factor below 1
        * `clip_rate`: the share of the steps so far at which any group was clipped
        * `nonfinite`: the number of steps so far at which a norm was not finite

        Clippers whose groups are single entries (`value`, `per_element`) keep only `threshold`, and
        that if it is one number: the rest would cost another pass over the gradient. The keys are
        plain for a single clipper without a name. Otherwise they are `"<name>/norm"` and so on,
        or `"<position>/norm"`, the position being the indices of the enclosing chains, or the
        names that `optax.named_chain` gave, joined by `/`. A name that occurs twice has its
        position before it, and a position that does has the fields of the enclosing states in it.
        A state that was made under `vmap` gives arrays. What `skip_spikes` and `monitor` tell
        stands beside that, under their names.

    Example:
        >>> optimizer = optax.chain(clipax.global_norm(1.0), optax.adam(1e-3))
        >>> params = {"w": jnp.zeros(2)}
        >>> _, state = optimizer.update({"w": jnp.array([3.0, 4.0])}, optimizer.init(params))
        >>> for key, value in clipax.metrics(state).items():
        ...     print(key, value)
        norm 5.0
        threshold 1.0
        factor 0.2
        clipped 1.0
        clip_rate 1.0
        nonfinite 0
    """
    found = jax.tree_util.tree_flatten_with_path(opt_state, is_leaf=_is_observed)[0]
    observed = [(path, state) for path, state in found if _is_observed(state)]
    clippers = [state for _, state in observed if isinstance(state, ClipState)]
    prefixes = [f"{prefix}/" for prefix in _prefixes(observed)]
    values = {}
    for prefix, (_, state) in zip(prefixes, observed, strict=True):
        alone = len(clippers) == 1 and state is clippers[0] and _name_of_clipper(state) is None
        for key, value in _READERS[type(state)](state).items():
            # A copy: the state may be donated, and an `nnx.Optimizer` changes in place.
            values[key if alone else prefix + key] = jnp.array(value)
    return values


def clip(
    updates: optax.Updates,
    clipper: optax.GradientTransformation,
    params: optax.Params | None = None,
) -> tuple[optax.Updates, dict[str, Array]]:
    """Clip once, without an optimizer and without a state.

    Args:
        updates: a gradient.
        clipper: any clipper. One that adapts starts anew at each call and so uses what its
            docstring says of its first step.
        params: the parameters, for clippers that need them.

    Returns:
        The clipped gradient and the metrics, see `clipax.metrics`.

    Raises:
        TypeError: if `clipper` is not a gradient transformation.

    Example:
        >>> clipped, metrics = clipax.clip([jnp.array([3.0, 4.0])], clipax.global_norm(2.5))
        >>> clipped, metrics["norm"]
        ([Array([1.5, 2.0], dtype=float32)], Array(5., dtype=float32))
    """
    _validate.transformation("clipper", clipper, "a clipper such as clipax.global_norm(1.0)")
    state = clipper.init(updates if params is None else params)
    updates, state = optax.with_extra_args_support(clipper).update(updates, state, params)
    return updates, metrics(state)


def _is_observed(node: Any) -> bool:
    return type(node) in _READERS


def _name_of_clipper(state: ClipState) -> str | None:
    return next(iter(state.metrics)) if isinstance(state.metrics, dict) else None


def _named(path: tuple, state: Any) -> tuple[tuple, str | None]:
    """Where something stands, and its name. A wrapper stands in a dict under its name."""
    if isinstance(state, ClipState):
        return path, _name_of_clipper(state)
    return path[:-1], path[-1].key


def _prefixes(observed: list[tuple[tuple, Any]]) -> list[str]:
    """Name, or position; both where that is not unique, and fields of states where that is not."""
    choices = []
    for path, state in observed:
        path, name = _named(path, state)
        end = [] if name is None else [name]
        short = _position(path) if name is None else name
        longer = (filter(None, [where, *end]) for where in (_position(path), _full(path)))
        choices.append([short, *map("/".join, longer)])
    for level in range(2):
        taken = collections.Counter(options[0] for options in choices)
        choices = [
            options if taken[options[0]] == 1 else [options[level + 1], *options[1:]]
            for options in choices
        ]
    return [options[0] for options in choices]


def _position(path: tuple) -> str:
    """The indices and names of the enclosing chains."""
    keys = (k.idx if isinstance(k, SequenceKey) else getattr(k, "key", None) for k in path)
    return "/".join(str(key) for key in keys if key is not None)


def _full(path: tuple) -> str:
    return path_name(path)


def _read_clipper(state: ClipState) -> dict[str, Array]:
    kept = state.metrics
    if isinstance(kept, dict):
        (kept,) = kept.values()
    values = kept._asdict()
    steps, clipped_steps = state.step, values.pop("clipped_steps")
    if clipped_steps is not None:
        rate = clipped_steps / jnp.maximum(steps, 1)
        nonfinite = values.pop("nonfinite")
        values = {**values, "clip_rate": rate, "nonfinite": nonfinite}
    return {key: value for key, value in values.items() if value is not None}


def _read_spikes(state: Spikes) -> dict[str, Array]:
    values = state._asdict()
    watched = values.pop("watched")
    return {
        **{kind: kept.value for kind, kept in watched.items()},
        **{f"{kind}_threshold": kept.threshold for kind, kept in watched.items()},
        **values,
    }


def _read_monitor(state: MonitorState) -> dict[str, Array]:
    kept = state._asdict()
    columns = {
        key: jnp.moveaxis(kept[key], -1, 0)
        for key in ("norm", "mean", "max", "nonfinite", "first_nonfinite")
    }
    return {
        f"{group}/{key}" if group else key: column[i]
        for i, group in enumerate(state.groups)
        for key, column in columns.items()
    }


_READERS = {ClipState: _read_clipper, Spikes: _read_spikes, MonitorState: _read_monitor}
