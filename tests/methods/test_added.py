"""What `docs/adding-a-method.md` says works."""

import functools
import re
import sys
import types
from typing import Any

import catalogue
import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import reference
from methods_page import (
    BLOCKS,
    PAGES,
    ROOT,
)
from trees import mixed, plain
from updates import policy_of, series

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


LAWS = {
    "norm never exceeds its threshold": lambda row: laws.norm_never_exceeds_a_moving_threshold(
        row.make(), series(30), functools.partial(catalogue.group_norms, row), one_group=True
    ),
    "dtypes are kept": lambda row: laws.dtypes_shapes_and_weak_types_are_kept(row.make(), mixed()),
    "state is stable": lambda row: laws.state_keeps_structure_shapes_and_dtypes(
        row.make(), mixed()
    ),
    "resumed equals uninterrupted": lambda row: laws.resumed_equals_uninterrupted(
        row.make(), series(8)
    ),
    "clipping recovers from zeros": lambda row: laws.clipping_recovers_from_zeros(
        row.make(),
        [plain(i, 0.01) for i in range(row.reset)],
        plain(3, 1e4),
        functools.partial(catalogue.group_norms, row),
    ),
    "what is not finite is ignored": lambda row: laws.nonfinite_step_enters_no_statistic(
        row.make(),
        series(9),
        jax.tree.map(lambda x: x * jnp.nan, plain()),
        3,
        policy_of,
    ),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_added_method_keeps_the_law(law):
    law(added_row())
