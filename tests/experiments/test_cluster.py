"""Groups on a real cluster of processes on this machine, one of which is killed in the middle."""

import os
import signal
import subprocess
import sys
import time

import pytest
from killed_runs import groups
from paths import ROOT

from experiments import cli

distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")
pytestmark = pytest.mark.processes

METHODS = ("none", "global_norm", "value", "adaptive", "zclip", "agc")


def _command(out, *words):
    job = ["run", "clipped_gd", "--smoke", "--methods", *METHODS]
    return [sys.executable, "-m", "experiments", *job, "--out", str(out), *words]


def _start(out, *words):
    return subprocess.Popen(
        _command(out, *words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _files(out):
    return sorted((out / "groups").glob("*.parquet"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    done = _start(out)
    said, _ = done.communicate(timeout=300)
    assert done.returncode == 0, said
    return groups(out)


@pytest.fixture
def workers():
    """A cluster of two processes: its address, and a function that gives their numbers."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, protocol="tcp"
        ) as local,
        distributed.Client(local) as client,
    ):
        yield local.scheduler_address, lambda: list(client.run(os.getpid).values())


def test_a_worker_killed_in_the_middle_costs_nothing_and_repeats_nothing(workers, alone, tmp_path):
    address, pids = workers
    before = pids()
    process = _start(tmp_path, "--scheduler", address)
    while not _files(tmp_path):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    os.kill(before[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    found = groups(tmp_path)
    assert found == alone
    finished = [line for line in said.splitlines() if line.startswith("[")]
    assert len(finished) == len(alone) == len(set(line.split("]")[1] for line in finished))
    assert pids() != before


def test_local_processes_leave_the_store_that_one_process_leaves(alone, tmp_path):
    process = _start(tmp_path, "--scheduler", "local:2")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert groups(tmp_path).keys() == alone.keys()


def test_a_scheduler_that_does_not_answer_gets_one_line(tmp_path, capsys):
    job = ["run", "clipped_gd", "--smoke", "--out", str(tmp_path)]
    assert cli.main([*job, "--scheduler", "tcp://127.0.0.1:1"]) == 2
    error = capsys.readouterr().err
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in error and error.count("\n") == 1
