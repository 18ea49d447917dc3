"""The runs of the experiments: scores, loop, store and progress."""

import dataclasses
import os
import re
import threading

import jax
import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from experiments import config, data, runner, scores
from experiments.errors import UserError
from experiments.progress import Progress, clock
from experiments.store import Store
from experiments.tasks import chorales
from experiments.train import _parameters, train

# Scores


def _plain_spike_score(losses):
    hits = []
    for step in range(49, len(losses)):
        before = [x for x in losses[max(0, step - 1000) : step] if np.isfinite(x)]
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


def _small(clipper, rates=(0.1,), seeds=(0,)):
    return config.Group(
        "chorales", "study", clipper, "tanh", 4, "momentum", rates, seeds, 6, 2, 5
    )  # fmt: skip


@pytest.fixture(scope="module")
def material():
    pytest.importorskip("music21", reason="needs the package music21")
    return chorales.load()


def _history(group, material):
    return train(
        chorales.task(group), chorales.method(group), chorales.runs(group), material.arrays,
        updates=group.updates, chunk=3,
    )  # fmt: skip


def test_a_run_in_a_group_equals_the_run_alone(material):
    together = _history(_small("value", (0.1, 1.0), (0, 1)), material)
    alone = _history(_small("value", (1.0,), (1,)), material)
    for name in runner.CURVES:
        many, one = getattr(together.record, name), getattr(alone.record, name)
        assert many.shape == (4, 6)
        np.testing.assert_allclose(many[3], one[0], rtol=2e-4)
    np.testing.assert_allclose(together.scores["test"][3], alone.scores["test"][0], rtol=1e-4)


def test_the_loop_measures_what_a_clipper_of_entries_does_not(material):
    group = _small("value", (0.1,))
    record = _history(group, material).record
    task, seed = chorales.task(group), jax.random.key(0)
    params = task.init(seed, material.arrays)
    key = jax.random.fold_in(jax.random.fold_in(seed, 1), 0)
    gradient = jax.grad(task.loss)(params, task.batch(key, material.arrays))
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(record.norm[0, 0], norm, rtol=1e-4)
    assert record.threshold[0, 0] == np.float32(0.01) and record.clipped[0, 0]


def test_the_seed_alone_decides_the_first_loss(material):
    first = _history(_small("value", (0.1, 1.0), (0, 1)), material).record.loss[:, 0]
    np.testing.assert_allclose(first[:2], first[2:], rtol=1e-6)
    assert first[0] != first[1]


@pytest.mark.parametrize("shown", ["chorale", "start", "pitch"])
def test_passages_are_drawn_from_all_chorales_places_and_pitches_alike(shown):
    count, time, length = 5, 12, 3  # 9 places, or the only one in the last, short chorale
    keys = data.KEYS + chorales._UPPER - chorales._LOWER
    number = {"chorale": 0, "start": 1, "pitch": 2}[shown]
    rolls = np.indices((count, time, keys))[number]
    lengths = np.full(count, time)
    lengths[-1] = length + 1
    passages, mask = chorales._draw(jax.random.key(0), (rolls, lengths), 20_000, length)
    assert passages.shape == (length + 1, 20_000, data.KEYS) and mask.all()
    found, counts = np.unique(np.asarray(passages[0, :, 0]), return_counts=True)
    expected = {
        "chorale": np.full(5, 1 / 5),
        "start": np.array([1 / 5 + 4 / 45] + [4 / 45] * 8),
        "pitch": np.full(keys - data.KEYS + 1, 1 / (keys - data.KEYS + 1)),
    }[shown]
    np.testing.assert_array_equal(found, np.arange(len(expected)))
    deviations = np.sqrt(20_000 * expected * (1 - expected))
    assert np.all(abs(counts - 20_000 * expected) < 4 * deviations)


def test_initializers_ask_lapack_for_one_matrix_at_a_time(material):
    # Several in one call can hang, see `train._parameters`.
    seeds, task = np.arange(2 * len(jax.devices())), chorales.task(_small("value"))
    text = _parameters.lower(task, seeds, material.arrays).as_text()
    shapes = re.findall(r"custom_call @lapack_\w+\(.*: \(tensor<([\dx]+)xf32>", text)
    assert shapes and all(shape.count("x") == 1 for shape in shapes), shapes


# The store


def _table(number=1.0):
    return pa.table({"x": [number] * 1000})


def test_store_gives_back_what_was_saved(tmp_path):
    store = Store(tmp_path)
    assert store.load("a") is None
    store.save("a", _table())
    assert Store(tmp_path).load("a") == _table()
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("harm", ["cut", "flip", "other", "empty"])
def test_a_damaged_file_is_set_aside_and_named(harm, tmp_path):
    said = []
    store = Store(tmp_path, said.append)
    store.save("a", pa.table({"x": np.random.default_rng(0).normal(size=1000)}))
    path = store.path("a")
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    store.save("b", _table())
    other = store.path("b").read_bytes()
    path.write_bytes({"cut": whole[:-9], "flip": flipped, "other": other, "empty": b""}[harm])
    assert store.load("a") is None
    assert not path.exists() and len(list(tmp_path.glob("a.damaged-*"))) == 1
    assert len(said) == 1 and "a.damaged-" in said[0] and "\n" not in said[0]


def test_writers_and_readers_at_the_same_time_see_whole_files(tmp_path):
    store, seen = Store(tmp_path, lambda line: seen.append(line)), []
    threads = [
        threading.Thread(target=lambda: [store.save("a", _table()) for _ in range(20)])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        table = store.load("a")
        assert table is None or len(table) == 1000
    assert not seen and [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    store = Store(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        store.save("a", _table())
    assert list(tmp_path.iterdir()) == []


def test_key_depends_on_settings_data_and_versions():
    group = _small("none")
    other = dataclasses.replace(group, seeds=(1,))
    parts = [("a", "b"), ("ab", ""), (config.to_json(group), "b"), (config.to_json(other), "b")]
    assert len({config.fingerprint(*part) for part in parts}) == 4


# Progress


def test_progress_prints_plain_lines_without_a_terminal(tmp_path):
    group = _small("none", (0.1, 1.0))
    with (tmp_path / "out").open("w+") as file:
        console = Console(file=file, highlight=False, markup=False, width=200)
        progress = Progress([group] * 3, console)
        with progress.shown():
            progress.reuse("first", group, 0)
            progress.start("second")
            advance = progress.steps_of(group)
            advance(2)
            advance(4)
            progress.finish("second", group, 1)
        file.seek(0)
        lines = file.read().splitlines()
    assert lines[0] == "[1/3]  first (already there): 2 runs"
    assert re.fullmatch(r"\[2/3, 0:0\d left\]  second: 2 runs, 1 failed", lines[1])
    assert progress.done == pytest.approx(progress.work / 3)
    assert clock(59.2) == "1:00" and clock(0) == "0:00"
