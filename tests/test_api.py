"""The public names: their docstrings, their signatures, and what they say to a wrong argument."""

import importlib.metadata
import inspect
import math
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import clipax
from clipax import measures, rules, thresholds

ROOT = pathlib.Path(clipax.__file__).parents[1]

# Signatures: the contract, written down once more.

NORM = "ord=None, axis_name=None"
BOTH = "nonfinite='propagate', name=None"
CLIPPERS = {
    "global_norm": f"(max_norm, *, {NORM}, {BOTH})",
    "per_layer": f"(max_norm, *, {NORM}, {BOTH})",
    "per_leaf": f"(max_norm, *, {NORM}, {BOTH})",
    "per_group": f"(max_norm, labels, *, {NORM}, {BOTH})",
    "value": f"(limit, *, {BOTH})",
    "spectral": f"(max_singular_value, *, method='auto', rule='hard', {BOTH})",
    "adaptive": "(percentile=95.0, *, multiplier=2.0, window=1000, warmup=100, initial=10.0, "
    f"measure=None, {NORM}, {BOTH})",
    "decaying": "(initial, decay=0.999, *, every=1, floor=0.0, clip_rate=None, window=100, "
    f"{NORM}, {BOTH})",
    "moving_average": "(multiplier=2.0, *, window=100, warmup=10, initial=10.0, "
    f"measure=None, {NORM}, {BOTH})",
}
CORE = {
    "clip_by": f"(measure, threshold, rule=rescale, *, {BOTH})",
    "clip": "(updates, clipper, params=None)",
    "metrics": "(opt_state)",
}
OF_NORM = f"norm={measures.l2!r}"
ON_DEVICES = "axis_name=None, replicated=None"
MEASURES = {
    "lp": "(p)",
    "per_tree": f"({OF_NORM}, *, {ON_DEVICES})",
    "per_layer": f"({OF_NORM}, *, {ON_DEVICES})",
    "per_leaf": f"({OF_NORM}, *, {ON_DEVICES})",
    "per_group": f"(labels, {OF_NORM}, *, names=None, {ON_DEVICES})",
    "per_unit": f"({OF_NORM}, *, axis=None, {ON_DEVICES})",
    "per_element": f"({OF_NORM}, *, {ON_DEVICES})",
}
POLICIES = {
    "constant": "(threshold)",
    "scheduled": "(schedule)",
    "by_group": "(thresholds)",
    "window_percentile": "(percentile=95.0, *, multiplier=1.0, window=1000, warmup=1, initial=inf)",
    "moving_mean": "(multiplier=1.0, *, window=100, warmup=1, initial=inf)",
    "decayed": "(initial, decay=0.999, *, every=1, floor=0.0, clip_rate=None, window=100)",
}
THRESHOLDS = {"as_policy": "(name, threshold)", **POLICIES}
RULES = dict.fromkeys(("rescale", "normalize", "smooth", "skip"), "(norm, threshold)")

MODULES = {clipax: CLIPPERS | CORE, measures: MEASURES, thresholds: THRESHOLDS, rules: RULES}
SIGNATURES = [
    pytest.param(getattr(module, name), text, id=f"{module.__name__}.{name}")
    for module, table in MODULES.items()
    for name, text in table.items()
]


def defined_in(module) -> dict[str, Any]:
    """The public functions and classes that a module of parts defines."""
    return {
        name: item
        for name, item in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(item) or inspect.isclass(item))
        and item.__module__ == module.__name__
    }


def public() -> dict[str, Any]:
    names = {f"clipax.{name}": getattr(clipax, name) for name in clipax.__all__}
    for module in (measures, rules, thresholds):
        names |= {f"{module.__name__}.{k}": v for k, v in defined_in(module).items()}
    return names


PUBLIC = public()
FUNCTIONS = [pytest.param(v, id=k) for k, v in PUBLIC.items() if inspect.isfunction(v)]
CLASSES = [pytest.param(v, id=k) for k, v in PUBLIC.items() if inspect.isclass(v)]
each_function = pytest.mark.parametrize("function", FUNCTIONS)


