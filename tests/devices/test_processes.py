"""Law 12 for several processes: training is that of one process, and goes on after one is killed.

Processes of two virtual devices each are connected by gloo. Where one of them dies the others wait
for it until the coordinator misses its heartbeat, 100 seconds later; and SIGTERM does not end a
process that is connected. So all of them are killed.
"""

import contextlib
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
from paths import ROOT

pytestmark = pytest.mark.processes
STEPS, NAN_AT, KILL_AT, SAVED_AT = 10, 5, 7, 6
LIMIT = 300  # seconds from the start of a job to its end
NAMES = ("adaptive", "per_layer", "largest")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process that trains on eight devices."""
    out = tmp_path_factory.mktemp("alone")
    finish(out, 1, 8, "--runs", "whole", "nan", "--nan-at", str(NAN_AT))
    return out


@pytest.fixture(scope="module")
def fewer(tmp_path_factory):
    """One process that trains on one device and on four."""
    out = tmp_path_factory.mktemp("fewer")
    finish(out, 1, 8, "--runs", "whole", "--meshes", "1", "4")
    return out


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Four processes that train twice to the end; then one of them is killed amid a third run."""
    out = tmp_path_factory.mktemp("killed")
    steps = ["--nan-at", str(NAN_AT), "--kill-at", str(KILL_AT)]
    codes = run(out, 4, 2, "--runs", "whole", "nan", "killed", *steps, *saved_in(out))
    assert codes.get(3) == -signal.SIGKILL, outputs(out)
    return out


@pytest.fixture(scope="module")
def four_again(killed, tmp_path_factory):
    """The four processes once more, from their last checkpoint."""
    out = tmp_path_factory.mktemp("four")
    shutil.copytree(killed / "saved", out / "saved")
    finish(out, 4, 2, "--runs", "resumed", *saved_in(out))
    return out


@pytest.fixture(scope="module")
def two(killed, tmp_path_factory):
    """Two processes that train from the start, and from the last checkpoint of the four."""
    out = tmp_path_factory.mktemp("two")
    shutil.copytree(killed / "saved", out / "saved")
    finish(out, 2, 2, "--runs", "whole", "resumed", *saved_in(out))
    return out


def saved_in(out):
    return "--checkpoints", str(out / "saved")


def finish(out, processes, devices, *options):
    codes = run(out, processes, devices, *options)
    assert codes == dict.fromkeys(range(processes), 0), outputs(out)


