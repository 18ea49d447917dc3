"""The page of records: versions, machines, data and columns."""

import json

from experiments.columns import COLUMNS
from experiments.pages.content import Content
from experiments.pages.tables import Table, simple


def versions(content: Content) -> Table:
    """Every combination of versions and machine, and for which tasks."""
    tasks: dict[str, list[str]] = {}
    for text, task in content.runs.distinct("versions", "task"):
        tasks.setdefault(text, []).append(task)
    lines = []
    for text, names in tasks.items():
        found = json.loads(text)
        machine, source = found.pop("machine", ""), found.pop("source", "")
        packages = ", ".join(f"{name} {version}" for name, version in found.items())
        lines.append((", ".join(names), machine, packages, source))
    return simple("Versions", ("tasks", "machine", "packages", "hash of the source"), lines)


def data(content: Content) -> Table:
    """The hash of the data of each task."""
    lines = [
        (task, f"sha256 {digest}") for task, digest in content.runs.distinct("task", "data_hash")
    ]
    return simple("Data", ("task", "data"), lines)


def columns() -> Table:
    """What the columns of the file of runs hold."""
    lines = [(name, column.about) for name, column in COLUMNS.items()]
    return simple("Columns", ("column", "what it holds"), lines)


def facts(content: Content) -> dict[str, str]:
    """Of all runs together."""
    first = json.loads(next(iter(content.runs))["versions"])
    return content.facts | {
        "runs": f"{len(content.runs):,}",
        "failed": f"{sum(run['failed'] for run in content.runs):,}",
        "machine": first.get("machine", "an unknown machine"),
    }