def test_public_names_are_those_of_the_contract():
    expected = {*CLIPPERS, *CORE, "ThresholdPolicy", "measures", "rules", "thresholds"}
    assert set(clipax.__all__) == expected
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
    assert bool(needed) == (name not in ("adaptive", "moving_average"))


# Docstrings

SECTIONS = ["Parts", "State", "Args", "Returns", "Raises", "Example", "References", "Deviations"]


def sections(item) -> dict[str, str]:
    """The parts of a docstring by their headings, the text before the first as ""."""
    found = re.split(r"^(\w+):", inspect.getdoc(item) or "", flags=re.MULTILINE)
    pairs = zip(["", *found[1::2]], found[0::2], strict=True)
    return {heading: text.strip() for heading, text in pairs}


def entries(section: str) -> list[str]:
    """The names that a section `Args` or `Attributes` describes."""
    return re.findall(r"^(?: {4})?(\w+): \S", section, flags=re.MULTILINE)


@pytest.mark.parametrize("item", [pytest.param(v, id=k) for k, v in PUBLIC.items()])
def test_docstring_starts_with_one_sentence(item):
    first, *rest = (inspect.getdoc(item) or "").splitlines()
    assert re.fullmatch(r"[A-Z].*[.?]", first), first
    assert not rest or rest[0] == ""


@each_function
def test_docstring_sections_stand_in_one_order(function):
    headings = [h for h in sections(function) if h]
    assert set(headings) <= set(SECTIONS)
    # A section may start in the middle of a paragraph, as `State:` does after `Parts:`.
    assert headings == sorted(headings, key=SECTIONS.index)
    assert {"Args", "Returns", "Example"} <= set(headings)


@each_function
def test_docstring_describes_every_argument_in_order(function):
    described = entries(sections(function)["Args"])
    assert described == list(inspect.signature(function).parameters)


@pytest.mark.parametrize("item", CLASSES)
def test_docstring_of_a_class_describes_every_field(item):
    assert entries(sections(item).get("Attributes", "")) == list(item._fields)


@each_function
def test_docstring_has_a_short_doctest_with_a_result(function):
    example = sections(function)["Example"].splitlines()
    source = [line.strip() for line in example if re.match(r"\s*(>>>|\.\.\.)", line)]
    assert source and source[0].startswith(">>>")
    assert len(source) <= 6
    assert len(source) < len(example)


EQUATIONS = {clipax: CLIPPERS, thresholds: POLICIES, rules: RULES}


@pytest.mark.parametrize(
    ("item", "symbol"),
    [
        pytest.param(getattr(module, name), symbol, id=f"{module.__name__}.{name}")
        for (module, table), symbol in zip(EQUATIONS.items(), ("<-", "tau", "phi"), strict=True)
        for name in table
    ],
)
def test_docstring_has_the_equation(item, symbol):
    body = sections(item)[""].split("\n", 1)[1]
    assert any(symbol in code for code in re.findall(r"`([^`]+)`", body)), body


@pytest.mark.parametrize("name", CLIPPERS)
def test_docstring_of_a_clipper_names_parts_and_state(name):
    doc = inspect.getdoc(getattr(clipax, name)) or ""
    assert re.search(r"^Parts: per_\w+.* -> .* -> ", doc, flags=re.MULTILINE)
    assert "State: " in doc


@pytest.mark.parametrize("name", POLICIES)
def test_docstring_of_a_policy_names_its_state(name):
    assert "State" in sections(getattr(thresholds, name))


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
        "matplotlib",
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


# Wrong arguments: a message names the argument, what is accepted, and what was received.

GRADIENT: dict[str, Any] = {"a": jnp.ones(2), "b": jnp.full(3, 2.0)}
KINDS = "must be a number, a schedule .a function of the step. or a clipax.ThresholdPolicy, got "
PYTHON = r"must be a Python number \(see `static_args` of optax.inject_hyperparams\), got "


