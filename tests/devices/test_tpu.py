"""The programs that a TPU's compiler makes of the clippers, read and not run.

Without the package the tests are skipped; with CLIPAX_REQUIRE_TPU=1 they fail.
"""

import importlib.util
import json
import subprocess
import sys

import peers
import pytest
from catalogue import BY_NAME
from paths import ROOT

import clipax

pytestmark = pytest.mark.tpu
GATHERS = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """What the benchmark counts for each clipper and for optax, in a process of its own."""
    if importlib.util.find_spec("libtpu") is None:
        peers.missing('no compiler for TPUs: pip install "jax[tpu]"', "CLIPAX_REQUIRE_TPU")
    out = tmp_path_factory.mktemp("tpu") / "counts.json"
    command = [sys.executable, "-m", "benchmarks.tpu_aot", "--leaves", "4", "--out", str(out)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(out.read_text())["counts"]


def of_one_norm(name):
    clipper, _, variant = name.partition(", ")
    known = clipper in BY_NAME and BY_NAME[clipper].groups == "tree"
    return known and not variant.startswith("per ")


def mixes(name):
    return name in BY_NAME and BY_NAME[name].mixes


def test_every_named_clipper_compiles(counts):
    named = {name for name in clipax.__all__ if name in BY_NAME}
    assert named <= set(counts)
    assert all(row["ours"]["usual"]["bytes"] > 0 for row in counts.values())


def test_what_is_read_from_the_program_is_all_of_it(counts):
    """The flops of the usual path, read line by line, are those of XLA less the fallback's."""
    for name, row in counts.items():
        if not mixes(name):
            assert row["ours"]["usual"]["flops"] == pytest.approx(row["ours"]["flops"], rel=1e-3)


def test_clipper_of_one_norm_moves_what_optax_moves(counts):
    ratios = {
        name: counts[name]["ours"]["usual"]["bytes"] / counts[name]["optax"]["usual"]["bytes"]
        for name in filter(of_one_norm, counts)
    }
    assert {name: ratio for name, ratio in ratios.items() if ratio > 1.02} == {}


def test_norm_costs_one_all_reduce_of_a_number_and_one_in_the_fallback(counts):
    for name in filter(of_one_norm, counts):
        ours, optax = counts[name]["ours"], counts[name]["optax"]
        assert ours["usual"]["collective bytes"] == optax["usual"]["collective bytes"] == 4, name
        assert ours["usual"]["all-reduce"] == optax["usual"]["all-reduce"] == 1, name
        assert ours["fallback"]["all-reduce"] == 1, name


def test_no_clipper_gathers_but_for_singular_values(counts):
    for name, row in counts.items():
        if not mixes(name):
            usual, fallback = row["ours"]["usual"], row["ours"]["fallback"]
            assert not any(usual[kind] or fallback[kind] for kind in GATHERS), name
