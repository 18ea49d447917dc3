"""The public names, their signatures, and the package."""

import importlib.metadata
import inspect
import os
import subprocess
import sys

import optax
import pytest
from contract import (
    CLIPPERS,
    CORE,
    MODULES,
    NEED_AN_ARGUMENT,
    SIGNATURES,
    WRAPPERS,
    defined_in,
    each_function,
)
from paths import ROOT

import clipax
from clipax import measures, rules, thresholds


def test_public_names_are_those_of_the_contract():
    others = {"Suggestion", "ThresholdPolicy", "measures", "rules", "thresholds"}
    assert set(clipax.__all__) == {*CLIPPERS, *WRAPPERS, *CORE} | others
    assert list(clipax.__all__) == sorted(clipax.__all__)
    for module in (measures, rules, thresholds):
        functions = {k for k, v in defined_in(module).items() if inspect.isfunction(v)}
        assert functions == set(MODULES[module]), module
    for norm in ("l1", "l2", "linf", "rms"):
        assert isinstance(getattr(measures, norm), type(measures.lp(3)))


@pytest.mark.parametrize(("function", "expected"), SIGNATURES)
def test_signature_is_that_of_the_contract(function, expected):
    parts, kinds = [], []
    for parameter in inspect.signature(function).parameters.values():
        kinds.append(parameter.kind)
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        default = parameter.default
        shown = default.__name__ if inspect.isfunction(default) else repr(default)
        parts.append(parameter.name + (f"={shown}" if default is not parameter.empty else ""))
    assert f"({', '.join(parts)})" == expected
    assert not {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL} & set(kinds)


@each_function
def test_no_default_is_a_function(function):
    """`optax.inject_hyperparams` would take it for a schedule; `clip_by` is not for it."""
    parameters = inspect.signature(function).parameters.values()
    callable_ones = [p.name for p in parameters if inspect.isfunction(p.default)]
    assert callable_ones == (["rule"] if function is clipax.clip_by else [])


@pytest.mark.parametrize("name", CLIPPERS)
def test_clipper_with_defaults_builds_without_arguments(name):
    clipper = getattr(clipax, name)
    needed = [p for p in inspect.signature(clipper).parameters.values() if p.default is p.empty]
    if not needed:
        assert isinstance(clipper(), optax.GradientTransformationExtraArgs)
    assert bool(needed) == (name in NEED_AN_ARGUMENT)


# The package


def test_version_is_the_installed_one():
    try:
        installed = importlib.metadata.version("clipax")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("clipax is imported from its folder and not installed")
    assert clipax.__version__ == installed


def test_types_are_shipped():
    assert (ROOT / "clipax" / "py.typed").exists()


def test_import_loads_no_other_package():
    optional = [
        "flax",
        "altair",
        "scipy",
        "equinox",
        "torch",
        "tensorflow",
        "keras",
        "music21",
        "pyarrow",
    ]
    code = f"import sys, clipax; print([m for m in {optional!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"
