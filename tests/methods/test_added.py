"""What `docs/adding-a-method.md` says works."""

import functools
import re
import sys
import types
from typing import Any

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import test_nonfinite
import test_norms
import test_state
from methods_page import (
    BLOCKS,
    PAGES,
    ROOT,
)

import clipax

# Adding a method.

POLICY, CLIPPER, ROW, REFERENCE = (
    code for code in BLOCKS if "geometric" in code or "GeometricMeanState" in code
)


@functools.cache
def added() -> dict[str, Any]:
    """The names of the example, in a module so that its state can be pickled."""
    sys.modules["added_method"] = module = types.ModuleType("added_method")
    names = vars(module)
    names |= {"CATALOGUE": [], "Row": catalogue.Row, "_with": vars(catalogue)["_with"]}
    for code in (POLICY, CLIPPER, ROW):
        exec(code, names)
    return names


def added_row() -> catalogue.Row:
    (row,) = added()["CATALOGUE"]
    return row


def test_steps_of_adding_a_method_are_numbered():
    steps = re.findall(r"^\*\*(\d)\. ", PAGES["adding-a-method"], re.MULTILINE)
    assert steps == list("12345")
    for path in re.findall(r"`((?:tests|clipax)/[\w/.]*)`", PAGES["adding-a-method"]):
        assert (ROOT / path).exists(), path


def test_added_method_has_the_thresholds_of_its_reference():
    names = dict(vars(reference))
    exec(REFERENCE, names)
    rng = np.random.default_rng(2)
    norms = np.exp(rng.standard_t(3, size=200)).astype(np.float32)
    norms[[0, 50, 51]] = [0.0, np.nan, np.inf]
    clipper = added()["geometric"](decay=0.9)

    def step(state, norm):
        _, state = clipper.update([norm], state)
        return state, clipax.metrics(state)["threshold"]

    _, told = jax.lax.scan(step, clipper.init([jnp.zeros(())]), jnp.asarray(norms))
    expected = names["geometric"](norms, decay=0.9).threshold
    finite = np.isfinite(norms)
    np.testing.assert_allclose(np.asarray(told)[finite], expected[finite], rtol=2e-5)


LAWS = [
    test_norms.test_norm_never_exceeds_a_moving_threshold,
    test_norms.test_dtypes_shapes_and_weak_types_are_kept,
    test_state.test_state_keeps_structure_shapes_and_dtypes,
    test_state.test_resumed_equals_uninterrupted_to_the_bit,
    test_nonfinite.test_clipping_comes_back_to_life_after_zeros,
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_added_method_keeps_the_law(law):
    law(added_row())


def test_added_method_ignores_what_is_not_finite():
    test_nonfinite.test_nonfinite_step_leaves_the_state_as_if_it_had_not_been(added_row(), 3)
