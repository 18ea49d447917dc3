"""The experiments: data, loop, store, command line and page."""

import dataclasses
import html
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from experiments import cli, clippers, config, data, findings, report, runner, scores
from experiments.errors import UserError
from experiments.progress import Progress, clock
from experiments.results import COLUMNS, Study
from experiments.store import Store
from experiments.tasks import chorales
from experiments.train import train

ROOT = Path(__file__).parent.parent
needs_music = pytest.mark.skipif(
    importlib.util.find_spec("music21") is None, reason="needs the package music21"
)


# Data


@needs_music
def test_chorales_have_the_published_split_and_content():
    parsed = data.parse_chorales(per_quarter=4)
    counts = [(len(part), sum(map(len, part))) for part in parsed[:3]]
    assert counts == [(221, 48300), (72, 15516), (76, 17280)]
    assert parsed.digest.startswith("744d15c71e13128d")


def _three_chorales():
    rng = np.random.default_rng(0)
    parts = [[rng.integers(40, 80, (length, 4), np.int8)] for length in (7, 5, 6)]
    return data.Chorales(*parts, digest=data.digest(*parts))


def test_cache_is_read_and_a_damaged_one_parsed_again(tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(data, "_version", lambda: "0")
    monkeypatch.setattr(data, "parse_chorales", lambda: parsed.append(1) or _three_chorales())
    digests = [data.load_chorales(tmp_path).digest for _ in range(2)]
    assert len(set(digests)) == 1 and len(parsed) == 1
    [path] = tmp_path.iterdir()
    for damaged in (path.read_bytes()[:300], b"", path.read_bytes()[:-3] + b"abc"):
        path.write_bytes(damaged)
        assert data.load_chorales(tmp_path).digest == digests[0]
    assert len(parsed) == 4


@needs_music
def test_quarter_notes_and_floors_are_the_expected_ones():
    found = chorales.floors(data.load_chorales())
    assert found["valid"] == pytest.approx(11.29, abs=0.01)
    assert found["test"] == pytest.approx(11.45, abs=0.01)
    counts = [sum(map(len, part)) for part in data.load_chorales()[:3]]
    assert counts == [12075, 3879, 4320]


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"music21.*pip install"):
        data.load_chorales()


def test_score_of_four_voices_is_sampled_on_the_beat(tmp_path):
    def part(name, notes):
        start = "<attributes><divisions>2</divisions></attributes>"
        return f'<part id="{name}"><measure>{start}{notes}</measure></part>'

    def note(step, duration, extra=""):
        pitch = f"<pitch><step>{step}</step><alter>1</alter><octave>4</octave></pitch>"
        return f"<note>{extra}{pitch if step else '<rest/>'}<duration>{duration}</duration></note>"

    grace = "<note><grace/><pitch><step>A</step><octave>4</octave></pitch></note>"
    voices = [
        note("C", 2) + grace + note("D", 2),
        note("", 2) + note("E", 2),
        note("C", 4),
        note("F", 1) + note("G", 1) + "<forward><duration>2</duration></forward>",
    ]
    body = "".join(part(f"P{i}", notes) for i, notes in enumerate(voices))
    path = tmp_path / "score.mxl"
    with data.zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", "<container/>")
        archive.writestr("score.xml", f"<score-partwise>{body}</score-partwise>")
    assert data.parse_score(path, 1).tolist() == [[61, -1, 61, 66], [63, 65, 61, -1]]


# Settings and command line


