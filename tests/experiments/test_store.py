"""The store of the experiments: whole files or none, whatever happens."""

import os
import threading

import numpy as np
import pyarrow as pa
import pytest

from experiments.errors import UserError
from experiments.store import Store


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
