"""Gradients, how they are laid out on eight devices, and updates in a row."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """A tree of shapes on a mesh of eight devices.

    Attributes:
        axes: the names and sizes of the axes of the mesh.
        shapes: of the leaves.
        specs: the axes over which each dimension of a leaf is spread.
    """

    axes: dict[str, int]
    shapes: Any
    specs: Any

    def mesh(self, kind=AxisType.Auto):
        sizes = tuple(self.axes.values())
        return jax.make_mesh(sizes, tuple(self.axes), axis_types=(kind,) * len(sizes))

    def gradient(self, seed=0, scale=1.0, dtype=np.float32):
        rng = np.random.default_rng(seed)
        return jax.tree.map(
            lambda shape: np.asarray(rng.normal(size=shape) * scale, dtype),
            self.shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )

    def sharded(self, tree, mesh):
        shardings = jax.tree.map(
            lambda spec: NamedSharding(mesh, spec), self.specs, is_leaf=lambda x: isinstance(x, P)
        )
        return jax.device_put(tree, shardings)


ROW = Layout(
    {"i": 8},
    {"dense": {"kernel": (16, 8), "bias": (8,)}, "cell": {"kernel": (3, 16)}, "scalar": ()},
    {
        "dense": {"kernel": P("i", None), "bias": P("i")},
        "cell": {"kernel": P(None, "i")},
        "scalar": P(),
    },
)
# Tensor parallelism: matrices of one shape that are spread differently, or not at all.
GRID = Layout(
    {"x": 4, "y": 2},
    {
        "dense": {"up": (8, 16), "down": (8, 16), "bias": (16,)},
        "cell": {"rows": (8, 16), "columns": (8, 16), "everywhere": (8, 16)},
        "scalar": (),
    },
    {
        "dense": {"up": P("x", "y"), "down": P("y", "x"), "bias": P("y")},
        "cell": {"rows": P(("x", "y")), "columns": P(None, "y"), "everywhere": P()},
        "scalar": P(),
    },
)


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


def mapped_update(clipper, mesh, specs, check_vma):
    """The compiled update of a clipper inside `shard_map`, its state the same on all devices."""
    update = jax.shard_map(
        lambda g, state, params: clipper.update(g, state, params),
        mesh=mesh,
        in_specs=(specs, P(), specs),
        out_specs=(specs, P()),
        check_vma=check_vma,
    )
    return jax.jit(update)
