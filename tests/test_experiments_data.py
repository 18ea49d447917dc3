"""The data of the experiments."""

import importlib.util

import numpy as np
import pytest

from experiments import data
from experiments.errors import UserError
from experiments.tasks import chorales

needs_music = pytest.mark.skipif(
    importlib.util.find_spec("music21") is None, reason="needs the package music21"
)


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
