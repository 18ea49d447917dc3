"""Every clipper can be lowered for GPUs, with none at hand."""

import functools
import re

import jax
import pytest
from catalogue import BY_NAME
from rows import STRUCTURES, sampled
from trees import plain


@functools.cache
def traced(name):
    clipper = BY_NAME[name].make()
    tree = jax.eval_shape(plain)
    state = jax.eval_shape(clipper.init, tree)
    return jax.jit(lambda g, s: clipper.update(g, s)).trace(tree, state)


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
@sampled("name", {name: name for name in BY_NAME}, STRUCTURES)
def test_update_lowers_and_calls_no_library_but_for_singular_values(name, platform):
    text = traced(name).lower(lowering_platforms=(platform,)).as_text()
    called = set(re.findall(r"custom_call @([\w.]+)", text))
    solver = {"cuda": "cusolver_", "rocm": "hipsolver_"}[platform]
    assert "stablehlo" in text
    assert all(BY_NAME[name].mixes and other.startswith(solver) for other in called)
