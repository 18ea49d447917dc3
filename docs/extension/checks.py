"""A public name without a docstring, a doctest or a place on the site ends the build."""

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from sphinx.errors import ExtensionError

import clipax
from extension import methods, pictures

_MODULES = (clipax, clipax.measures, clipax.thresholds, clipax.rules)


def public_names() -> Iterator[tuple[str, Any]]:
    """What is exported, by the name that a reader would write."""
    for module in _MODULES:
        for name in _exported(module):
            yield f"{module.__name__}.{name}", getattr(module, name)


def _exported(module: ModuleType) -> list[str]:
    return [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]


def missing(documented: set[str]) -> list[str]:
    """What public names lack, in words."""
    found = []
    shown = [item for name, item in public_names() if name in documented]
    for name, item in public_names():
        text = inspect.getdoc(item) or ""
        if not (inspect.isfunction(item) or inspect.isclass(item)):
            continue
        if not text:
            found.append(f"{name} has no docstring")
        if inspect.isfunction(item) and ">>>" not in text:
            found.append(f"{name} has no doctest")
        if not any(item is each for each in shown):  # some are exported twice
            found.append(f"{name} stands on no page")
    return found


def every_public_name(app: Any, env: Any) -> None:
    """Raises where something is missing."""
    found = missing(set(env.domaindata["py"]["objects"]))
    found += [
        f"{name} has no picture, see docs/extension/pictures.py"
        for name in methods.NAMES
        if name not in pictures.CALLS.keys() | pictures.WITHOUT
    ]
    if found:
        raise ExtensionError("; ".join(found))