def bad(function: Callable[..., Any], error: type[Exception], message: str, *args, **kwargs):
    given = [*map(_short, args), *(f"{k}={_short(v)}" for k, v in kwargs.items())]
    name = f"{function.__name__}({', '.join(given)})"
    return pytest.param(function, args, kwargs, error, message, id=name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 20 else type(value).__name__


def no_threshold(function: Callable[..., Any], argument: str, *before: Any, after: Any = ()):
    """What no clipper takes for a threshold."""
    optimizer = optax.adam(1e-3)
    cases = [
        (ValueError, r"must be in \[0, inf\], got -1.0", -1.0),
        (ValueError, r"must be in \[0, inf\], got -2", -2),
        (ValueError, r"must be in \[0, inf\], got nan", math.nan),
        (ValueError, r"must be in \[0, inf\], got .*-1.0", np.float32(-1.0)),
        (TypeError, f"{KINDS}'1.0'", "1.0"),
        (TypeError, f"{KINDS}True", True),
        (TypeError, f"{KINDS}None", None),
        (TypeError, KINDS + r"Array\(\[1., 1.\]", jnp.ones(2)),
        (TypeError, KINDS + r"Array\(True", jnp.array(True)),
        (TypeError, KINDS + r"Array\(0.\+1.j", jnp.array(1j)),
        (TypeError, f"{KINDS}an object of type GradientTransformation", optimizer),
    ]
    if function is not clipax.value:  # there a list is a pair
        cases.append((TypeError, KINDS + r"\[1.0, 2.0\]", [1.0, 2.0]))
    if function is not clipax.per_group:  # there a dict is one threshold a label
        cases.append((TypeError, f"{KINDS}an object of type dict", GRADIENT))
    return [
        bad(function, error, f"`{argument}` {message}", *before, value, *after)
        for error, message, value in cases
    ]


def no_number(function: Callable[..., Any], argument: str, accepted: str, *values, before=()):
    """Python numbers out of range, and what is no number at all."""
    out_of_range = [
        (ValueError, f"must be in {re.escape(accepted)}, got {re.escape(repr(v))}", v)
        for v in (*values, math.nan)
    ]
    no_number_at_all = [
        (TypeError, "must be a .*number.*, got '1'", "1"),
        (TypeError, "must be a .*number.*, got True", True),
        (TypeError, "must be a .*number.*, got an object of type dict", GRADIENT),
    ]
    return [
        bad(function, error, f"`{argument}` {message}", *before, **{argument: value})
        for error, message, value in out_of_range + no_number_at_all
    ]


def no_count(function: Callable[..., Any], argument: str, before=()):
    cases = [
        (ValueError, "at least 1, got 0", 0),
        (ValueError, "at least 1, got -3", -3),
        (TypeError, "a Python integer, got 2.5", 2.5),
        (TypeError, "a Python integer, got '10'", "10"),
        (TypeError, "a Python integer, got True", True),
        (TypeError, "a Python integer, got Array", jnp.array(3)),
    ]
    return [
        bad(function, error, f"`{argument}` must be {message}", *before, **{argument: value})
        for error, message, value in cases
    ]


def no_order(function: Callable[..., Any], *before):
    return [
        *no_number(function, "ord", "(0, inf]", 0, -1.0, before=before),
        bad(function, TypeError, f"`ord` {PYTHON}'2'", *before, ord="2"),
        bad(function, TypeError, f"`ord` {PYTHON}Array", *before, ord=jnp.array(2.0)),
    ]


def no_measure(function: Callable[..., Any]):
    per_leaf = measures.per_leaf()
    kind = "`measure` must be a clipax Measure.*, got "
    return [
        bad(function, TypeError, f"{kind}'tree'", measure="tree"),
        bad(function, TypeError, f"{kind}.*per_leaf", measure=measures.per_leaf),
        bad(function, TypeError, f"{kind}Norm", measure=measures.l2),
        bad(function, TypeError, kind, measure=optax.adam(1e-3)),
        bad(function, ValueError, "`ord` belongs to the measure, got 1", measure=per_leaf, ord=1),
        bad(
            function,
            ValueError,
            "`axis_name` belongs to the measure, got 'data'",
            measure=per_leaf,
            axis_name="data",
        ),
    ]


def no_option(function: Callable[..., Any], *before):
    accepted = r"`nonfinite` must be one of \('propagate', 'zero', 'sanitize'\), got "
    return [
        bad(function, ValueError, f"{accepted}'ignore'", *before, nonfinite="ignore"),
        bad(function, ValueError, f"{accepted}None", *before, nonfinite=None),
        bad(function, ValueError, "`name` must not be empty, got ''", *before, name=""),
        bad(function, TypeError, "`name` must be a string or None, got 3", *before, name=3),
    ]


def no_pair():
    value = clipax.value
    policy = thresholds.moving_mean()
    side = r"`limit\[{}\]` must be in {}, got {}"
    return [
        bad(value, ValueError, side.format(0, r"\[-inf, 0\]", "1"), (1, 2)),
        bad(value, ValueError, side.format(1, r"\[0, inf\]", "-2"), (-1, -2)),
        bad(value, ValueError, side.format(0, r"\[-inf, 0\]", "nan"), (math.nan, 1.0)),
        bad(value, ValueError, side.format(1, r"\[0, inf\]", "nan"), (-1.0, math.nan)),
        bad(value, ValueError, side.format(0, r"\[-inf, 0\]", "1.0"), [1.0, 2.0]),
        bad(value, ValueError, r"`limit` must be .* a pair.*, got \(-1, 0, 1\)", (-1, 0, 1)),
        bad(value, ValueError, r"`limit` must be .* a pair.*, got \(\)", ()),
        bad(value, TypeError, r"`limit\[0\]` must be a number.*, got 'a'", ("a", 1)),
        bad(value, TypeError, r"`limit\[1\]` must be a number, .*, got \{'a': 1\}", (-1, {"a": 1})),
        bad(value, TypeError, "`limit` .*policies.* pair.*, got ", (policy, policy)),
        bad(value, TypeError, "`limit` .*policies.* pair.*, got ", (-1.0, policy)),
        bad(value, TypeError, r"`limit\[1\]` .*, got an object", (-1.0, optax.adam(1e-3))),
    ]


def no_labels():
    per_group = clipax.per_group
    entry = r"`max_norm\['a'\]` must be "
    return [
        bad(per_group, ValueError, entry + r"in \[0, inf\], got -1", {"a": -1}, GRADIENT),
        bad(per_group, TypeError, entry + "a number, a schedule .*, got 'x'", {"a": "x"}, GRADIENT),
        bad(per_group, TypeError, entry + "a number, .*, got an obj", {"a": optax.adam(1)}, "x"),
        bad(per_group, ValueError, r"`max_norm` must .*, got \{\}", {}, "x"),
    ]


def no_average(function: Callable[..., Any], initial: str, *values: float):
    """What the policies with a window share with their clippers."""
    return [
        *no_number(function, "multiplier", "(0, inf]", 0, -1.0),
        *no_count(function, "window"),
        *no_number(function, "warmup", "[0, inf]", -1),
        *no_number(function, "initial", initial, -1.0, *values),
        bad(
            function,
            TypeError,
            "`multiplier` .* a number.*, got <func",
            multiplier=lambda step: 2.0,
        ),
    ]


def no_percentile(function: Callable[..., Any]):
    return [
        *no_number(function, "percentile", "[0, 100]", 950, -1, 100.5),
        bad(function, TypeError, f"`percentile` {PYTHON}Array", jnp.array(95.0)),
        bad(function, TypeError, f"`percentile` {PYTHON}'95'", "95"),
    ]


def no_decay(function: Callable[..., Any]):
    return [
        *no_number(function, "initial", "[0, 3.40282e+38]", -1.0, math.inf),
        bad(function, TypeError, "`initial` must be a number, got Array", jnp.ones(2)),
        *no_number(function, "decay", "(0, 1]", 0, 1.5, -0.5, before=(1.0,)),
        *no_count(function, "every", before=(1.0,)),
        *no_number(function, "floor", "[0, inf]", -1.0, before=(1.0,)),
        *no_number(function, "clip_rate", "[0, 1]", 2, -0.1, before=(1.0,)),
        *no_count(function, "window", before=(1.0,)),
    ]


def no_norm(function: Callable[..., Any], *before):
    kinds = "`norm` must be one of l1, l2, linf, rms and lp.p., got "
    return [
        bad(function, TypeError, f"{kinds}'l2'", *before, "l2"),
        bad(function, TypeError, f"{kinds}2", *before, 2),
        bad(function, TypeError, f"{kinds}.*lp", *before, measures.lp),
    ]


tree = measures.per_tree()
BAD = [
    *no_threshold(clipax.global_norm, "max_norm"),
    *no_threshold(clipax.per_layer, "max_norm"),
    *no_threshold(clipax.per_leaf, "max_norm"),
    *no_threshold(clipax.per_group, "max_norm", after=("x",)),
    *no_threshold(clipax.value, "limit"),
    *no_threshold(clipax.spectral, "max_singular_value"),
    *no_threshold(clipax.clip_by, "threshold", tree),
    *no_order(clipax.global_norm, 1.0),
    *no_order(clipax.per_layer, 1.0),
    *no_order(clipax.per_leaf, 1.0),
    *no_order(clipax.per_group, 1.0, "x"),
    *no_order(clipax.adaptive),
    *no_order(clipax.decaying, 1.0),
    *no_order(clipax.moving_average),
    *no_option(clipax.global_norm, 1.0),
    *no_option(clipax.per_layer, 1.0),
    *no_option(clipax.per_leaf, 1.0),
    *no_option(clipax.per_group, 1.0, "x"),
    *no_option(clipax.value, 1.0),
    *no_option(clipax.spectral, 1.0),
    *no_option(clipax.adaptive),
    *no_option(clipax.decaying, 1.0),
    *no_option(clipax.moving_average),
    *no_option(clipax.clip_by, tree, 1.0),
    *no_pair(),
    *no_labels(),
    *no_percentile(clipax.adaptive),
    *no_percentile(thresholds.window_percentile),
    *no_average(clipax.adaptive, "[0, inf]"),
    *no_average(thresholds.window_percentile, "[0, inf]"),
    *no_average(clipax.moving_average, "(0, inf]", 0),  # at 0 it would stay there
    *no_average(thresholds.moving_mean, "(0, inf]", 0),  # at 0 it would stay there
    *no_decay(clipax.decaying),
    *no_decay(thresholds.decayed),
    *no_measure(clipax.adaptive),
    *no_measure(clipax.moving_average),
    bad(clipax.spectral, ValueError, "`method` must be one of .*, got 'qr'", 1.0, method="qr"),
    bad(clipax.spectral, ValueError, "`rule` must be one of .*, got 'firm'", 1.0, rule="firm"),
    bad(clipax.clip_by, TypeError, "`measure` must be a clipax Measure.*, got 1.0", 1.0, tree),
    bad(clipax.clip_by, TypeError, "`measure` .*, got .*per_tree", measures.per_tree, 1.0),
    bad(clipax.clip_by, TypeError, "`rule` must be a function, got 'skip'", tree, 1.0, "skip"),
    bad(clipax.clip_by, TypeError, "`rule` must be a function, got 0.5", tree, 1.0, 0.5),
    bad(clipax.clip_by, TypeError, "`rule` must be a function, got ", tree, 1.0, optax.adam(1e-3)),
    bad(thresholds.constant, ValueError, r"`threshold` must be in \[0, inf\], got -1", -1),
    bad(thresholds.constant, TypeError, "`threshold` must be a number, got 'a'", "a"),
    bad(thresholds.scheduled, TypeError, "`schedule` must be a function, got 3", 3),
    bad(thresholds.by_group, ValueError, r"`thresholds\[1\]` must .* got -1.0", [1.0, -1.0]),
    bad(thresholds.by_group, TypeError, r"`thresholds\[0\]` must be .* got 'a'", ["a"]),
    bad(thresholds.by_group, TypeError, "`thresholds` must be .*, got 3", 3),
    *no_threshold(thresholds.as_policy, "limit", "limit"),
    *[bad(measures.lp, ValueError, f"`p` must be .* got {p}", p) for p in (0, -1, math.nan)],
    *[bad(measures.lp, TypeError, f"`p` must be .* got {p!r}", p) for p in ("2", True, None)],
    *no_norm(measures.per_tree),
    *no_norm(measures.per_layer),
    *no_norm(measures.per_leaf),
    *no_norm(measures.per_group, "x"),
    *no_norm(measures.per_unit),
    bad(measures.per_unit, TypeError, "`axis` must be .*, got 'a'", axis="a"),
    bad(measures.per_unit, TypeError, "`axis` must be .*, got 1.5", axis=1.5),
    bad(clipax.clip, TypeError, "`clipper` must be a clipper .*, got 1.0", GRADIENT, 1.0),
    bad(clipax.clip, TypeError, "`clipper` .* got .*global_norm", GRADIENT, clipax.global_norm),
    bad(clipax.clip, TypeError, "`clipper` .* got an", clipax.global_norm(1.0), GRADIENT),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "error", "message"), BAD)
