"""The runs of the experiments: scores, loop, groups and progress."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from rows import sampled

from experiments import board, columns, config, plan, runner, scores, task, train
from experiments.config import Study
from experiments.data.chorales import KEYS
from experiments.progress import Outcome, Progress, clock, work
from experiments.tasks import chorales

# Scores


def _plain_spike_score(losses):
    hits = []
    for step in range(49, len(losses)):
        before = losses[max(0, step - 1000) : step]
        before = before[np.isfinite(before)]
        hits.append(losses[step] > np.mean(before) + 10 * np.std(before))
    return np.mean(hits) if hits else 0.0


def test_spike_score_agrees_with_its_plain_definition():
    rng = np.random.default_rng(0)
    losses = rng.normal(10, 0.1, (4, 1200))
    losses[0, [30, 49, 700, 1199]] += 50
    losses[1, 20] = np.nan
    losses[1, 100] += 3
    losses[2] = np.linspace(1, 1e9, 1200)
    losses[3, 600:] = np.inf
    expected = [_plain_spike_score(np.where(np.isinf(row), np.nan, row)) for row in losses]
    np.testing.assert_array_equal(scores.spike_score(losses), expected)
    assert expected[0] > 0 and scores.spike_score(losses[:, :49]).tolist() == [0] * 4


def test_clip_share_leaves_out_steps_without_a_finite_gradient():
    clipped = np.array([[True, False, True, True]])
    assert scores.clip_share(clipped, np.array([[1.0, 1.0, np.nan, np.inf]])).tolist() == [0.5]


def test_a_run_fails_above_any_floor_and_when_not_finite():
    found = {"valid": np.array([9, 12, 9, np.nan]), "test": np.array([9, 9, 12, 9])}
    assert scores.failed(found, {"valid": 11, "test": 11}).tolist() == [False, True, True, True]


# The loop

# The loop is the same for all tasks, and the first of these compiles fast.
TASK, RATES = "clipped_gd/start 4", (0.3, 1.0)
BATCHES = {"tasks": ("regression/diabetes",), "learning_rates": (1e-4,)}


def _group(method, **changes):
    study = Study((TASK,), (method,), seeds=1, learning_rates=RATES[:1], updates=6)
    [group] = plan.groups(dataclasses.replace(study, **changes), smoke=True)
    return group


@pytest.fixture(scope="module", autouse=True)
def _rows():
    pytest.importorskip("sklearn", reason="needs the package scikit-learn")


def _material(group):
    return runner.material(group.task, group.recipe.model, None)


def _task(group):
    return task.find(group.task).build(group.recipe.model)


def _curve(table, name):
    return np.array(table[name].to_pylist())


@functools.cache
def _two_rates_and_seeds():
    return runner.compute(_group("value", learning_rates=RATES, seeds=2, updates=64), None)


def test_a_run_in_a_group_equals_the_run_alone():
    together = _two_rates_and_seeds()
    alone = runner.compute(_group("value", learning_rates=RATES[1:], seeds=2, updates=64), None)
    assert together["learning_rate"].to_pylist() == np.repeat(RATES, 2).tolist()
    assert together["seed"].to_pylist() == [0, 1, 0, 1]
    for name in runner.CURVES:
        many, one = _curve(together, name), _curve(alone, name)
        assert many.shape == (4, 64)
        np.testing.assert_allclose(many[2:], one, rtol=2e-4)
    np.testing.assert_allclose(together["test"].to_numpy()[2:], alone["test"], rtol=1e-4)
    assert np.isfinite(together["test"]).all()


def _first_norm(**changes):
    group = _group("none", **changes)
    found, arrays = _task(group), _material(group).arrays

    @jax.jit
    def gradient(arrays):
        seed = jax.random.key(0)
        key = jax.random.fold_in(jax.random.fold_in(seed, 1), 0)
        return jax.grad(found.loss)(found.init(seed, arrays), found.batch(key, arrays))

    return np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient(arrays))))


METHODS = ("value", "per_leaf", "clippy", "skip_spikes")


@sampled("method", {name: name for name in METHODS}, ["value", "skip_spikes"])
def test_the_loop_measures_the_gradient_whatever_the_method(method):
    table = runner.compute(_group(method), None)
    np.testing.assert_allclose(_curve(table, "norm")[0, 0], _first_norm(), rtol=1e-4)


def _tuning():
    rates = {"learning_rates": (1e-5, 1e-4, 1e-3)}
    return _group("value", tune=True, seeds=2, held_out=3, **BATCHES | rates)


@functools.cache
def _tuned():
    return runner.compute(_tuning(), None)


@sampled("method", {name: name for name in METHODS}, [])
def test_the_loop_measures_all_leaves_on_the_batch_of_the_step(method):
    table = _tuned() if method == "value" else runner.compute(_group(method, **BATCHES), None)
    np.testing.assert_allclose(_curve(table, "norm")[0, 0], _first_norm(**BATCHES), rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "value", "updates", "lowest", "highest"),
    [
        ("value", 1e-6, 6, 1, 1),
        ("value", 1e6, 6, 0, 0),
        ("clippy", 1e-6, 6, 0.8, 1),
        ("spam", 1e-6, 30, 0.2, 0.4),  # not in its warm-up of 20 updates
    ],
)
def test_clipped_says_what_the_clipper_did(method, value, updates, lowest, highest):
    # At this rate the gradient hardly changes.
    group = _group(method, values=(value,), updates=updates, learning_rates=(1e-3,))
    table = runner.compute(group, None)
    assert lowest <= table["clip_share"][-1].as_py() <= highest


def test_the_seed_alone_decides_the_first_loss():
    first = _curve(_two_rates_and_seeds(), "loss")[:, 0]
    np.testing.assert_allclose(first[:2], first[2:], rtol=1e-6)
    assert first[0] != first[1]


def test_initializers_ask_lapack_for_one_matrix_at_a_time():
    # Several in one call can hang, see `train._parameters`.
    built = chorales.build(chorales.Model("tanh", 8, 4, 16))
    seeds, data = np.arange(2 * len(jax.devices())), {"log_odds": np.zeros(KEYS, np.float32)}
    text = train._parameters.lower(built, seeds, data).as_text()
    shapes = re.findall(r"custom_call @lapack_\w+\(.*: \(tensor<([\dx]+)xf32>", text)
    assert shapes and all(shape.count("x") == 1 for shape in shapes), shapes


def test_all_blocks_and_stages_of_a_group_share_one_compilation():
    group = _group("value", learning_rates=RATES, seeds=15, held_out=2, updates=7)
    before = train._advance._cache_size()
    table = runner.compute(group, None)
    assert train._advance._cache_size() == before + 1
    assert len(table) == group.runs == 34


@pytest.mark.parametrize("full", [False, True])
def test_groups_of_the_leaderboard_have_blocks_of_one_size(full):
    parts = [part for part in board.leaderboard(full=full) if part.name == board.LEADERBOARD]
    groups = board.distinct(parts)
    assert {group.method for group in groups} > {"none", "global_norm"}
    assert len({runner.block(group) for group in groups}) == 1


def test_programs_of_one_variant_are_gone_when_the_next_begins(monkeypatch):
    runner.compute(_group("value"), None)
    runner.compute(_group("none"), None)
    assert train._advance._cache_size() >= 2
    monkeypatch.setattr(runner, "_part", lambda *_: None)
    runner.compute(_group("value"), None)
    assert train._advance._cache_size() >= 2
    runner.compute(_group("value", **BATCHES), None)
    assert train._advance._cache_size() == 0


@pytest.mark.parametrize("updates", [1, 7, 16, 60, 240, 810])
def test_chunks_are_of_one_size_and_give_all_updates(updates):
    size = train.chunk_size(updates)
    assert updates % size == 0 and (updates // size <= 16)


# Groups


def test_runs_of_all_groups_fit_into_one_table():
    whole = runner.compute(_group("none", learning_rates=(1,)), None)  # a whole number
    parts = [whole, runner.compute(_group("value"), None)]
    assert pa.concat_tables(parts).schema.equals(columns.schema(columns.GROUP))


@pytest.mark.exhaustive
def test_held_out_seeds_try_the_best_square_and_the_best_default():
    group, table = _tuning(), _tuned()
    assert len(table) == group.runs == 5 * 3 * 2 + 6 or len(table) == 4 * 3 * 2 + 6
    rows = table.drop_columns(list(runner.CURVES)).to_pylist()
    squares = {}
    for row in rows[: group.grid]:
        squares.setdefault((row["arguments"], row["learning_rate"]), []).append(row["valid"])
    medians = {key: np.median(values) for key, values in squares.items()}
    default = rows[0]["arguments"]
    best = min(medians, key=medians.__getitem__)
    plain = min((key for key in medians if key[0] == default), key=medians.__getitem__)
    for stage, expected in (("chosen", best), ("default", plain)):
        part = [row for row in rows[group.grid :] if row["stage"] == stage]
        assert [(row["arguments"], row["learning_rate"]) for row in part] == [expected] * 3
        assert [row["seed"] for row in part] == [2, 3, 4]


def test_key_depends_on_settings_and_not_on_how_they_were_asked_for():
    group = _group("none")
    assert runner.key(group, None) == runner.key(_group("none"), None)
    assert runner.key(group, None) != (
        other := runner.key(_group("none", learning_rates=(1,)), None)
    )
    assert other == runner.key(_group("none", learning_rates=(1.0,)), None)
    others = [_group("value"), _group("none", seeds=2), _group("none", updates=7)]
    assert len({runner.key(each, None) for each in [group, *others]}) == 4
    parts = [("a", "b"), ("ab", ""), (config.to_json(group), "b")]
    assert len({config.fingerprint(*part) for part in parts}) == 3


# Progress


def test_progress_prints_plain_lines_without_a_terminal(tmp_path):
    group = _group("none", learning_rates=RATES)
    with (tmp_path / "out").open("w+") as file:
        console = Console(file=file, highlight=False, markup=False, width=200)
        progress = Progress([group] * 3, console)
        with progress.shown():
            progress.reuse(group, Outcome(0, 9.5))
            progress.start(group)
            advance = progress.advance(group)
            advance(1)
            assert 0 < progress.left() < 1
            advance(1)
            progress.finish(group, Outcome(1, 9.25))
        file.seek(0)
        lines = file.read().splitlines()
    assert lines[0] == "[1/3]  clipped_gd/start 4 none (already there): 2 runs, best 9.5"
    second = r"\[2/3, 0:0\d left\]  clipped_gd/start 4 none: 2 runs, 1 failed, best 9.25"
    assert re.fullmatch(second, lines[1])
    assert progress.done == pytest.approx(work(group)) == pytest.approx(progress.work / 3)
    assert clock(59.2) == "1:00" and clock(0) == "0:00" and clock(3661) == "1:01:01"
