"""Finished groups, one parquet file each, that survive being killed at any moment.

A file is written under a temporary name, flushed to the disk and renamed: it is there whole or
not at all. Its name holds a hash of all that decides its content, so that a store may be shared
by studies and by processes: whoever comes second replaces a file by the same numbers.
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.errors import UserError

_STALE_SECONDS = 3600


class Store:
    """Groups of runs in one folder.

    Args:
        folder: where the files are; it is made if need be.
        warn: is told in one line when a damaged file is set aside.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None] = print):
        self.folder = folder
        self._warn = warn
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
        self._remove_stale()

    def path(self, key: str) -> Path:
        """The file of a group."""
        return self.folder / f"{key}.parquet"

    def load(self, key: str) -> pa.Table | None:
        """A finished group, or None where there is none that can be read."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            return _read(path, key)
        except (OSError, ValueError, pa.ArrowException) as error:
            self._set_aside(path, str(error).splitlines()[0] if str(error) else "unreadable")
            return None

    def save(self, key: str, table: pa.Table) -> None:
        """Keep a finished group."""
        marked = table.replace_schema_metadata({**(table.schema.metadata or {}), b"key": key})
        write_parquet(marked, self.path(key))

    def _set_aside(self, path: Path, why: str) -> None:
        aside = path.with_suffix(f".damaged-{time.time_ns()}")
        try:
            os.replace(path, aside)
        except FileNotFoundError:
            return
        self._warn(f"damaged file set aside as {aside.name}, its group runs again ({why})")

    def _remove_stale(self) -> None:
        # Left by a process that was killed while it wrote; a younger one may still be written.
        for path in self.folder.glob("*.tmp"):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)


def _read(path: Path, key: str) -> pa.Table:
    table = pq.read_table(path, page_checksum_verification=True)
    table.validate(full=True)
    if (table.schema.metadata or {}).get(b"key") != key.encode():
        raise ValueError("it holds another group")
    return table


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a table whole or not at all.

    Raises:
        UserError: the disk is full or refuses.
    """
    write_whole(path, lambda file: pq.write_table(table, file, write_page_checksum=True))


def write_text(path: Path, text: str) -> None:
    """Write a text to a file that appears under its name only when it is complete."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_whole(path: Path, write: Callable) -> None:
    """Let `write(file)` fill a file that appears under its name only when it is complete."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{time.time_ns()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise UserError(f"cannot write {path}: {why}") from error
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
