"""The plugins of `tests/helpers`, and the names that doctests use without importing them."""

import jax
import jax.numpy as jnp
import optax
import pytest

import clipax

pytest_plugins = ["tiers", "compilations"]


@pytest.fixture(autouse=True)
def _names(doctest_namespace):
    doctest_namespace |= {"clipax": clipax, "jax": jax, "jnp": jnp, "optax": optax}
