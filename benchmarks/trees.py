"""The gradients that are clipped: so many leaves of one size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_UNITS = {"M": 2**20, "k": 2**10, "": 1}


@dataclass(frozen=True)
class Leaves:
    """So many leaves, each of so many entries: a vector, or a matrix of so many columns."""

    count: int
    size: int
    columns: int = 0

    def __str__(self) -> str:
        unit = next(name for name, many in _UNITS.items() if self.size % many == 0)
        return f"{self.count:,} x {self.size // _UNITS[unit]:,}{unit}"

    @property
    def entries(self) -> int:
        """Of all leaves."""
        return self.count * self.size

    @property
    def norm(self) -> float:
        """About the norm of normal entries."""
        return self.entries**0.5

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a leaf."""
        return (self.size // self.columns, self.columns) if self.columns else (self.size,)

    def described(self, dtype: Any = jnp.float32) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Shapes and dtype alone; each leaf is a layer by itself."""
        leaf = jax.ShapeDtypeStruct(self.shape, dtype)
        return {f"layer{i}": {"w": leaf} for i in range(self.count)}

    def normal(self, dtype: Any = jnp.float32) -> dict[str, dict[str, jax.Array]]:
        """The same with standard normal entries, on the device."""
        leaves = (x.reshape(self.shape) for x in entries_of(self.count, self.size))
        return {f"layer{i}": {"w": jnp.asarray(x, dtype)} for i, x in enumerate(leaves)}


def described(shapes: Any, dtype: Any = jnp.float32, before: tuple[int, ...] = ()) -> Any:
    """A tree of shapes as arrays that are only described, with some more axes before."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct((*before, *shape), dtype),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def entries_of(count: int, size: int) -> Iterator[np.ndarray]:
    """Standard normal entries of so many leaves, float32."""
    one = np.random.default_rng(0).normal(size=size).astype(np.float32)
    return (np.roll(one, i) for i in range(count))


@jax.jit
def copied(tree: Any) -> Any:
    """The same arrays in buffers of their own."""
    return jax.tree.map(jnp.copy, tree)
