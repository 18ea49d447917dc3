"""The command line of the experiments, option by option and end to end."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from killed_runs import numbers
from paths import ROOT

from experiments import (
    board,
    cli,
    clippers,
    config,
    options,
    plan,
    provenance,
    report,
    runner,
    task,
)
from experiments.columns import COLUMNS, schema
from experiments.errors import UserError

# Options and settings


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there are list, run, leaderboard, report, compare, suggest"),
        (["coral"], "unknown command coral; there are list, run"),
        (["run"], "no task given; as in python -m experiments run chorales"),
        (["run", "coral"], "unknown task coral; there are adding, characters, chorales"),
        (["run", "chorales/gnu"], "chorales has no variant gnu; there are tanh"),
        (["run", "chorales", "--sedes", "3"], "unknown option --sedes; run has --task, --methods"),
        (["run", "chorales", "--seeds", "many"], "--seeds"),
        (["run", "chorales", "--seeds", "0"], "`seeds` must be at least 1, not 0"),
        (["run", "chorales", "--updates", "-1"], "`updates` must be at least 0, not -1"),
        (["run", "chorales", "--learning-rates", "-1"], "`learning_rates` must be positive"),
        (["run", "chorales", "--methods", "norm"], "unknown method norm; there are none"),
        (["run", "chorales", "--text", "a.txt"], "`text` is read by characters"),
        (["run", "chorales", "--config", "nowhere.toml"], "cannot read the config file nowhere"),
        (["run", "chorales", "--smoke", "--scheduler", "local:0"], "local:N, N at least 1"),
        (["run", "chorales", "surplus"], "surplus"),
        (["leaderboard", "--seeds", "2"], "unknown option --seeds; leaderboard has --full"),
        (["report", "--out", "nowhere"], "there is no nowhere/runs.parquet"),
        (["compare", "none", "zclip", "--out", "nowhere"], "there is no nowhere/runs.parquet"),
        (["suggest"], "no run given"),
        (["suggest", "3", "--out", "nowhere"], "there is no nowhere/runs.parquet; train runs"),
        (["suggest", "norms.csv"], "there is no file norms.csv"),
    ],
)
def test_a_wrong_command_line_gets_one_line(arguments, said, capsys, tmp_path):
    out = ["--out", str(tmp_path)] if "--smoke" in arguments else []
    assert cli.main([*arguments, *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize("name", ["run", "leaderboard", "report", "compare", "suggest"])
def test_help_names_every_option_with_its_default(name, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    fields = dataclasses.fields(options.COMMANDS[name])
    words = [
        field.name for field in fields if isinstance(field.default, str) and field.default == ""
    ]
    for field in fields:
        assert field.name in words or f"--{field.name.replace('_', '-')}" in shown
    assert shown.count("default") >= len(fields) - len(words) - 1


def test_a_config_file_sets_what_options_do_not(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('tasks = ["chorales/tanh", "weather"]\nseeds = 2\nvalues = [1, 2.5]\n')
    asked = options.study(options.parse(["run", "--config", str(path), "--seeds", "4"]))
    assert asked.tasks == ("chorales/tanh", "weather")
    assert asked.seeds == 4 and asked.values == (1.0, 2.5) and asked.held_out == 0
    alone = options.study(options.parse(["run", "weather", f"--config={path}"]))
    assert alone.tasks == ("weather",) and alone.seeds == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sedes = 3", "unknown key sedes; there are tasks, methods, seeds"),
        ("seeds = 0", "`seeds` must be at least 1, not 0"),
        ("seeds = 1.5", "`seeds` must be of type int, not 1.5"),
        ("seeds = true", "`seeds` must be of type int, not True"),
        ('tasks = "chorales"', "`tasks` must be a list, not 'chorales'"),
        ("learning_rates = ['a']", "`learning_rates` must be of type float, not 'a'"),
        ("seeds =", "cannot read the config file"),
    ],
)
def test_a_wrong_config_file_gets_one_line(text, said, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        options.read(path)
    assert said in str(error.value) and str(path) in str(error.value)


# Plans


def test_list_names_every_task_and_method(capsys):
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in (*task.NAMES, *clippers.NAMES) if name[:12] not in shown] == []


def test_dry_run_tells_the_time_and_trains_nothing(tmp_path, capsys):
    assert cli.main(["leaderboard", "--full", "--dry-run", "--out", str(tmp_path / "a")]) == 0
    assert "groups" in capsys.readouterr().out and not (tmp_path / "a").exists()


@pytest.mark.parametrize(("full", "minutes"), [(False, 30), (True, 120)])
def test_leaderboard_is_planned_to_end_in_time(full, minutes):
    groups = board.distinct(board.leaderboard(full=full))
    assert sum(map(plan.work, groups)) < 60 * minutes


def test_every_method_of_the_leaderboard_gets_the_same_budget():
    [part] = board.leaderboard()
    assert len({group.task for group in part.groups}) == 6
    assert {group.method for group in part.groups} == set(clippers.ASKED)
    for name in {group.task for group in part.groups}:
        groups = [group for group in part.groups if group.task == name]
        assert len({(group.learning_rates, group.seeds, group.held_out) for group in groups}) == 1
        assert all(len(group.held_out) >= 5 for group in groups)
        assert not set(groups[0].seeds) & set(groups[0].held_out)
    tuned = {
        len(group.arguments) for group in part.groups if clippers.LEGEND[group.method].argument
    }
    assert len(tuned) == 1


def test_parts_share_the_groups_that_they_have_in_common():
    parts = board.leaderboard(full=True)
    everything = [config.to_json(group) for part in parts for group in part.groups]
    assert len(board.distinct(parts)) == len(set(everything)) <= len(everything)


# Suggestions


def test_suggest_reads_files_and_says_which_it_cannot(tmp_path, capsys):
    norms = [1.0 + 0.1 * (i % 5) for i in range(60)]
    norms[30] = 50.0
    np.save(tmp_path / "a.npy", norms)
    rows = "".join(f"{i},{norm}\n" for i, norm in enumerate(norms))
    (tmp_path / "b.csv").write_text(f"step,norm\n{rows}")
    (tmp_path / "c.txt").write_text("\n".join(map(str, norms)))
    said = []
    for name in ("a.npy", "b.csv", "c.txt"):
        assert cli.main(["suggest", str(tmp_path / name), "--out", str(tmp_path)]) == 0
        said.append(capsys.readouterr().out.splitlines()[1:-1])
        assert "<svg" in (tmp_path / f"suggest-{name[0]}.svg").read_text()
    assert said[0] == said[1] == said[2] and said[0][0] == "threshold 1.4"
    (tmp_path / "few.txt").write_text("1.0\n2.0")
    (tmp_path / "words.csv").write_text("step,loss\n1,2")
    for name, wrong in (("few.txt", "at least 20"), ("words.csv", "cannot read norms")):
        assert cli.main(["suggest", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert wrong in error and error.count("\n") == 1


# The command, end to end

METHODS = ("none", "global_norm")
SMOKE = {
    "clipped_gd/start 4": ["run", "clipped_gd", "--smoke", "--methods", *METHODS],
    "chorales/tanh": ["run", "chorales", "--smoke"],
}
FLOORS = {"clipped_gd/start 4": "is never at most", "chorales/tanh": "independent keys"}


@pytest.fixture(scope="module")
def environment():
    chosen = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **chosen}


def _run(out, environment, *words):
    done = subprocess.run(
        [sys.executable, "-m", "experiments", *words, "--out", str(out)],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class Smoke(NamedTuple):
    """A finished run: its one place, its words, its folder, what it said, and how to repeat it."""

    place: str
    words: list[str]
    out: Path
    said: str
    run: Callable[[Path], str]

    @property
    def planned(self):
        return plan.groups(options.study(options.parse(self.words)), smoke=True)


@pytest.fixture(
    scope="module", params=["here", pytest.param("apart", marks=pytest.mark.exhaustive)]
)
def smoke(request, tmp_path_factory, environment):
    """Of one task in this process, of another in one of its own."""
    out = tmp_path_factory.mktemp("smoke")
    if request.param == "apart":
        pytest.importorskip("music21", reason="needs the package music21")
        words = SMOKE[place := "chorales/tanh"]

        def run(out):
            return _run(out, environment, *words)

        yield Smoke(place, words, out, run(out), run)
        return
    words = SMOKE[place := "clipped_gd/start 4"]

    def run(out):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert cli.main([*words, "--out", str(out)]) == 0
        return said.getvalue()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_bundle", lambda: "// it takes seconds to make")
        yield Smoke(place, words, out, run(out), run)


def test_smoke_writes_every_run_and_the_page(smoke):
    table, planned = pq.read_table(smoke.out / "runs.parquet"), smoke.planned
    assert len(table) == sum(group.runs for group in planned)
    assert table.schema.equals(schema(COLUMNS))
    assert set(table["failed"].to_pylist()) == {True, False}
    assert f"[{len(planned)}/{len(planned)}, 0:00 left]" in smoke.said
    assert FLOORS[smoke.place] in (smoke.out / "report.html").read_text()
    asked = config.to_json(options.study(options.parse(smoke.words)))
    assert set(table["study"].to_pylist()) == {asked}


def test_threshold_is_suggested_for_a_recorded_run(smoke, capsys):
    out = smoke.out
    count = len(pq.read_table(out / "runs.parquet"))
    assert cli.main(["suggest", "0", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "none" in said.splitlines()[0] and "\nthreshold " in said
    assert said.rstrip().endswith(f"look at {out / 'suggest-0.svg'}")
    assert cli.main(["suggest", str(count), "--out", str(out)]) == 2
    assert f"has the runs 0 to {count - 1}" in capsys.readouterr().err


def test_two_methods_are_compared_on_each_task(smoke, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    out = smoke.out
    assert cli.main(["compare", *METHODS, "--out", str(out)]) == 0
    assert smoke.place in capsys.readouterr().out
    for words, wrong in (
        (["none", "none"], "not none with itself"),
        (["none", "zclip"], "no task here was run with both none and zclip"),
        (["none", "norm"], "unknown method norm"),
    ):
        assert cli.main(["compare", *words, "--out", str(out)]) == 2
        assert wrong in capsys.readouterr().err


def test_page_needs_the_curves_that_a_digest_leaves_out(smoke, tmp_path, capsys):
    runs = pq.read_table(smoke.out / "runs.parquet")
    pq.write_table(runs.drop_columns(["loss"]), tmp_path / "runs.parquet")
    assert cli.main(["report", "--out", str(tmp_path)]) == 2
    assert "without curves, which the page shows" in capsys.readouterr().err


def test_started_again_it_trains_nothing_and_says_the_same(smoke):
    before = numbers(smoke.out / "runs.parquet")
    assert smoke.run(smoke.out).count("already there") == len(smoke.planned)
    assert numbers(smoke.out / "runs.parquet") == before


CHECKED = ["run", "clipped_gd", "--smoke", "--methods", "autoclip", "--values", "50"]


@pytest.mark.exhaustive
def test_values_are_checked_before_jax_counts_its_devices(environment, tmp_path):
    script = (
        "import sys; from experiments import cli; import jax\n"
        "cli.main(sys.argv[1:]); print('devices', jax.device_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *CHECKED, "--dry-run", "--out", str(tmp_path)],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert f"devices {min(provenance.cores(), 6)}\n" in done.stdout, done.stderr


@pytest.mark.exhaustive
def test_values_are_checked_without_keeping_cores_idle(environment, tmp_path):
    _run(tmp_path, environment, *CHECKED)
    [versions] = set(pq.read_table(tmp_path / "runs.parquet")["versions"].to_pylist())
    assert f"{min(provenance.cores(), 6)} cpu devices" in json.loads(versions)["machine"]


def _wait_for_groups(out, process, count):
    while len(list((out / "groups").glob("*.parquet"))) < count:
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.02)


def test_a_damaged_group_is_named_and_trained_again(smoke, tmp_path):
    (tmp_path / "groups").mkdir()
    kept = sorted((smoke.out / "groups").glob("*.parquet"))
    for path in kept:
        (tmp_path / "groups" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "groups" / kept[0].name).write_bytes(b"damaged")
    said = smoke.run(tmp_path)
    assert "damaged file set aside" in said and said.count("already there") == len(kept) - 1
    assert numbers(tmp_path / "runs.parquet") == numbers(smoke.out / "runs.parquet")


@pytest.mark.parametrize("smoke", ["here"], indirect=True)  # another process has other devices
def test_stopped_between_groups_it_says_how_to_go_on_and_does(smoke, tmp_path, monkeypatch, capsys):
    words, compute, left = [*smoke.words, "--out", str(tmp_path)], runner.compute, threading.Event()

    def stopping(group, *rest):
        if group.method == "none":
            return compute(group, *rest)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        left.wait(60)  # as a compiler would that does not come back
        raise SystemExit

    # A program that a shell started in the background, these tests perhaps, ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(runner, "compute", stopping)
            assert cli.main(words) == 130
    finally:
        signal.signal(signal.SIGINT, before)
        left.set()
    said = capsys.readouterr().err
    assert f"stopped: 1 of {len(smoke.planned)} groups are kept" in said
    assert "the same command goes on" in said and "Traceback" not in said
    assert smoke.run(tmp_path).count("already there") == 1
    assert numbers(tmp_path / "runs.parquet") == numbers(smoke.out / "runs.parquet")


@pytest.mark.exhaustive
def test_killed_at_twenty_moments_it_keeps_the_store_of_one_left_alone(tmp_path, environment):
    words = ["run", "clipped_gd", "--smoke", "--methods", *clippers.NAMES[:6]]
    script = [sys.executable, str(ROOT / "tests/helpers/killed_runs.py"), str(tmp_path), *words]
    # Without the cache of compiled programs: a process may be killed while it writes there.
    plain = {key: value for key, value in environment.items() if "CACHE" not in key}
    done = subprocess.run(script, env=plain, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "20 kills" in done.stdout


# A program that a shell started in the background, these tests perhaps, ignores the signal.
_INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("experiments", run_name="__main__")
"""


@pytest.mark.exhaustive
def test_interrupted_it_leaves_at_once_with_a_word_on_how_to_go_on(environment, tmp_path):
    pytest.importorskip("music21", reason="needs the package music21")
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTIBLE, *SMOKE["chorales/tanh"], "--out", str(tmp_path)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, cwd=ROOT,
    )  # fmt: skip
    _wait_for_groups(tmp_path, process, 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said and "Traceback" not in said
