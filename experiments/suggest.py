"""Thresholds that would have suited a recorded run, printed and drawn."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import clipax
from experiments import figures
from experiments.errors import UserError
from experiments.results import Study

_FILES = "a .npy file, a .csv file with a column `norm`, or a text file with one norm a line"


def write(run: str, out: Path) -> tuple[str, clipax.Suggestion, Path]:
    """Read the norms of a run, suggest a threshold, and draw both.

    Args:
        run: the row of a run in `runs.parquet`, or the path of a file of norms.
        out: the folder of `runs.parquet`, which receives the picture.

    Returns:
        The run in words, the suggestion, and the path of the picture.

    Raises:
        UserError: if there is no such run, or its norms cannot be used.
    """
    title, norms = _row(int(run), out / "runs.parquet") if run.isdigit() else _file(Path(run))
    try:
        found = clipax.suggest_threshold(norms)
    except ValueError as error:
        raise UserError(f"{run}: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    picture = out / f"suggest-{Path(run).stem}.svg"
    figures.save_suggestion(norms, found, title, picture)
    return title, found, picture


def _row(row: int, path: Path) -> tuple[str, np.ndarray]:
    if not path.exists():
        raise UserError(f"there is no {path}; train runs first, or name {_FILES}")
    study = Study(pq.read_table(path))
    if row >= len(study.runs):
        raise UserError(f"there is no run {row}; {path} has the runs 0 to {len(study.runs) - 1}")
    run = study.runs[row]
    return figures.title(run), study.curve(run, "norm")


def _file(path: Path) -> tuple[str, np.ndarray]:
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; RUN is the row of a run in runs.parquet, {_FILES}"
        )
    try:
        return path.name, _norms(path)
    except (ValueError, KeyError) as error:
        raise UserError(f"cannot read norms from {path}; it must be {_FILES} ({error})") from error


def _norms(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return np.array([float(row["norm"]) for row in csv.DictReader(file)])
    return np.array([float(line) for line in path.read_text().split()])