def test_wrong_argument_is_refused_when_built(function, args, kwargs, error, message):
    with pytest.raises(error, match=message) as caught:
        function(*args, **kwargs)
    assert type(caught.value) is error


@pytest.mark.parametrize("function", list(dict.fromkeys(row.values[0] for row in BAD)))
def test_docstring_names_the_errors(function):
    told = sections(function).get("Raises", "")
    errors: list[Any] = [row.values[3] for row in BAD if row.values[0] is function]
    raised = {error.__name__ for error in errors}
    assert {name for name in raised if f"{name}: " in told} == raised


def test_traced_percentile_is_refused():
    """As a schedule in `optax.inject_hyperparams` would give it."""

    def clipped(percentile):
        return clipax.clip(GRADIENT, clipax.adaptive(percentile))[0]

    with pytest.raises(TypeError, match=f"`percentile` {PYTHON}.*Trace"):
        jax.jit(clipped)(95.0)


# Errors that only show when a clipper meets a gradient.

MEAN = thresholds.moving_mean()
PREFIX = (
    "`labels` must be a prefix of the gradient's tree or a function of the path of a leaf, got "
)
COUNT = r"`thresholds` must have one entry a group, got 1 for \(2,\)"


@pytest.mark.parametrize(
    ("clipper", "message"),
    [
        pytest.param(clipper, message, id=name)
        for name, clipper, message in [
            ("unknown", clipax.per_group({"x": 1.0}, lambda path: "y"), "`labels` gave 'y'; .*'x'"),
            ("unknown-tree", clipax.per_group({"x": 1.0}, {"a": "x", "b": "z"}), "gave 'z'; .*'x'"),
            ("no-prefix", clipax.per_group(1.0, {"a": "x"}), PREFIX + ".*'a'"),
            ("too-many", clipax.per_group(1.0, {"a": 1, "b": 1, "c": 1}), PREFIX + ".*'c'"),
            ("labels-None", clipax.per_group(1.0, None), PREFIX + ".*None"),
            ("replicated", clipax.clip_by(measures.per_tree(replicated={"c": True}), 1.0), "`repl"),
            ("unbound", clipax.global_norm(1.0, axis_name="data"), "`axis_name` must .*'data'"),
            ("unit-axis", clipax.clip_by(measures.per_unit(axis=5), 1.0), "`axis` must .* got 5"),
            ("count", clipax.clip_by(measures.per_leaf(), thresholds.by_group([1.0])), COUNT),
            ("pair-complex", clipax.value((-1.0, 1.0)), "`limit` must be .*complex.*got"),
        ]
    ],
)
def test_wrong_argument_is_refused_when_used(clipper, message):
    gradient = GRADIENT | {"b": jnp.ones((2, 3))}
    if "complex" in message:
        gradient = {"a": jnp.ones(2, jnp.complex64)}
    with pytest.raises(ValueError, match=message):
        clipax.clip(gradient, clipper)


