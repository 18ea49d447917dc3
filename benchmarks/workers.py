"""Contestants in processes of their own: packages other than optax, and several devices.

While one process is measured, the threads of the others sleep.
"""

import gc
import importlib
import multiprocessing
import os
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.timing import Measured

_SPIN = 0.05  # seconds after which threads that wait for work have gone to sleep
_DEVICES = "--xla_force_host_platform_device_count="
_OWN = ("benchmarks", "clipax", "experiments")  # what is missing there is a mistake
_RUNNING: dict[str, "Worker"] = {}


class Worker:
    """A process that makes contestants and measures them.

    Args:
        name: of the process.
        environment: variables that differ from those of this process.
    """

    def __init__(self, name: str, environment: Mapping[str, str]):
        context = multiprocessing.get_context("spawn")
        self.missing = ""
        self._name = name
        self._connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), name=name, daemon=True)
        before = {key: os.environ.get(key) for key in environment}
        os.environ.update(environment)  # a spawned process reads them when it starts
        try:
            process.start()
        finally:
            _restore(before)
        theirs.close()

    def make(self, name: str, factory: str, /, **arguments: Any) -> dict[str, Measured]:
        """A contestant under this name, or nothing where its package is missing.

        Args:
            name: of the contestant.
            factory: `module:function` that gives it.
            arguments: those of the function.
        """
        if not self.missing:
            self.missing = self._asked((name, factory, arguments))
            if self.missing:
                print(f"{self._name} is left out: {self.missing}")
        return {} if self.missing else {name: lambda: self._measured(name)}

    def forget(self) -> None:
        """Drop all contestants and their arrays."""
        self._asked(None)

    def _measured(self, name: str) -> float:
        found = self._asked(name)
        time.sleep(_SPIN)
        return found

    def _asked(self, message: Any) -> Any:
        self._connection.send(message)
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self._name} died at {message}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def of_package(name: str) -> Worker:
    """The process of a package."""
    return _started(name, {})


def of_devices(count: int) -> Worker:
    """A process with so many virtual devices on the CPU."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}{count}".strip()
    return _started(f"{count} devices", {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"})


def forget() -> None:
    """Drop the contestants of all processes."""
    for worker in _RUNNING.values():
        worker.forget()


def _started(name: str, environment: Mapping[str, str]) -> Worker:
    if name not in _RUNNING:
        _RUNNING[name] = Worker(name, environment)
    return _RUNNING[name]


def _restore(variables: Mapping[str, str | None]) -> None:
    for key, value in variables.items():
        if value is None:
            del os.environ[key]
        else:
            os.environ[key] = value


def _serve(connection: Any) -> None:
    gc.disable()
    made: dict[str, Measured] = {}
    while True:
        try:
            connection.send(_answered(connection.recv(), made))
        except EOFError:
            return
        except Exception as error:
            connection.send(error)


def _answered(message: Any, made: dict[str, Measured]) -> Any:
    if message is None:
        made.clear()
        return gc.collect()
    if isinstance(message, str):
        return made[message]()
    name, factory, arguments = message
    module, function = factory.split(":")
    try:
        made[name] = getattr(importlib.import_module(module), function)(**arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OWN:
            raise
        return str(error)
    gc.collect()
    return ""
