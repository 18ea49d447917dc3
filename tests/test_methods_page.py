"""What docs/methods.md says: its rows are complete, its expressions and numbers right."""

import functools
import inspect
import math
import pathlib
import re
import sys
import types
from typing import Any

import catalogue
import chex
import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest
import reference
import test_laws_nonfinite
import test_laws_norms
import test_laws_state

import clipax
from clipax import measures, rules, thresholds

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs/methods.md").read_text()
README = (ROOT / "README.md").read_text()
BLOCKS = [
    inspect.cleandoc("\n" + code)
    for code in re.findall(r"^ *```python\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)
]


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page, each with its head as the first row."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    split = [[re.split(r" *\| *", row.strip("| ")) for row in t.splitlines()] for t in found]
    return [[rows[0], *rows[2:]] for rows in split]


def rows_under(head: str, text: str = TEXT) -> list[list[str]]:
    return [row for rows in tables(text) if rows[0][0] == head for row in rows[1:]]


# What the expressions use.

GIVEN: dict[str, Any] = {
    "max_norm": 0.5,
    "limit": 0.5,
    "initial": 0.5,
    "max_singular_value": 0.5,
    "labels": {"dense": "x", "scalar": "y"},
    "inner": optax.sgd(0.1),
    "schedule": lambda step: 1 / (1 + step),
    "phi": lambda step: 0.3 / jnp.sqrt(1.0 + step),
    "eps": lambda step: 0.2 * (1.0 + step) ** 0.6,
    "steps_per_epoch": 10,
    "k": 3,
}
NAMES: dict[str, Any] = {}
exec(BLOCKS[0], NAMES)
NAMES |= GIVEN


def build(expression: str, **names: Any) -> Any:
    return eval(expression, NAMES | names)


def call_of(cell: str) -> str:
    """The first code span of a cell."""
    return re.findall(r"`([^`]+)`", cell)[0]


CLIPPER_ROWS = {call_of(row[0]): row for row in rows_under("clipper")}
EXACT = {call: row for call, row in CLIPPER_ROWS.items() if row[2].startswith("`clip_by")}
ROUNDED = {call: row for call, row in CLIPPER_ROWS.items() if row[2].startswith("≈")}
OWN = {call: row for call, row in CLIPPER_ROWS.items() if row[2].startswith("its own")}
METHOD_ROWS = {row[0]: call_of(row[1]) for row in rows_under("method")}


def like(scale: float, seed: int = 0) -> dict[str, Any]:
    """A gradient of three leaves."""
    rng = np.random.default_rng(seed)
    shapes = {"dense": {"kernel": (3, 2), "bias": (2,)}, "scalar": ()}
    return jax.tree.map(
        lambda shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


STEPS = 130


def series(*, zeros: bool = True) -> Any:
    """Stacked gradients: small ones, spikes, one explosion, zeros."""
    rng = np.random.default_rng(1)
    sizes = 0.1 * np.exp(0.5 * rng.standard_t(3, size=STEPS))
    sizes[10::17] *= 30
    sizes[57] = 5000
    if zeros:
        sizes[[5, 90]] = 0
    trees = [like(float(size), i) for i, size in enumerate(sizes)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


PARAMS = like(3.0, 99)


QUICK: Any = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def run(clipper: Any, gradients: Any) -> tuple[Any, Any]:
    """The updates of all steps, and what can be read of the clipper at each."""

    def step(state, gradient):
        updates, state = clipper.update(gradient, state, PARAMS)
        return state, (updates, clipax.metrics(state))

    return jax.lax.scan(step, clipper.init(PARAMS), gradients)[1]


# The tables are complete.


def test_every_clipper_has_a_row():
    named = re.findall(r"`clipax\.(\w+)\(", " ".join(r[0] for r in rows_under("clipper")))
    wrappers = re.findall(r"`clipax\.(\w+)\(", " ".join(r[0] for r in rows_under("wrapper")))
    other = {"ThresholdPolicy", "clip", "clip_by", "measures", "metrics", "rules", "thresholds"}
    assert set(named) | set(wrappers) == set(clipax.__all__) - other
    assert EXACT.keys() | ROUNDED.keys() | OWN.keys() == CLIPPER_ROWS.keys()


def test_every_policy_has_a_row():
    named = [row[0].strip("`").split("(")[0] for row in rows_under("policy")]
    functions = [n for n in thresholds.__all__ if inspect.isfunction(getattr(thresholds, n))]
    assert sorted(named) == sorted(set(functions) - {"as_policy"})


def test_every_rule_has_a_row():
    named = [row[0].strip("`").split("(")[0] for row in rows_under("rule")]
    public = {
        name
        for name, item in vars(rules).items()
        if inspect.isfunction(item)
        and not name.startswith("_")
        and item.__module__ == rules.__name__
    }
    assert {*named} == {*public, "rescale"} and len(named) == len(public | {"rescale"})


def test_every_measure_is_named():
    for name in (n for n in vars(measures) if n.startswith("per_")):
        assert f"`{name}`" in TEXT.split("## The clippers")[0]


# The expressions give the same.


def program(clipper: Any) -> str:
    """What is compiled for one update: the same program gives the same bits for every gradient."""
    gradient = like(1.0)
    return jax.jit(clipper.update).lower(gradient, clipper.init(PARAMS), PARAMS).as_text()


@pytest.mark.parametrize("call", EXACT)
def test_parts_give_the_same_bits(call):
    named, parts = build(call), build(call_of(EXACT[call][2]))
    laws.assert_same_bits(named.init(PARAMS), parts.init(PARAMS))
    assert program(named) == program(parts)


@pytest.mark.parametrize("call", ["clipax.zclip()", "clipax.median()", "clipax.spam()"])
def test_parts_give_the_same_bits_over_many_steps(call):
    clippers = build(call), build(call_of(EXACT[call][2]))
    (updates, told), (expected, expected_told) = (
        jax.jit(functools.partial(run, clipper), compiler_options=QUICK)(series())
        for clipper in clippers
    )
    laws.assert_same_bits(updates, expected)
    laws.assert_same_bits(told, expected_told)
    late = jax.tree.map(lambda x, y: jnp.any(x[45:] != y[45:]), updates, series())
    assert any(map(bool, jax.tree.leaves(late))), "nothing was clipped"


@pytest.mark.parametrize("call", ROUNDED)
def test_parts_give_the_same_up_to_rounding(call):
    gradients = series(zeros=False)
    clippers = build(call), build(call_of(CLIPPER_ROWS[call][2]))
    updates, expected = jax.jit(lambda g: [run(c, g)[0] for c in clippers], compiler_options=QUICK)(
        gradients
    )
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)
    changed = jax.tree.map(lambda x, y: jnp.any(x[-20:] != y[-20:]), updates, gradients)
    assert any(map(bool, jax.tree.leaves(changed)))


def test_clippers_of_their_own_are_few():
    assert {call.split("(")[0] for call in OWN} <= {
        "clipax.clippy",
        "clipax.stable_spam",
        "clipax.spectral",
    }


# The sizes of the states.


def size_of(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def told_size(cell: str, groups: int) -> int:
    """The bytes that a cell such as `28 + 8 k` gives for k groups."""
    terms = cell.replace(",", "").split(" + ")
    return sum(int(n.removesuffix(" k")) * (groups if n.endswith(" k") else 1) for n in terms)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("call", CLIPPER_ROWS)
def test_size_of_the_state_is_what_init_makes(call, groups):
    row = CLIPPER_ROWS[call]
    leaves = [jnp.zeros(()) for _ in range(groups)]  # groups of every kind but the tree and layers
    by_leaf = dict.fromkeys(("per_tree", "per_layer"), measures.per_leaf)
    expression = call_of(row[2]) if call in EXACT else call
    labels = dict(enumerate("abc"[:groups]))
    state = build(expression, **by_leaf, labels=[labels[i] for i in range(groups)]).init(leaves)
    assert size_of(state) == told_size(row[3], groups)


@pytest.mark.parametrize("row", rows_under("policy"), ids=lambda row: row[0].strip("`"))
def test_size_of_the_state_of_a_policy_is_what_init_makes(row):
    if "other" in row[2] or "each" in row[2]:
        assert size_of(build(call_of(row[0])).init(jnp.zeros(3))) == 0
        return
    for groups in (1, 3):
        state = build(call_of(row[0])).init(jnp.zeros(groups))
        assert size_of(state) == told_size(row[2], groups)


def test_wrapper_adds_four_bytes():
    ((call, _, told, _),) = rows_under("wrapper")
    params = like(1.0)
    inner = optax.adam(0.1)
    size = size_of(build(call_of(call), inner=inner).init(params))
    assert size - size_of(inner.init(params)) == 4
    assert told == "that of `inner` and 4"


# The rules.

NUMBERS = {"gamma": 0.4, "r": 0.3, "floor": 0.05}


@pytest.mark.parametrize("row", rows_under("rule"), ids=lambda row: row[0].strip("`"))
def test_rule_is_its_formula(row):
    rule = eval(row[0].strip("`"), dict(vars(rules)), dict(NUMBERS))
    formula = call_of(row[1])
    for n, tau in ((0.02, 1.3), (0.9, 1.3), (4.0, 1.3), (60.0, 0.5)):
        expected = eval(formula, dict(vars(math)) | {"n": n, "tau": tau} | NUMBERS)
        assert float(rule(jnp.float32(n), jnp.float32(tau))) == pytest.approx(expected, rel=1e-5)
    for n, tau, expected in ((2.0, math.inf, 1), (0.0, 2.0, 1), (2.0, 0.0, 0)):
        if row[0] == "`at_least(floor)`" and tau == 0:
            expected = NUMBERS["floor"]
        assert float(rule(jnp.float32(n), jnp.float32(tau))) == pytest.approx(expected)


# Methods without a name.


def stack(function, gradients: Any) -> Any:
    """A function of one gradient and its step, for all of them, in float64 numpy."""
    steps = [
        jax.tree.map(lambda x, t=t: np.asarray(x[t], np.float64), gradients) for t in range(30)
    ]
    done = [function(gradient, t) for t, gradient in enumerate(steps)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *done)


def scaled_down(tree, tau, norm=None):
    n = math.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(tree))) if norm is None else norm
    return jax.tree.map(lambda x: x * min(1.0, tau / n) if n else x, tree)


def each(function):
    return lambda tree, step: jax.tree.map(lambda x: function(x, step), tree)


def rms(*arrays) -> float:
    return math.sqrt(np.mean(np.concatenate([np.ravel(x) for x in arrays]) ** 2))


def trust_region(y, step):
    x = y / 1.5
    return np.clip(1.5 * (0.1 * np.sign(x) * np.log1p(np.abs(x)) + 0.9 * np.tanh(x)), -2, 2)


def sclip(y, step):
    return GIVEN["phi"](step) * y / np.sqrt(y**2 + float(GIVEN["eps"](step)))


def weighted(tree, step):
    n = math.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: 0.5 * x / (n + 0.1 / (n + 0.1)), tree)


