"""Bach's chorales, from the package `music21`.

A chorale is four voices sampled once a quarter note, a MIDI pitch each and -1 for a rest. The
scores are distributed by permission of their encoder and are not kept here: they are parsed
once, in about two seconds, and the arrays are kept in the cache.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from experiments import data

SPLITS = ("train", "valid", "test")
LOWEST_KEY, KEYS = 21, 88
_SPLIT_FILE = Path(__file__).with_name("jsb_split.json")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_VOICES = ("sop", "alt", "ten", "bass")
Note = tuple[float, float, int]


class Chorales(NamedTuple):
    """Voices of each chorale, int8 `[time, 4]`, by split; `digest` is the hash of them all."""

    train: list[np.ndarray]
    valid: list[np.ndarray]
    test: list[np.ndarray]
    digest: str


def load(cache: Path | None = None) -> Chorales:
    """The 369 chorales in their published split, from the cache or from the package.

    Args:
        cache: folder of the cached arrays; `None` means `data.cache_folder()`.

    Raises:
        UserError: the package that holds the scores is not installed.
    """
    split = hashlib.sha256(_SPLIT_FILE.read_bytes()).hexdigest()
    name = f"chorales-{data.version('music21')}-{split[:8]}"
    return _unpack(**data.kept(cache, name, lambda: _pack(parse())))


def _pack(chorales: Chorales) -> dict[str, np.ndarray]:
    every = [*chorales.train, *chorales.valid, *chorales.test]
    return {
        "voices": np.concatenate(every),
        "lengths": np.array([len(voices) for voices in every]),
        "splits": np.array([len(chorales.train), len(chorales.valid), len(chorales.test)]),
    }


def _unpack(voices: np.ndarray, lengths: np.ndarray, splits: np.ndarray) -> Chorales:
    every = np.split(voices, np.cumsum(lengths)[:-1])
    train, valid, _ = np.cumsum(splits)
    return Chorales(every[:train], every[train:valid], every[valid:], data.digest(voices))


def parse(per_quarter: int = 1) -> Chorales:
    """Parse every chorale of the split, sampled `per_quarter` times a quarter note."""
    folder = data.package("music21", "corpus/bach")
    split = json.loads(_SPLIT_FILE.read_text())
    train, valid, test = (
        [parse_score(folder / f"{name}.mxl", per_quarter) for name in split[part]]
        for part in SPLITS
    )
    return Chorales(train, valid, test, data.digest(*train, *valid, *test))


def parse_score(path: Path, per_quarter: int) -> np.ndarray:
    """Voices of one compressed MusicXML file, int8 `[time, 4]`."""
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if _is_score(n))
        root = ElementTree.fromstring(archive.read(name))
    # The piece ends where its longest part does, an instrument's included.
    end = max(start + length for part in root.iter("part") for start, length, _ in _notes(part))
    voices = [_sample(_notes(part), end, per_quarter) for part in _four_parts(root)]
    return np.stack(voices, axis=1)


def _is_score(name: str) -> bool:
    return not name.startswith("META-INF") and name.endswith(("xml", "musicxml"))


def _four_parts(root: ElementTree.Element) -> list[ElementTree.Element]:
    parts = {part.get("id"): part for part in root.iter("part")}
    names = {
        entry.get("id"): (entry.findtext("part-name") or "").strip().lower()
        for entry in root.iter("score-part")
    }
    if len(parts) == len(_VOICES):
        return list(parts.values())

    def find(voice: str) -> ElementTree.Element:
        return next(part for i, part in parts.items() if names[i].startswith(voice))

    return [find(voice) for voice in _VOICES]


def _notes(part: ElementTree.Element) -> Iterator[Note]:
    """Start and length in quarter notes, and pitch, of everything that sounds or rests."""
    clock = start = 0.0
    divisions = 1.0
    for item in part.iterfind("measure/*"):
        if item.tag == "attributes":
            divisions = float(item.findtext("divisions") or divisions)
        length = float(item.findtext("duration") or 0) / divisions
        if item.tag == "note" and item.find("grace") is None:
            start = start if item.find("chord") is not None else clock
            yield start, length, _pitch(item)
            clock = start + length
        elif item.tag in ("forward", "backup"):
            clock += length if item.tag == "forward" else -length


def _pitch(note: ElementTree.Element) -> int:
    pitch = note.find("pitch")
    if pitch is None:
        return -1
    octave = int(pitch.findtext("octave") or 0)
    alter = round(float(pitch.findtext("alter") or 0))
    return 12 * (octave + 1) + _STEPS[pitch.findtext("step") or "C"] + alter


def _sample(notes: Iterable[Note], end: float, per_quarter: int) -> np.ndarray:
    voice = np.full(int(np.ceil(end * per_quarter - 1e-9)), -1, np.int8)
    for start, length, pitch in notes:
        first, last = np.ceil(np.array([start, start + length]) * per_quarter - 1e-9).astype(int)
        if pitch >= 0:
            voice[first:last] = pitch
    return voice


def piano_rolls(chorales: list[np.ndarray], margin: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Chorales as one padded uint8 array of sounding keys, and their lengths.

    Args:
        chorales: voices of each.
        margin: silent keys added below and above the 88 of the piano.

    Returns:
        Rolls `[chorale, time, keys]` and lengths `[chorale]`.
    """
    lengths = np.array([len(voices) for voices in chorales], np.int32)
    rolls = np.zeros((len(chorales), lengths.max(), KEYS + 2 * margin), np.uint8)
    for roll, voices in zip(rolls, chorales, strict=True):
        time, voice = np.nonzero(voices >= 0)
        roll[time, voices[time, voice] - LOWEST_KEY + margin] = 1
    return rolls, lengths
