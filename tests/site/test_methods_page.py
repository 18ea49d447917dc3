"""What the pages on methods say: rows are complete, expressions and numbers right."""

import collections
import functools
import inspect
import math
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from methods_page import (
    CLIPPER_ROWS,
    EXACT,
    OWN,
    PAGES,
    PARAMS,
    QUICK,
    ROUNDED,
    TEXT,
    build,
    call_of,
    like,
    rows_under,
    run,
    series,
)
from pages import LEADERBOARD, standings
from updates import assert_same_bits

import clipax
from clipax import measures, rules, thresholds

# The tables are complete.


def test_every_clipper_has_a_row():
    named = re.findall(r"`clipax\.(\w+)\(", " ".join(r[0] for r in rows_under("clipper")))
    others = rows_under("wrapper") + rows_under("function")
    wrappers = re.findall(r"`clipax\.(\w+)\(", " ".join(r[0] for r in others))
    other = {"ThresholdPolicy", "clip", "clip_by", "measures", "metrics", "rules", "thresholds"}
    other |= {"Suggestion", "suggest_threshold"}
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
    assert_same_bits(named.init(PARAMS), parts.init(PARAMS))
    assert program(named) == program(parts)


@pytest.mark.exhaustive
@pytest.mark.parametrize("call", ["clipax.zclip()", "clipax.median()", "clipax.spam()"])
def test_parts_give_the_same_bits_over_many_steps(call):
    clippers = build(call), build(call_of(EXACT[call][2]))
    (updates, told), (expected, expected_told) = (
        jax.jit(functools.partial(run, clipper), compiler_options=QUICK)(series())
        for clipper in clippers
    )
    assert_same_bits(updates, expected)
    assert_same_bits(told, expected_told)
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


@pytest.mark.parametrize("row", rows_under("wrapper"), ids=lambda row: row[0].strip("`"))
def test_wrapper_adds_to_the_state_what_the_page_says(row):
    params, wrapped = like(1.0), {"inner": optax.adam(0.1), "clipper": clipax.adaptive()}
    (argument,) = re.findall(r"\((\w+)\)", row[0])
    state = build(call_of(row[0]), **wrapped).init(params)
    added = size_of(state) - size_of(wrapped[argument].init(params))
    if row[2].endswith("an entry"):
        entries = sum(x.size for x in jax.tree.leaves(params))
        assert row[2] == f"that of `{argument}` and {added // entries} an entry"
    else:
        assert row[2] == f"that of `{argument}` and {added}"


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


# Which one should I take?


def test_list_of_decisions_is_short_and_its_clippers_exist():
    items = re.findall(r"^\d+\. .*$", PAGES["choose"], re.MULTILINE)
    assert 0 < len(items) <= 12
    for name in re.findall(r"`clipax\.(\w+)", PAGES["choose"]):
        assert hasattr(clipax, name), name


def test_what_is_said_of_the_leaderboard_stands_there():
    (row,) = [row for row in rows_under("who") if row[0] == "this project"]
    verdicts = collections.Counter(line["verdict"] for line in standings())
    better, worse, neither = (verdicts[key] for key in ("better", "worse", "no difference seen"))
    assert f"{len(standings())} methods" in row[1]
    assert f"{better} better than no clipping, {worse} worse, {neither} no different" in row[2]
    told = (LEADERBOARD / "README.md").read_text().split("\n### range\n")[1]
    for net, words in (("tanh", "a tanh network"), ("lstm", "an LSTM")):
        cells = re.search(rf"^\| chorales/{net} \| ([\d.]+) \| ([\d.]+) \|", told, re.MULTILINE)
        assert cells is not None
        without, clipped = map(float, cells.groups())
        assert f"from {without:.1f} to {clipped:.1f}" in row[2].split(f" for {words}")[0][-40:]


def test_leader_among_default_arguments_is_named():
    lead = max(standings(), key=lambda line: float(line["default"]))["method"]
    assert re.search(
        rf"`clipax\.{lead}\(usual_norm\)`, which[^.]*\sled\s+our comparison", PAGES["choose"]
    )


# The references.


def test_papers_are_linked_by_references_alone():
    for page, text in PAGES.items():
        assert not re.findall(r"\]\([^)]*://[^)]*\)", text), page


def test_years_are_those_of_the_references():
    for text, key in re.findall(r"\[([^\]]+)\]\[([^\]]+)\]", TEXT):
        year = re.findall(r"\d{4}", key)
        assert not year or text.endswith(year[0]), key
    for key, title in re.findall(r'^\[(\w+)\]: \S+ "(.+)"$', TEXT, re.MULTILINE):
        assert TEXT.count(title) == len(re.findall(rf"^\[{key}\]: ", TEXT, re.MULTILINE)), key
        year = re.findall(r"\d{4}", key)
        assert not year or year[0] in title, key
