"""The scripts in examples/ train, log what their clippers do, and stay short."""

import re
import runpy

import peers
import pytest
from paths import ROOT

FOLDER = ROOT / "examples"
SCRIPTS = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
PRINTING = sorted(SCRIPTS.keys() - {"tensorboard_logging", "wandb_offline"})
METRICS = {"norm", "threshold", "factor", "clipped", "clip_rate", "nonfinite"}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a script, which must have learnt something, and gives what it printed."""

    def run_script(name):
        monkeypatch.setattr("sys.argv", [str(SCRIPTS[name]), str(tmp_path)])
        runpy.run_path(str(SCRIPTS[name]), run_name="__main__")
        output = capsys.readouterr().out
        losses = re.findall(r"loss (\S+) -> ([\d.]+)", output)
        assert losses
        for before, after in losses:
            assert float(after) < 0.2 * float(before)
        return output

    return run_script


def logged(output):
    """The metrics of each line that tells of clipping."""
    lines = re.findall(r"^clipping: (.+)$", output, re.MULTILINE)
    return [
        {key: float(value) for key, value in re.findall(r"(\S+)=(\S+)", line)} for line in lines
    ]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", PRINTING)
def test_trains_and_tells_what_was_clipped(name, run):
    output = run(name)
    rows = logged(output)
    assert len(rows) == output.count("loss ")
    for row in rows:
        assert row.keys() == METRICS
        assert row["norm"] > 0 and row["threshold"] > 0
        assert 0 < row["clip_rate"] < 1
        assert row["nonfinite"] == 0
    if name == "orbax_restart":
        assert "same as uninterrupted: True" in output
    if name == "jmp_float16":
        assert float(re.search(r"scale (\d+)", output)[1]) < 2**24  # it did overflow


@pytest.mark.exhaustive
def test_tensorboard_has_the_metrics_of_every_step(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run("tensorboard_logging")
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= METRICS | {"loss", "monitor/in/norm", "monitor/out/norm"}
    assert all(len(events.Scalars(tag)) == 100 for tag in tags)
    assert 0 < events.Scalars("clip_rate")[-1].value < 1


@pytest.mark.parity
def test_weights_and_biases_has_the_metrics_offline(run, tmp_path, monkeypatch):
    peers.package("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run("wandb_offline")
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = path.read_bytes()
    for key in METRICS:
        assert f"clipping/{key}".encode() in content


@pytest.mark.parametrize("name", SCRIPTS)
def test_is_at_most_forty_lines_and_says_how_to_run_it(name):
    text = SCRIPTS[name].read_text()
    assert len(text.splitlines()) <= 40
    assert f"python examples/{name}.py" in text.split('"""')[1]


def test_table_has_every_script_once():
    table = re.findall(r"\[(\w+)\.py\]\((\w+)\.py\)", (FOLDER / "README.md").read_text())
    assert sorted(table) == [(name, name) for name in SCRIPTS]
