"""The trees that laws run on, made by numpy: what JAX makes them of would be compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def mixed(seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    """Every kind of leaf at once; the scalar is weakly typed."""
    rng = np.random.default_rng(seed)

    def leaf(*shape, dtype=jnp.float32):
        return jax.device_put((rng.normal(size=shape) * scale).astype(dtype))

    return {
        "dense": {"kernel": leaf(4, 3), "bias": leaf(3, dtype=jnp.bfloat16)},
        "cell": [leaf(2, 3, 2, dtype=jnp.float16), leaf(3, dtype=jnp.complex64), None],
        "scalar": jax.device_put(rng.normal() * scale),
        "rest": {
            "empty": leaf(0, 2),
            "count": jax.device_put(np.arange(3, dtype=np.int32)),
            "none": np.zeros((2,), jax.dtypes.float0),
            "masked": optax.MaskedNode(),
        },
    }


def plain(seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    """Two layers of float32."""
    rng = np.random.default_rng(seed)
    sizes = {"dense": {"kernel": (4, 3), "bias": (3,)}, "scalar": ()}
    return jax.tree.map(
        lambda shape: jax.device_put(np.float32(rng.normal(size=shape) * scale)),
        sizes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def alike(seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    """Two layers of which all leaves have one shape: eager operations are compiled once."""
    rng = np.random.default_rng(seed)

    def leaf():
        return jax.device_put(np.float32(rng.normal(size=(4, 3)) * scale))

    return {"dense": {"kernel": leaf(), "gate": leaf()}, "scalar": leaf()}


def with_dtype(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x).astype(dtype)), tree)


def filled(value: float) -> dict[str, Any]:
    """The tree of `plain`, with one value everywhere."""
    return jax.tree.map(lambda x: jax.device_put(np.full(x.shape, value, np.float32)), plain())


def with_element(tree: dict[str, Any], value: float) -> dict[str, Any]:
    """The tree with another value in one element of its kernel."""
    kernel = np.array(tree["dense"]["kernel"])
    kernel[1, 2] = value
    return tree | {"dense": tree["dense"] | {"kernel": jax.device_put(kernel)}}


def _many(count: int) -> dict[str, Any]:
    leaves = np.float32(np.random.default_rng(count).normal(size=(count, 2, 3)))
    return {f"layer{i}": {"w": jax.device_put(leaf)} for i, leaf in enumerate(leaves)}


TREES = {
    "float32": plain(1),
    "bfloat16": with_dtype(plain(2), jnp.bfloat16),
    "float16": with_dtype(plain(3), jnp.float16),
    "mixed": mixed(4),
    "scalars": [jnp.float32(3.0), jnp.float16(-4.0), 0.5],
    "empty": {},
    "none": {"a": None, "b": jnp.ones(3)},
    "masked": {"a": optax.MaskedNode(), "b": jnp.full((2, 2), -2.0)},
    "only_masked": {"a": optax.MaskedNode()},
    "complex": [jnp.asarray([3 + 4j, 0, -1j], jnp.complex64), jnp.ones(2)],
    "integer": {"a": jnp.arange(4), "b": jnp.arange(3.0)},
    "only_integer": [jnp.arange(4)],
    "float0": [np.zeros(3, jax.dtypes.float0), jnp.ones((2, 2))],
    "one_leaf": jnp.asarray([[3.0, 4.0]]),
    "bare_list": [jnp.ones(2), jnp.full((3,), 2.0)],
    "hundred": _many(100),
}