@pytest.mark.parametrize("label", [None, ["x"]], ids=repr)
@pytest.mark.parametrize("max_norm", [1.0, {"x": 1.0}], ids=repr)
def test_label_that_is_no_label_is_refused(label, max_norm):
    clipper = clipax.per_group(max_norm, lambda path: label)
    with pytest.raises(TypeError, match=f"`labels` must .*, got {re.escape(repr(label))}"):
        clipax.clip(GRADIENT, clipper)


@pytest.mark.parametrize("other", [{"a": jnp.ones(2)}, {}, {**GRADIENT, "c": jnp.ones(1)}], ids=len)
@pytest.mark.parametrize(
    "clipper",
    [
        pytest.param(clipax.moving_average(measure=measures.per_leaf()), id="moving_average"),
        pytest.param(clipax.adaptive(measure=measures.per_leaf(), window=5), id="adaptive"),
        pytest.param(clipax.value(MEAN), id="value"),
        pytest.param(clipax.clip_by(measures.per_unit(), MEAN), id="per_unit"),
        pytest.param(clipax.clip_by(measures.per_element(), MEAN), id="per_element"),
    ],
)
def test_gradient_of_another_tree_than_at_init_is_refused(clipper, other):
    state = clipper.init(GRADIENT)
    with pytest.raises(ValueError, match=r"the gradient must have the structure .* `init`, got "):
        clipper.update(other, state)