def unit(tree, step):
    n = math.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: x / n if n else x, tree)


DEFINITIONS = {
    "HeavyBall, trust region": each(trust_region),
    "HeavyBall, l2, per tensor": each(lambda x, step: scaled_down(x, 1.0)),
    "HeavyBall, rms, per tensor": each(lambda x, step: scaled_down(x, 1.0, rms(x))),
    "HeavyBall, l2, global": lambda tree, step: scaled_down(tree, 1.0),
    "HeavyBall, rms, global": lambda tree, step: scaled_down(
        tree, 1.0, rms(*jax.tree.leaves(tree))
    ),
    "HeavyBall, adaptive gradient clipping": lambda tree, step: jax.tree.map(
        lambda x, w: scaled_down(x, 0.01 * max(float(np.linalg.norm(w)), 1e-3)), tree, PARAMS
    ),
    "HeavyBall, softsign": each(lambda x, step: 2 * x / (1 + np.abs(x))),
    "SClip, [Yu et al. 2023][yu2023]": each(sclip),
    "AUTO-V, [Bu et al. 2023][bu2023]": unit,
    "DP-PSAC, [Xia et al. 2023][xia2023]": weighted,
    "Opacus, `ExponentialGradClip`": lambda tree, step: scaled_down(
        tree, 0.5 * 0.9 ** (step // 10)
    ),
    "Opacus, `StepGradClip`": lambda tree, step: scaled_down(tree, 0.5 * 0.9 ** (step // 10 // 3)),
    "Opacus, `LambdaGradClip`": lambda tree, step: scaled_down(tree, 0.5 / (1 + step // 10)),
    "OLMo, warm-up of the global threshold": lambda tree, step: scaled_down(tree, 10.0),
}


@functools.cache
def applied() -> dict[str, Any]:
    """What the expressions of all methods do, compiled together."""
    built = {method: build(expression) for method, expression in METHOD_ROWS.items()}
    gradients = jax.tree.map(lambda x: x[:30], series())
    done = jax.jit(
        lambda g: [run(clipper, g)[0] for clipper in built.values()], compiler_options=QUICK
    )(gradients)
    return dict(zip(built, done, strict=True))


@pytest.mark.parametrize("method", DEFINITIONS)
def test_method_without_a_name_is_its_definition(method):
    expected = stack(DEFINITIONS[method], series())
    chex.assert_trees_all_close(applied()[method], expected, rtol=2e-5, atol=1e-7)


def test_adafactor_clips_as_optax_does():
    (method,) = (m for m in METHOD_ROWS if "Adafactor" in m)
    gradients = jax.tree.map(lambda x: x[:30], series())
    theirs = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    expected = jax.jit(lambda g: run(theirs, g)[0])(gradients)
    chex.assert_trees_all_close(applied()[method], expected, rtol=1e-5)


def test_all_methods_without_a_name_leave_no_nan():
    for updates in applied().values():
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))


def test_update_clipping_behind_adam_is_stable_adamw_without_momentum():
    rng = np.random.default_rng(4)
    gradients = np.float32(rng.normal(size=(30, 4)) * np.exp(rng.standard_t(3, size=(30, 1))))

    def ours(b1):
        optimizer = optax.chain(optax.scale_by_adam(b1=b1), clipax.block_rms(1.0))
        step = jax.jit(optimizer.update)
        state, out = optimizer.init(jnp.zeros(4)), []
        for gradient in gradients:
            update, state = step(jnp.asarray(gradient), state)
            out.append(np.asarray(update))
        return np.stack(out)

    def theirs(b1, b2=0.999, eps=1e-8):
        m, v, out = np.zeros(4), np.zeros(4), []
        for t, g in enumerate(gradients.astype(np.float64), 1):
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            second = v / (1 - b2**t)
            share = math.sqrt(np.mean(g**2 / np.maximum(second, eps**2)))
            out.append(m / (1 - b1**t) / (np.sqrt(second) + eps) / max(1.0, share))
        return np.stack(out)

    np.testing.assert_allclose(ours(0.0), theirs(0.0), rtol=1e-4)
    assert np.abs(ours(0.9) - theirs(0.9)).max() > 0.1


def test_nearest_chain_to_acclip_is_another_method():
    (expression,) = re.findall(r"`(chain\(optax\.ema[^`]+)`", TEXT)
    gradients = np.float32(np.random.default_rng(5).standard_t(2, size=(20, 3)))
    chain = build(expression)
    state, momentum, tau = chain.init(jnp.zeros(3)), np.zeros(3), np.zeros(3)
    for gradient in gradients:
        update, state = chain.update(jnp.asarray(gradient), state)
        momentum = 0.9 * momentum + 0.1 * gradient
        tau = 0.99 * tau + 0.01 * np.abs(gradient)
    acclip = np.minimum(tau / np.abs(momentum), 1) * momentum
    assert np.isfinite(update).all() and not np.allclose(update, acclip, rtol=0.1)


def test_gradients_of_examples_are_weighted_one_by_one():
    (code,) = [code for code in BLOCKS if "per_example" in code]
    names: dict[str, Any] = {}
    exec(code, names)
    norms = np.array([5.0, 0.05])
    expected = norms / (norms + 0.1 / (norms + 0.1))
    np.testing.assert_allclose(np.linalg.norm(names["clipped"]["w"], axis=1), expected, rtol=1e-5)


# Which one should I take?


def section(heading: str, text: str = TEXT) -> str:
    return re.split(r"^## ", text.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]


def test_list_of_decisions_is_short_and_its_clippers_exist():
    items = re.findall(r"^\d+\. .*$", section("Which one should I take?"), re.MULTILINE)
    assert 0 < len(items) <= 12
    for item in items:
        for name in re.findall(r"`(\w+)", item):
            assert hasattr(clipax, name) or name in NAMES, name


def test_what_is_said_of_the_chorales_stands_in_the_readme():
    (row,) = [row for row in rows_under("who") if row[0] == "this project"]
    told = section("What it does to training", README)
    numbers = re.findall(r"\d+\.\d+", row[2])
    assert len(numbers) == 5 and set(numbers) <= set(re.findall(r"\d+\.\d+", told))
    assert "three seeds" in row[1] and "three seeds" in told
    assert "not tuned" in told and "Adaptive thresholds followed explosions too" in told


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
    steps = re.findall(r"^\*\*(\d)\. ", section("Adding a method"), re.MULTILINE)
    assert steps == list("12345")
    for path in re.findall(r"`((?:tests|clipax)/[\w/.]*)`", section("Adding a method")):
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
    test_laws_norms.test_norm_never_exceeds_a_moving_threshold,
    test_laws_norms.test_dtypes_shapes_and_weak_types_are_kept,
    test_laws_state.test_state_keeps_structure_shapes_and_dtypes,
    test_laws_state.test_resumed_equals_uninterrupted_to_the_bit,
    test_laws_nonfinite.test_clipping_comes_back_to_life_after_zeros,
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_added_method_keeps_the_law(law):
    law(added_row())


def test_added_method_ignores_what_is_not_finite():
    test_laws_nonfinite.test_nonfinite_step_leaves_the_state_as_if_it_had_not_been(
        added_row(), "zero", 3
    )


# The links.


def test_links_are_defined_once_and_used():
    prose = re.sub(r"^ *```.*?^ *```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    defined = re.findall(r"^\[([^\]]+)\]: \S+", prose, re.MULTILINE)
    used = re.findall(r"\]\[([^\]]+)\]", prose)
    assert len(defined) == len(set(defined)) and set(used) == set(defined)
    assert defined == sorted(defined)


def test_other_links_are_to_files_and_headings():
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = link.partition("#")
        assert "://" not in link
        assert (ROOT / "docs" / path).exists() if path else anchor in anchors, link


def test_years_are_those_of_the_references():
    for text, key in re.findall(r"\[([^\]]+)\]\[([^\]]+)\]", TEXT):
        year = re.findall(r"\d{4}", key)
        assert not year or text.endswith(year[0]), key
    for key, title in re.findall(r'^\[(\w+)\]: \S+ "(.+)"$', TEXT, re.MULTILINE):
        year = re.findall(r"\d{4}", key)
        assert not year or year[0] in title, key
