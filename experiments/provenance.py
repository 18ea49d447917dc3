"""All that may change a number without a change of settings."""

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jax

import clipax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_SHARED = (
    "clippers.py",
    "columns.py",
    "draws.py",
    "models.py",
    "pascanu.py",
    "runner.py",
    "scores.py",
    "train.py",
)
_HERE = Path(__file__).parent


@cache
def versions(task: str) -> str:
    """Packages, machine and a hash of the source that a task runs, as JSON with sorted keys."""
    found = {name: _version(name) for name in (*_PACKAGES, "clipax")}
    found["python"] = platform.python_version()
    found["machine"] = machine()
    found["source"] = source(task)
    return json.dumps(found, sort_keys=True)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # a checkout, or data that no run needs
        return "not installed"


def source(task: str) -> str:
    """A hash of the library, the loop and the task, blind to comments and docstrings."""
    # An edit must not meet groups that older code computed, and a better sentence may.
    content = hashlib.sha256()
    for path in _files(task):
        content.update(ast.dump(_without_docstrings(ast.parse(path.read_text()))).encode())
    return content.hexdigest()[:12]


def _files(task: str) -> Iterator[Path]:
    yield from sorted(Path(str(clipax.__file__)).parent.rglob("*.py"))
    yield from sorted((_HERE / "data").glob("*.py"))
    yield from (_HERE / name for name in _SHARED)
    yield _HERE / "tasks" / f"{task}.py"


def _without_docstrings(tree: ast.Module) -> ast.Module:
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, owners) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def machine() -> str:
    """Processor, cores and what jax computes on."""
    devices = jax.devices()
    return f"{_processor()}, {cores()} cores, {len(devices)} {devices[0].device_kind} devices"


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
