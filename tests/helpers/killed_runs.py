"""Kills a command at twenty random moments, and says whether its store is that of one left alone.

Run as `python tests/helpers/killed_runs.py FOLDER COMMAND...`: each try is a fork of this process,
which has imported everything and computed nothing, so that nearly all of it is the command's own
work.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from experiments import cli

KILLS = 20
TIMES = ["seconds", "step_seconds"]


def start(command, out):
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os._exit(cli.main([*command, "--out", str(out)]))
    return pid


def numbers(path):
    """All of a file of runs but the times, as text: NaN is then equal to itself."""
    return str(pq.read_table(path).drop_columns(TIMES).to_pydict())


def groups(out):
    """Runs of each finished group; fails on a file that is not whole."""
    return {path.name: numbers(path) for path in (out / "groups").glob("*.parquet")}


def kill_once(command, out, moment):
    """Whether the command was still running at that moment, and was killed."""
    pid = start(command, out)
    time.sleep(moment)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def main(folder, command):
    begin = time.monotonic()
    _, status = os.waitpid(start(command, folder / "alone"), 0)
    whole = time.monotonic() - begin
    assert status == 0, "the command failed when nobody killed it"
    expected, killed, kept = groups(folder / "alone"), folder / "killed", {}
    rng, kills, tries = random.Random(0), 0, 0
    while kills < KILLS:
        tries += 1
        assert tries < 5 * KILLS, "it ends before it can be killed"
        kills += kill_once(command, killed, rng.uniform(0, whole / 4))
        found = groups(killed)
        assert all(found[name] == expected[name] for name in found), "other numbers"
        assert set(kept) <= set(found), "a finished group was lost"
        kept = found
    _, status = os.waitpid(start(command, killed), 0)
    assert status == 0 and groups(killed).keys() == expected.keys()
    assert numbers(killed / "runs.parquet") == numbers(folder / "alone" / "runs.parquet")
    leftover = [path.name for path in (killed / "groups").glob("*.damaged*")]
    assert not leftover, leftover
    print(f"{kills} kills in {tries} tries, {len(expected)} groups, {whole:.1f} s alone")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
