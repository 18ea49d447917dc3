"""The findings and the page, on runs made up so that the answer is known."""

import html
import json
import re
import shutil
import subprocess
import tempfile

import numpy as np
import pyarrow as pa
import pytest

from experiments import clippers, findings, report
from experiments.results import Study


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
