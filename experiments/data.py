"""Bach's chorales, read out of the installed package `music21` without importing it.

A chorale is four voices sampled once a quarter note, a MIDI pitch each and -1 for a rest. The
scores are distributed by permission of their encoder and are not kept here: they are parsed
once, in about two seconds, and the arrays are kept in the platform's cache folder.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import platformdirs

from experiments.errors import UserError

CACHE_VARIABLE = "CLIPAX_CACHE"
SPLITS = ("train", "valid", "test")
LOWEST_KEY, KEYS = 21, 88
_SPLIT_FILE = Path(__file__).parent / "tasks" / "jsb_split.json"
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_VOICES = ("sop", "alt", "ten", "bass")
Note = tuple[float, float, int]


class Chorales(NamedTuple):
    """Voices of each chorale, int8 `[time, 4]`, by split; `digest` is the hash of them all."""

    train: list[np.ndarray]
    valid: list[np.ndarray]
    test: list[np.ndarray]
    digest: str


def cache_folder() -> Path:
    """Where parsed data is kept: `$CLIPAX_CACHE`, or the platform's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("clipax"))


def load_chorales(cache: Path | None = None) -> Chorales:
    """The 369 chorales in their published split, from the cache or from the package.

    Args:
        cache: folder of the parsed arrays; `None` means `cache_folder()`.

    Raises:
        UserError: the package that holds the scores is not installed.
    """
    folder = cache or cache_folder()
    path = folder / f"chorales-{_version()}-{_split_digest()[:8]}.npz"
    return _read(path) or _write(path, parse_chorales())


def parse_chorales(per_quarter: int = 1) -> Chorales:
    """Parse every chorale of the split, sampled `per_quarter` times a quarter note."""
    folder = _corpus()
    split = json.loads(_SPLIT_FILE.read_text())
    parts = [
        [parse_score(folder / f"{name}.mxl", per_quarter) for name in split[part]]
        for part in SPLITS
    ]
    return Chorales(*parts, digest=digest(*parts))


def digest(*parts: list[np.ndarray]) -> str:
    """sha256 of the voices in the order train, valid, test."""
    content = hashlib.sha256()
    for voices in (voices for part in parts for voices in part):
        content.update(np.ascontiguousarray(voices, np.int8).tobytes())
    return content.hexdigest()


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


def _corpus() -> Path:
    found = importlib.util.find_spec("music21")
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "the chorales are part of the package music21, which is not installed; "
            'run: pip install "clipax[experiments]"'
        )
    return Path(found.submodule_search_locations[0]) / "corpus" / "bach"


def _version() -> str:
    _corpus()
    return importlib.metadata.version("music21")


def _split_digest() -> str:
    return hashlib.sha256(_SPLIT_FILE.read_bytes()).hexdigest()


def _write(path: Path, data: Chorales) -> Chorales:
    path.parent.mkdir(parents=True, exist_ok=True)
    every = [*data.train, *data.valid, *data.test]
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            voices=np.concatenate(every),
            lengths=[len(voices) for voices in every],
            splits=[len(data.train), len(data.valid), len(data.test)],
            digest=data.digest,
        )
    os.replace(temporary, path)
    return data


def _read(path: Path) -> Chorales | None:
    # Whatever is wrong with the cache, the package still has the scores.
    try:
        with path.open("rb") as file, np.load(file) as stored:
            every = np.split(stored["voices"], np.cumsum(stored["lengths"])[:-1])
            ends = np.cumsum(stored["splits"])
            expected = str(stored["digest"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    parts = [every[: ends[0]], every[ends[0] : ends[1]], every[ends[1] :]]
    return Chorales(*parts, digest=expected) if digest(*parts) == expected else None


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
