"""What README.md says: its blocks run, its tables and its claims hold."""

import collections
import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import CORE, WRAPPERS
from pages import LEADERBOARD, assert_prints_what_it_says, blocks, prose, run, standings
from paths import ROOT
from trees import plain

import clipax
from clipax import measures

TEXT = (ROOT / "README.md").read_text()
PROSE = prose(TEXT)
SECTIONS = dict(re.findall(r"^#+ ([^\n]+)\n(.*?)(?=^#+ |\Z)", PROSE, re.MULTILINE | re.DOTALL))


LEADING = (LEADERBOARD / "README.md").read_text()
PYTHON = blocks(TEXT, "python")


def block_with(text: str) -> dict[str, Any]:
    """The names of the one block that contains `text`."""
    (code,) = [code for code in PYTHON if text in code]
    return run(code)[0]


def table(heading: str) -> list[list[str]]:
    """The rows of the one table of a section, without the two of its head."""
    rows = [line for line in SECTIONS[heading].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


# The page


def test_readme_is_short():
    assert len(TEXT.splitlines()) < 250
    assert len(re.findall(r"[.!?](?=\s|$)", SECTIONS["clipax"].split("\n\n")[0])) == 3


@pytest.mark.parametrize(
    "command",
    [
        'pip install -e ".[experiments]" && python -m experiments run chorales',
        'pip install -e ".[test]" && pytest',
    ],
)
def test_command_stands_on_a_line_of_its_own(command):
    assert f"{command}\n" in blocks(TEXT, "shell")


def test_every_public_name_is_mentioned():
    assert [name for name in clipax.__all__ if not re.search(rf"\bclipax\.{name}\b", TEXT)] == []


def test_everything_that_is_mentioned_exists():
    known = {"clipax": clipax}
    mentioned = set(re.findall(r"\b(?:clipax|measures|thresholds|rules)(?:\.\w+)+", TEXT))
    for path in mentioned:
        first, *rest = path.split(".")
        item = known.get(first) or getattr(clipax, first)
        for name in rest:
            item = getattr(item, name)


# The blocks


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_block_prints_what_it_says(code):
    assert_prints_what_it_says(code)


def test_block_to_paste_is_one_compiled_step_that_trains():
    names = block_with("optax.chain(clipax.adaptive(), optax.adam(1e-3))")
    params, state, x, y = (names[key] for key in ("params", "state", "x", "y"))
    losses = []
    for _ in range(5):
        params, state, loss, _ = names["step"](params, state, x, y)
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)
    assert names["step"]._cache_size() == 1


def test_combinations_clip():
    names = block_with("drop_spikes")
    clippers = [x for x in names.values() if isinstance(x, optax.GradientTransformation)]
    assert len(clippers) == 3
    results = jax.jit(lambda g: [clipax.clip(g, clipper)[0] for clipper in clippers])(plain())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(results))


def test_own_policy_is_what_it_says():
    clipper = block_with("twice_the_average")["clipper"]
    norms = np.exp(np.random.default_rng(0).standard_t(3, size=(60, 2))).astype(np.float32)
    norms[20:23, 0] = [np.nan, np.inf, 0.0]
    means = np.zeros(2)
    expected = []
    for norm in norms:
        allowed = np.where(means > 0, 2 * means, np.inf)
        expected.append(np.where(np.isfinite(norm), np.minimum(norm, allowed), np.nan))
        moved = np.where(means > 0, 0.9 * means + 0.1 * np.minimum(norm, allowed), norm)
        means = np.where(np.isfinite(norm), moved, means)

    def step(state, norm):
        clipped, state = clipper.update({"x": {"w": norm[:1]}, "y": {"w": norm[1:]}}, state)
        return state, jnp.concatenate(jax.tree.leaves(clipped))

    state = clipper.init({"x": {"w": jnp.zeros(1)}, "y": {"w": jnp.zeros(1)}})
    state, clipped = jax.lax.scan(step, state, jnp.asarray(norms))
    np.testing.assert_allclose(clipped, expected, rtol=1e-5)
    assert 0.1 < float(clipax.metrics(state)["clip_rate"]) < 0.9


# The table of clippers

BY_LEAF: Any = {"measure": measures.per_leaf()}
ROWS = {
    call: row for row in table("The clippers") for call in re.findall(r"clipax\.(\w+)\(", row[0])
}
NEEDED: dict[str, tuple] = {
    **dict.fromkeys(
        ("global_norm", "per_layer", "per_leaf", "value", "spectral", "decaying"), (1.0,)
    ),
    "per_group": (1.0, lambda path: "all"),
    "spectral": (1.0,),
}
OTHER_SIZES = [  # in parentheses in the table
    ("decaying", {"clip_rate": 0.5}),
    ("autoclip", {"window": 100}),
    ("zclip", {"restart": None}),
]


def built(name: str, **arguments: Any) -> Any:
    return getattr(clipax, name)(*NEEDED.get(name, ()), **arguments)


