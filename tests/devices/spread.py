"""A gradient, its layout on eight devices, and updates in a row."""

import functools

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

SPECS = {
    "dense": {"kernel": P("i", None), "bias": P("i")},
    "cell": {"kernel": P(None, "i")},
    "scalar": P(),
}


def gradient(seed=0, scale=1.0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = {"dense": {"kernel": (16, 8), "bias": (8,)}, "cell": {"kernel": (3, 16)}, "scalar": ()}
    return jax.tree.map(
        lambda shape: np.asarray(rng.normal(size=shape) * scale, dtype),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def sharded(tree, mesh):
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), SPECS, is_leaf=lambda x: isinstance(x, P)
    )
    return jax.device_put(tree, shardings)


def mesh_of(kind=AxisType.Auto):
    return jax.make_mesh((8,), ("i",), axis_types=(kind,))


def set_mesh(mesh):
    return jax.set_mesh(mesh) if hasattr(jax, "set_mesh") else jax.sharding.use_mesh(mesh)


def run(clipper, gradients):
    """The last result and the last state."""
    state, update = clipper.init(gradients[0]), jitted(clipper)
    for g in gradients:
        result, state = update(g, state)
    return result, state


@functools.cache
def jitted(clipper):
    return jax.jit(lambda g, s: clipper.update(g, s))