def test_unknown_keys_are_rejected():
    with pytest.raises(ValueError, match="no key 'sedes'; it has clippers, cells"):
        config.from_mapping(config.Chorales, {"sedes": 3})
    made = config.from_mapping(config.Chorales, {"learning_rates": [0.1]})
    assert made.learning_rates == (0.1,)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there are chorales, report"),
        (["coral"], "unknown command coral; there are chorales, report"),
        (["chorales", "--sedes", "3"], "unknown option --sedes; chorales has --clippers"),
        (["chorales", "--seeds", "many"], "--seeds"),
        (["chorales", "--seeds", "0"], "`seeds` must be at least 1, not 0"),
        (["chorales", "--updates", "0"], "`updates` must be at least 1, not 0"),
        (["chorales", "--learning-rates", "-1"], "`learning_rates` must be positive"),
        (["chorales", "--clippers", "norm"], "unknown clipper norm; there are none, global_norm"),
        (["chorales", "surplus"], "surplus"),
        (["report", "--out", "nowhere"], "there is no nowhere/runs.parquet"),
    ],
)
def test_a_wrong_command_line_gets_one_line(arguments, said, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert said in error


def test_help_names_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["chorales", "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(cli.ChoralesOptions):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert shown.count("default") >= len(dataclasses.fields(cli.ChoralesOptions)) - 1


def test_every_row_of_the_legend_is_drawn_differently():
    looks = {(row.color, row.marker) for row in clippers.ROWS}
    assert len(looks) == len(clippers.ROWS) == len(clippers.LEGEND)
    assert clippers.LEGEND["none"].arguments == {}


def test_whole_job_has_the_runs_that_it_promises():
    plan = chorales.plan(config.Chorales())
    study = [group for group in plan if group.role == "study"]
    assert {group.cell for group in study} == {"tanh", "lstm"}
    assert {len(group.learning_rates) for group in study} == {6}
    assert {len(group.seeds) for group in study} == {3}
    assert {clippers.LEGEND[group.clipper].name for group in study} == set(clippers.NAMES)
    assert len({config.to_json(group) for group in plan}) == len(plan)


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


# Findings and page, on runs made up so that the answer is known


def _made_up(seeds=3):
    rates = [0.1, 1.0, 10.0]
    known = {
        "none": [9.5, 12.0, np.nan],
        "global_norm(1)": [9.5, 9.0, 11.8],
        "global_norm(0.3)": [9.9, 9.2, 9.1],
        "adaptive": [9.5, 9.4, 40.0],
    }
    rows = [
        _made_up_row(label, rate, seed, value)
        for label, values in known.items()
        for rate, value in zip(rates, values, strict=True)
        for seed in range(seeds)
    ]
    reference = _made_up_row("global_norm(1)", 0.015, 0, 8.4)
    rows.append(reference | {"role": "reference", "cell": "lstm", "optimizer": "adam"})
    about = {"command": "python -m experiments chorales --clippers '<b>'", "seconds": "75"}
    about |= {"finished": "0", "floors": json.dumps({"valid": 11.29, "test": 11.45})}
    return pa.Table.from_pylist(rows).replace_schema_metadata(about)


def _made_up_row(label, rate, seed, value):
    row = clippers.LEGEND[label]
    lost = not value < 11.29
    loss = np.linspace(11, value, 60) if np.isfinite(value) else np.full(60, np.nan)
    return {
        "task": "chorales", "role": "study", "clipper": row.name, "label": label, "cell": "tanh",
        "arguments": json.dumps(row.arguments), "width": 8, "optimizer": "momentum",
        "updates": 60, "batch": 4, "length": 16, "seed": seed, "learning_rate": rate,
        "valid_nll": value + 0.01 * seed, "test_nll": value + 0.1 + 0.01 * seed,
        "train_loss": value, "failed": lost, "clip_share": 0.05 if label != "none" else 0.0,
        "spike_score": 0.0, "seconds": 1.0, "data_hash": "d" * 64,
        "versions": json.dumps({"jax": "1", "machine": "a machine", "source": "s"}),
        "loss": loss, "norm": np.full(60, 5e3 if lost else 1.0), "clipped": np.zeros(60, bool),
        "threshold": np.full(60, 1e3 if lost else 1.0) if label != "none" else np.full(60, np.inf),
    }  # fmt: skip


def test_findings_follow_the_numbers():
    study = Study(_made_up())
    assert findings.decades(study, "tanh", "none") == 0
    assert findings.decades(study, "tanh", "global_norm(0.3)") == pytest.approx(2)
    lines = findings.findings(study)
    text = [f"{line.question} {line.numbers} {line.verdict}" for line in lines]
    for question, answer in {
        "widen the range": "Yes, by 2.0 decades at best.",
        "improve the best score": "Better by 0.50 nats",
        "to save a run": "5.0% of the steps",
        "a single learning rate show": "At 0.1, global_norm(0.3) is 0.4 nats worse",
        "follow an explosion": "Yes, in some",
        "difference means": "0.02 nats",
        "other models": "one width (8)",
    }.items():
        assert [answer in line for line in text if question in line] == [True], question


def test_findings_need_a_comparison():
    table = _made_up()
    alone = table.filter(pa.array([label == "none" for label in table["label"].to_pylist()]))
    questions = [line.question for line in findings.findings(Study(alone))]
    assert len(questions) == 2 and "difference means" in questions[0]


def test_curves_show_an_exploding_and_a_calm_run_of_the_same_start():
    chosen = report.choose_curves(Study(_made_up()), "tanh")
    assert chosen["exploding"]["label"] == "none" and not chosen["calm"]["failed"]
    assert len({(run["seed"], run["learning_rate"]) for run in chosen.values()}) == 1


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return report.write(_made_up(), tmp_path_factory.mktemp("page"))


def test_page_says_what_it_must_and_asks_nobody(page):
    text = page.read_text()
    for wanted in (
        "not finite", "3 of 3 failed", "clipped 5 %", "9.50", "independent keys", "a machine",
        "d" * 64, "jax 1", "8.50", "prefers-color-scheme: dark", "&lt;b&gt;",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert len(re.findall(r"<svg ", text)) >= 4 + 1 + 2
    loaded = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", text)
    addresses = ["".join(match) for match in loaded]
    assert [a for a in addresses if not a.startswith(("#", "data:"))] == []
    assert "<script" not in text
    identifiers = re.findall(r'\bid="([^"]*)"', text)
    assert len(identifiers) == len(set(identifiers))


def test_a_figure_that_stands_alone_is_saved(page):
    assert (page.parent / "chorales.png").read_bytes().startswith(b"\x89PNG")
    assert "var(--" not in (page.parent / "chorales.svg").read_text()


# The command, end to end

SMOKE = ["chorales", "--smoke"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    compiled = str(tmp_path_factory.mktemp("compiled"))
    chosen = {"JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PLATFORMS": "cpu"}
    chosen["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return {**os.environ, **chosen, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _command(out):
    return [sys.executable, "-m", "experiments", *SMOKE, "--out", str(out)]


def _run(out, environment):
    done = subprocess.run(
        _command(out), env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _numbers(out):
    table = pq.read_table(out / "runs.parquet").drop_columns(["seconds"])
    return table.replace_schema_metadata(None)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, environment):
    pytest.importorskip("music21", reason="needs the package music21")
    out = tmp_path_factory.mktemp("smoke")
    return out, _run(out, environment)


def test_smoke_writes_every_run_and_the_page(smoke):
    out, said = smoke
    table = pq.read_table(out / "runs.parquet")
    plan = chorales.plan(config.SMOKE)
    assert len(table) == sum(group.runs for group in plan)
    named = {name for names in COLUMNS for name in names.split(", ")}
    assert named == set(table.column_names)
    assert {len(curve) for curve in table["loss"].to_pylist()} == {60}
    assert set(table["failed"].to_pylist()) == {True, False}
    assert f"[{len(plan)}/{len(plan)}, 0:00 left]" in said
    assert "independent keys" in (out / "report.html").read_text()


def test_started_again_it_trains_nothing_and_says_the_same(smoke, environment):
    out, _ = smoke
    before = _numbers(out)
    said = _run(out, environment)
    assert said.count("already there") == len(chorales.plan(config.SMOKE))
    assert _numbers(out).equals(before)


def _wait_for_groups(out, process, count):
    while len(list((out / "groups").glob("*.parquet"))) < count:
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.02)


def test_killed_and_started_again_it_gives_the_same_numbers(smoke, environment, tmp_path):
    process = subprocess.Popen(_command(tmp_path), env=environment, stdout=subprocess.DEVNULL)
    _wait_for_groups(tmp_path, process, 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "runs.parquet").exists()
    [victim, *_] = (tmp_path / "groups").glob("*.parquet")
    victim.write_bytes(b"damaged")
    assert "damaged file set aside" in _run(tmp_path, environment)
    assert _numbers(tmp_path).equals(_numbers(smoke[0]))


def test_interrupted_it_leaves_with_a_word_on_how_to_go_on(environment, tmp_path):
    pytest.importorskip("music21", reason="needs the package music21")
    process = subprocess.Popen(
        _command(tmp_path), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    _wait_for_groups(tmp_path, process, 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said and "Traceback" not in said


# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
MEASURE = """
const page = document.querySelector("iframe").contentDocument;
const boxes = [...page.querySelectorAll("svg")].map(
  svg => [...svg.querySelectorAll("text")].map(text => text.getBoundingClientRect()));
const apart = (a, b) => a.right < b.left + 1 || b.right < a.left + 1
  || a.bottom < b.top + 2 || b.bottom < a.top + 2;
const overlaps = boxes.map(
  row => row.filter((a, i) => row.slice(i + 1).some(b => !apart(a, b))).length);
const found = {
  width: page.documentElement.scrollWidth,
  window: page.documentElement.clientWidth,
  overlaps: overlaps.reduce((a, b) => a + b, 0),
  figures: boxes.length,
  requests: performance.getEntriesByType("resource").map(entry => entry.name),
};
document.querySelector("output").textContent = JSON.stringify(found);
"""


def _measure(page, width):
    """What a browser makes of a page, in a frame of this width."""
    inside = html.escape(page.read_text())
    frame = f'<iframe width="{width}" height="900" style="border:0" srcdoc="{inside}"></iframe>'
    wrapper = page.parent / f"frame-{width}.html"
    wrapper.write_text(
        f'<!doctype html><meta charset="utf-8">{frame}<output></output>'
        f'<script>addEventListener("load", () => {{ {MEASURE} }})</script>'
    )
    with tempfile.TemporaryDirectory() as profile:
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        done = subprocess.run(
            [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
                "--no-first-run", *quiet, f"--user-data-dir={profile}", "--window-size=1800,1000",
                "--hide-scrollbars", "--virtual-time-budget=5000", "--dump-dom", wrapper.as_uri(),
            ],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    return json.loads(html.unescape(re.findall(r"<output>(.*?)</output>", done.stdout)[0]))


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs a Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [360, 1600])
def test_page_fits_the_window_and_no_labels_overlap(width, page):
    found = _measure(page, width)
    assert found["window"] == width and found["width"] <= width
    assert found["figures"] >= 7 and found["overlaps"] == 0
    assert found["requests"] == []