def numbers(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def sizes(name: str) -> list[int]:
    return [int(size) for size in re.findall(r"\d+", ROWS[name][2])]


def test_every_clipper_is_in_the_table():
    other = {"Suggestion", "ThresholdPolicy", "measures", "rules", "thresholds"}
    other |= WRAPPERS.keys() | CORE.keys()
    assert ROWS.keys() == set(clipax.__all__) - other


@pytest.mark.parametrize("name", ROWS)
def test_size_of_state_is_that_in_the_table(name):
    # One leaf of one entry is one group, whatever is measured.
    state = built(name).init([jnp.zeros(1)])
    assert numbers(state.policy) == sizes(name)[0]
    assert numbers(state) - numbers(state.policy) == {"value": 2, "spam": 1}.get(name, 7)


@pytest.mark.parametrize(("name", "arguments"), OTHER_SIZES)
def test_other_size_of_state_is_that_in_the_table(name, arguments):
    state = built(name, **arguments).init([jnp.zeros(1)])
    assert numbers(state.policy) == sizes(name)[1]


def test_size_of_state_is_for_each_group():
    leaves = [jnp.zeros(2)] * 3
    for name in ("adaptive", "moving_average", "autoclip", "median", "history_sigma", "zclip"):
        assert numbers(built(name, **BY_LEAF).init(leaves).policy) == 3 * sizes(name)[0]
    for name in ("adagc", "olmo", "stable_spam"):
        assert numbers(built(name).init(leaves).policy) == 3 * sizes(name)[0]


# The table of what goes wrong elsewhere: clipax's column

NAN = math.nan


def rows(*values, dtype: Any = jnp.float32):
    return jnp.array(values, dtype)


RIGHT: dict[str, tuple[Any, Any, Any]] = {
    "large and finite": (clipax.global_norm(1.0), [rows(1e20, 1e20, 1e20)], [[3**-0.5] * 3]),
    "half precision": (clipax.global_norm(1.0), [rows(300, dtype=jnp.float16)], [[1]]),
    "small": (clipax.global_norm(1e-25), [rows(1e-23, 1e-23, 1e-23)], [[1e-25 * 3**-0.5] * 3]),
    "nothing to clip": (clipax.global_norm(0.0), [rows(0, 0)], [[0, 0]]),
    "threshold 0": (clipax.global_norm(0.0), [rows(3, 4)], [[0, 0]]),
    "scheduled threshold": (
        clipax.global_norm(lambda step: jnp.float32(1)),
        [rows(3, 4, dtype=jnp.bfloat16)],
        [[0.6, 0.8]],
    ),
    "one infinite entry": (
        clipax.global_norm(1.0),
        [rows(math.inf, 1), rows(2)],
        [[NAN, NAN], [NAN]],
    ),
    "complex entries": (clipax.value(1.0), [rows(3 + 4j, dtype=jnp.complex64)], [[0.6 + 0.8j]]),
    "below the threshold": (clipax.global_norm(5.0001e-6), [rows(3e-6, 4e-6)], [[3e-6, 4e-6]]),
    "tiny threshold": (clipax.global_norm(1e-8), [rows(3e-8, 4e-8)], [[6e-9, 8e-9]]),
    "only looking": (clipax.global_norm(math.inf), [rows(1e20, 1e20, 1e20)], [[1e20] * 3]),
}
ELSEWHERE = {
    "many bfloat16 leaves",
    "norm afterwards",
    "threshold below 0",
    "derivative at zero",
    "a spike after one NaN",
}


def test_every_row_of_the_table_of_defects_is_tested():
    assert {row[0] for row in table("What goes wrong elsewhere")} == RIGHT.keys() | ELSEWHERE


@pytest.mark.parametrize("name", RIGHT)
def test_answer_in_the_table_of_defects_is_given(name):
    clipper, gradient, expected = RIGHT[name]
    clipped, _ = clipax.clip(gradient, clipper)
    for ours, leaf, right in zip(jax.tree.leaves(clipped), gradient, expected, strict=True):
        assert ours.dtype == leaf.dtype
        digits = 4 * float(jnp.finfo(leaf.dtype).eps)
        wide = jnp.complex64 if jnp.iscomplexobj(leaf) else jnp.float32
        np.testing.assert_allclose(ours.astype(wide), np.array(right, wide), rtol=digits)


def double_norm(tree: Any) -> float:
    return math.sqrt(sum(np.sum(np.float64(x) ** 2) for x in jax.tree.leaves(tree)))


def test_thousand_bfloat16_ones_are_clipped_to_one():
    """In one leaf: `test_measures_norms.py` has the norm of a thousand, which compile slowly."""
    clipped, metrics = clipax.clip([jnp.ones(1000, jnp.bfloat16)], clipax.global_norm(1.0))
    assert float(metrics["norm"]) == pytest.approx(math.sqrt(1000), rel=1e-6)
    assert double_norm(clipped) == pytest.approx(1.004, abs=5e-4)


@pytest.mark.parametrize(("dtype", "most"), [(jnp.float32, 1.0), (jnp.bfloat16, 1.0009)])
def test_norm_afterwards_is_at_most_the_threshold(dtype, most):
    vectors = jnp.asarray(10 * np.random.default_rng(0).normal(size=(300, 100)), dtype)
    clipped = jax.vmap(lambda x: clipax.clip(x, clipax.global_norm(1.0))[0])(vectors)
    norms = [double_norm(x) for x in np.asarray(clipped)]
    assert max(norms) <= most
    assert max(norms) > 0.999


def test_threshold_below_zero_is_refused():
    with pytest.raises(ValueError, match="max_norm"):
        clipax.global_norm(-1.0)


def test_derivative_at_zero_is_that_of_the_identity():
    def total(x):
        return jnp.sum(jax.tree.leaves(clipax.clip(x, clipax.global_norm(1.0))[0])[0])

    np.testing.assert_array_equal(jax.grad(total)(jnp.zeros(2)), [1, 1])


def test_spike_after_a_nan_is_clipped_to_twice_the_calm_norm():
    clipper = clipax.moving_average()
    norms = jnp.array([1.0] * 60 + [NAN] + [1.0] * 9 + [1000.0])

    def step(state, norm):
        clipped, state = clipper.update(norm, state)
        return state, clipped

    clipped: Any = jax.lax.scan(step, clipper.init(norms[0]), norms)[1]
    assert np.isnan(np.asarray(clipped)).sum() == 1
    assert float(clipped[-1]) == pytest.approx(2.0, rel=1e-6)


# Coming from elsewhere: rows of torch, Lightning, Keras and TensorFlow are in test_parity.py.

SCHEDULE = optax.linear_schedule(10.0, 0.1, 20)
NAMES = {"optax": optax, "clipax": clipax, "math": math, "schedule": SCHEDULE}


def test_top_of_the_leaderboard_is_that_of_its_file():
    lines = {line["method"]: line for line in standings()}
    shown = [row[0].strip("`") for row in table("Which one is worth using")]
    assert [name for name in lines if name in shown] == shown
    for name, tuned, default, rank, failed in table("Which one is worth using"):
        line = lines[name.strip("`")]
        assert (tuned, default) == tuple(_ends(line, part, 2) for part in ("tuned", "default"))
        assert rank == _ends(line, "rank", 1)
        assert failed == f"{float(line['failed']):.0%}".replace("%", " %")


def _ends(line, part, digits):
    value, low, high = (float(line[part + end]) for end in ("", "_low", "_high"))
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def test_sentences_on_the_leaderboard_count_its_lines():
    text = " ".join(SECTIONS["Which one is worth using"].split())
    verdicts = collections.Counter(line["verdict"] for line in standings())
    assert f"Seven of [{len(standings())} methods" in text
    assert len(table("Which one is worth using")) == 7
    (worse,) = (line["method"] for line in standings() if line["verdict"] == "worse")
    assert f"{verdicts['better']} are better than `none`, 1 is worse (`{worse}`)." in text
    row = re.search(r"^## Score by task\n.*?^\| none (.*?)$", LEADING, re.MULTILINE | re.DOTALL)
    assert row is not None
    scores = [float(cell.split()[0]) for cell in row[1].strip("| ").split(" | ")]
    assert len(scores) == 9 and sum(score >= 0.95 for score in scores) == 4
    untuned = sorted(standings(), key=lambda line: float(line["default"]), reverse=True)
    rescaling = {"normalize", "auto_s", "stable_spam"}
    assert {line["method"] for line in untuned[:3]} == rescaling


def test_ratios_are_those_that_were_measured():
    found = json.loads((ROOT / "docs/benchmarks/results.json").read_text())["rows"]
    ratios = {(x["work"], x["against"]): x["ratio"]["middle"] for x in found if not x["curve"]}
    shown = table("How fast it is")
    assert len(shown) >= 7
    for work, peer, ratio in shown:
        assert ratio == f"{ratios[work, peer]:.3g}"


COUNTERPARTS = table("Coming from elsewhere")
FROM_OPTAX = [row for row in COUNTERPARTS if row[0].startswith("`optax.")]


@pytest.mark.parametrize(("there", "here"), FROM_OPTAX, ids=[row[0] for row in FROM_OPTAX])
def test_counterpart_of_optax_gives_the_same(there, here):
    theirs, ours = (eval(cell.strip("`"), dict(NAMES)) for cell in (there, here))
    sizes = np.exp(2 * np.random.default_rng(1).normal(size=20))
    gradients = [plain(i, float(size)) for i, size in enumerate(sizes)]
    params = plain(99)
    changed = 0
    state, their_state = ours.init(params), theirs.init(params)
    update, their_update = jax.jit(ours.update), jax.jit(theirs.update)
    for gradient in gradients:
        clipped, state = update(gradient, state, params)
        expected, their_state = their_update(gradient, their_state, params)
        for x, y in zip(jax.tree.leaves(clipped), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6)
        changed += double_norm(clipped) < 0.999 * double_norm(gradient)
    assert 3 < changed <= 20


def test_counterparts_of_all_packages_can_be_built():
    assert len(FROM_OPTAX) == 5
    for there, here in COUNTERPARTS:
        built = re.fullmatch(r"`(clipax\.(?!metrics).*)`", here)
        if built:
            clipper = eval(built[1], dict(NAMES))
            assert isinstance(clipper, optax.GradientTransformation), there