def test_gradient_of_another_shape_than_at_init_is_refused():
    clipper = clipax.value(MEAN)
    state = clipper.init(GRADIENT)
    with pytest.raises(ValueError, match=r"the gradient .* `init`, got .*\(4,\)"):
        clipper.update(GRADIENT | {"b": jnp.ones(4)}, state)


@pytest.mark.parametrize("name", [None, "encoder"])
def test_missing_params_are_told(name):
    def update(norm, state, *, step, param_norm, **extra_args):
        return 0.01 * param_norm(), state

    policy = clipax.ThresholdPolicy(lambda norm: (), update)
    clipper = clipax.clip_by(measures.per_leaf(), policy, name=name)
    with pytest.raises(ValueError, match=r"the parameters: call `update\(updates, state, params\)"):
        clipper.update(GRADIENT, clipper.init(GRADIENT))


# What looks unusual and is right.


@pytest.mark.parametrize(
    "limit",
    [
        0,
        0.5,
        math.inf,
        np.float64(0.5),
        np.int32(1),
        np.float32(0.5),
        np.array(0.5),
        jnp.array(0.5),
        jnp.array(1),
        lambda step: 0.5,
        thresholds.constant(0.5),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("clipper", [clipax.global_norm, clipax.value, clipax.per_leaf])
def test_every_kind_of_threshold_is_accepted(clipper, limit):
    clipped, _ = clipax.clip(GRADIENT, clipper(limit))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clipped))


@pytest.mark.parametrize("order", [3, 3.0, np.int64(3), np.float32(3), np.float64(3)], ids=repr)
def test_every_kind_of_order_is_accepted(order):
    _, metrics = clipax.clip(GRADIENT, clipax.global_norm(1.0, ord=order))
    np.testing.assert_allclose(metrics["norm"], (2 + 3 * 8) ** (1 / 3), rtol=1e-6)
    assert measures.lp(order) == measures.lp(3)


@pytest.mark.parametrize(
    "pair",
    [(-1.0, 2.0), [-1, 2], (0, 0), (-math.inf, 1.0), (-1.0, lambda step: 2.0)],
    ids=["tuple", "list", "zeros", "one-sided", "schedule"],
)
def test_every_kind_of_pair_is_accepted(pair):
    clipped: Any = clipax.clip(GRADIENT, clipax.value(pair))[0]
    low, high = (side(0) if callable(side) else side for side in pair)
    np.testing.assert_array_equal(clipped["b"], np.clip(GRADIENT["b"], low, high))
