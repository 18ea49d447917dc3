"""Contestants in processes of their own: packages other than optax, and several devices.

While one process is timed, the threads of the others sleep.
"""

import atexit
import importlib
import multiprocessing
import os
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from benchmarks.timing import Timed

_SPIN = 0.02  # seconds after which threads that wait for work have gone to sleep
_DEVICES = "--xla_force_host_platform_device_count="


class Worker:
    """A process that makes contestants and times them.

    Args:
        name: of the process.
        environment: variables that it has beside those of this process.
    """

    def __init__(self, name: str, environment: Mapping[str, str]):
        context = multiprocessing.get_context("spawn")
        self.missing = ""
        self._connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), name=name, daemon=True)
        before = dict(os.environ)
        os.environ.update(environment)  # a spawned process reads them when it starts
        try:
            process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()
        atexit.register(process.terminate)

    def make(self, name: str, factory: str, /, **arguments: Any) -> dict[str, Timed]:
        """A contestant under this name, or nothing where its package is missing.

        Args:
            name: of the contestant; what had it before is gone.
            factory: `module:function` that gives a `Timed`.
            arguments: those of the function.
        """
        if self.missing:
            return {}
        self.missing = self._asked((name, factory, arguments))
        return {} if self.missing else {name: lambda: self._time(name)}

    def _time(self, name: str) -> float:
        seconds = self._asked(name)
        time.sleep(_SPIN)
        return seconds

    def _asked(self, message: Any) -> Any:
        self._connection.send(message)
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


@cache
def of_package(name: str) -> Worker:
    """The process of a package."""
    return Worker(name, {})


@cache
def of_devices(count: int) -> Worker:
    """A process with so many virtual devices."""
    return Worker(f"{count} devices", {"XLA_FLAGS": f"{_DEVICES}{count}"})


def _serve(connection: Any) -> None:
    made: dict[str, Timed] = {}
    while True:
        try:
            connection.send(_answered(connection.recv(), made))
        except EOFError:
            return
        except Exception as error:
            connection.send(error)


def _answered(message: Any, made: dict[str, Timed]) -> Any:
    if isinstance(message, str):
        return made[message]()
    name, factory, arguments = message
    made.pop(name, None)  # its arrays before those of the next
    module, function = factory.split(":")
    try:
        made[name] = getattr(importlib.import_module(module), function)(**arguments)
    except ImportError as error:
        return str(error)
    return ""
