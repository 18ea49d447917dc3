"""The gradients that are clipped: so many leaves of one size."""

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
        return self.count * self.size

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size // self.columns, self.columns) if self.columns else (self.size,)

    def described(self, dtype: Any = jnp.float32) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Shapes and dtype alone; each leaf is a layer by itself."""
        leaf = jax.ShapeDtypeStruct(self.shape, dtype)
        return {f"layer{i}": {"w": leaf} for i in range(self.count)}

    def normal(self, dtype: Any = jnp.float32) -> dict[str, dict[str, jax.Array]]:
        """The same with standard normal entries, on the device."""
        rng = np.random.default_rng(0)
        one = rng.normal(size=self.size).reshape(self.shape)
        return {f"layer{i}": {"w": jnp.asarray(np.roll(one, i), dtype)} for i in range(self.count)}


@jax.jit
def copied(tree: Any) -> Any:
    """The same arrays in buffers of their own."""
    return jax.tree.map(jnp.copy, tree)