def run(out, processes, devices, *options):
    """The exit codes of the processes that ended by themselves before, or with, the first failure.

    No process is left when this returns. What is compiled is not shared: only the first process
    would find it, and gloo gives up on processes that it waits for longer than half a minute.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    own = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    env = {**os.environ, **own, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/devices/processes/train.py"), str(out), *options]
    command += ["--processes", str(processes), "--coordinator", f"localhost:{free_port()}"]
    started = []
    try:
        for i in range(processes):
            with (out / f"output-{i}.txt").open("w") as output:
                started.append(
                    subprocess.Popen(
                        [*command, "--process", str(i)],
                        env=env,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        return ended(started, time.monotonic() + LIMIT)
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ended(processes, deadline):
    """The exit codes once all have ended, one has failed or there is no time left."""
    while True:
        codes = {i: p.poll() for i, p in enumerate(processes)}
        codes = {i: code for i, code in codes.items() if code is not None}
        if len(codes) == len(processes) or any(codes.values()) or time.monotonic() > deadline:
            return codes
        time.sleep(0.05)


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def outputs(out):
    files = sorted(out.glob("output-*.txt"))
    return "".join(f"\n== {file.name}\n{file.read_text()[-3000:]}" for file in files)


def results(out, name, devices, processes):
    """What each process has of a run."""
    files = [out / f"{name}-{devices}-{i}.pickle" for i in range(processes)]
    return [pickle.loads(file.read_bytes()) for file in files]


def assert_close(found, expected):
    """Within 1e-12 of the largest entry of each array: entries that cancel have no digits left."""

    def check(path, x, y):
        finite = np.abs(y[np.isfinite(y)])
        np.testing.assert_allclose(
            x, y, rtol=0, atol=1e-12 * np.max(finite, initial=0), err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(check, found, expected)


def assert_same_bits(found, expected):
    def bits(tree):
        return jax.tree.map(lambda x: np.frombuffer(np.asarray(x).tobytes(), np.uint8), tree)

    chex.assert_trees_all_equal(bits(found), bits(expected))


def assert_alike(results):
    """All processes have the same, but for which of them holds a NaN."""
    for result in results[1:]:
        assert_same_bits(shared(result), shared(results[0]))


def shared(result, first=0):
    """What does not depend on the process, from a step on."""
    seen = {i: {name: of[name] for name in NAMES} for i, of in result["seen"].items() if i >= first}
    return {"seen": seen, "nets": result["nets"]}


def assert_train_as_one(found, expected):
    assert_alike(found)
    assert_close(shared(found[0]), shared(expected))


def test_four_processes_train_as_one(killed, alone):
    assert_train_as_one(results(killed, "whole", 8, 4), results(alone, "whole", 8, 1)[0])


@pytest.mark.exhaustive
def test_four_processes_train_as_one_device(killed, fewer):
    assert_train_as_one(results(killed, "whole", 8, 4), results(fewer, "whole", 1, 1)[0])


@pytest.mark.exhaustive
@pytest.mark.parametrize("devices", [1, 4])
def test_two_processes_train_as_one(two, fewer, devices):
    assert_train_as_one(results(two, "whole", 4, 2), results(fewer, "whole", devices, 1)[0])


def test_training_is_clipped_and_thresholds_move(killed):
    """What the other tests compare is worth comparing."""
    seen = results(killed, "whole", 8, 4)[0]["seen"]
    for name in NAMES:
        assert 0 < seen[STEPS - 1][name]["metrics"]["clip_rate"] <= 1
        assert len({float(seen[i][name]["metrics"]["threshold"]) for i in range(STEPS)}) > 3


def test_job_goes_on_bit_for_bit_after_a_process_was_killed(killed, four_again):
    whole, resumed = results(killed, "whole", 8, 4), results(four_again, "resumed", 8, 4)
    assert list(resumed[0]["seen"]) == list(range(SAVED_AT, STEPS))
    for a, b in zip(resumed, whole, strict=True):
        assert_same_bits(shared(a), shared(b, SAVED_AT))


@pytest.mark.exhaustive
def test_job_goes_on_with_half_the_processes(killed, two):
    whole, resumed = results(killed, "whole", 8, 4)[0], results(two, "resumed", 4, 2)
    assert_alike(resumed)
    assert list(resumed[0]["seen"]) == list(range(SAVED_AT, STEPS))
    assert_close(shared(resumed[0]), shared(whole, SAVED_AT))


def test_nan_in_one_process_is_decided_alike_in_all(killed, alone):
    found = results(killed, "nan", 8, 4)
    assert [r["seen"][NAN_AT]["holds_nan"] for r in found] == [False, False, False, True]
    assert_alike(found)
    assert_close(shared(found[0]), shared(results(alone, "nan", 8, 1)[0]))
    assert all(
        np.all(np.isfinite(x)) for n in NAMES for x in jax.tree.leaves(found[0]["nets"][n][0])
    )


@pytest.mark.parametrize("name", NAMES)
def test_nan_in_one_process_counts_once_and_enters_no_threshold(killed, name):
    seen = results(killed, "nan", 8, 4)[0]["seen"]
    counts = [seen[i][name]["metrics"]["nonfinite"] for i in range(STEPS)]
    assert counts == [0] * NAN_AT + [1] * (STEPS - NAN_AT)
    assert seen[NAN_AT][name]["metrics"]["factor"] == 0
    before, after = seen[NAN_AT - 1][name]["policy"], seen[NAN_AT][name]["policy"]
    # Of the first group: the cell, which holds the NaN, comes before the head.
    chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x[..., 0], p) for p in (before, after)))
