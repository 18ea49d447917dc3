"""Contestants in processes of their own: packages other than optax, and several devices."""

import gc
import importlib
import multiprocessing
import os
import traceback
from collections.abc import Mapping
from typing import Any

from benchmarks.timing import Measured

_SPIN = 0.05  # seconds after which threads that wait for work have gone to sleep
_DEVICES = "--xla_force_host_platform_device_count="
_NEEDED = {"zclip": ("torch",), "autoclip": ("torch",)}  # with which they are compared
_RUNNING: dict[str, "Worker"] = {}


class Worker:
    """A process that makes contestants and measures them.

    Args:
        name: of the process; without `environment` that of a package, whose absence is no mistake.
        environment: variables that differ from those of this process.
    """

    def __init__(self, name: str, environment: Mapping[str, str]):
        context = multiprocessing.get_context("spawn")
        self.missing = ""
        self.used = False
        self._name = name
        self._optional = set() if environment else {name, *_NEEDED.get(name, ())}
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), name=name, daemon=True)
        before = {key: os.environ.get(key) for key in environment}
        os.environ.update(environment)  # a spawned process reads them when it starts
        try:
            self._process.start()
        finally:
            _restore(before)
        theirs.close()

    def make(self, name: str, factory: str, /, **arguments: Any) -> dict[str, Measured]:
        """A contestant under this name, or nothing where the package is missing.

        Args:
            name: of the contestant.
            factory: `module:function` that gives it.
            arguments: those of the function.
        """
        if self.missing:
            return {}
        self.used = True
        try:
            self._asked((name, factory, arguments))
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in self._optional:
                raise
            self.missing = str(error)
            print(f"{self._name} is left out: {self.missing}")
            return {}
        return {name: lambda: self._asked(name)}

    def forget(self) -> None:
        """Drop all contestants and their arrays."""
        self.used = False
        self._asked(None)

    def close(self) -> None:
        """End the process, and with it the memory that XLA keeps for its devices."""
        self._connection.close()
        self._process.terminate()
        self._process.join()

    @property
    def lasts(self) -> bool:
        """Whether it is kept for the next case: a package takes seconds to import."""
        return bool(self._optional)

    def _asked(self, message: Any) -> Any:
        try:
            self._connection.send(message)
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(1)
            _RUNNING.pop(self._name, None)
            raise RuntimeError(
                f"the process of {self._name} ended with {self._process.exitcode} at {message}"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def of_package(name: str) -> Worker:
    """The process of a package."""
    return _started(name, name, {})


def of_devices(count: int, whose: str) -> Worker:
    """A process with so many virtual devices on the CPU.

    Args:
        count: of devices.
        whose: the contestant that has the process, and its memory, for itself.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}{count}".strip()
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return _started(f"{count} devices of {whose}", f"{count} devices", environment)


def pause() -> float:
    """The seconds to wait before each turn, so that the threads of the last one sleep."""
    return _SPIN if any(worker.used for worker in _RUNNING.values()) else 0.0


def forget() -> None:
    """Drop the contestants of all processes, and the processes of devices."""
    for key, worker in list(_RUNNING.items()):
        if worker.lasts:
            worker.forget()
        else:
            del _RUNNING[key]
            worker.close()


def _started(key: str, name: str, environment: Mapping[str, str]) -> Worker:
    if key not in _RUNNING:
        _RUNNING[key] = Worker(name, environment)
    return _RUNNING[key]


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
            message = connection.recv()
        except EOFError:
            return
        try:
            answer = _answered(message, made)
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = error
        try:
            connection.send(answer)
        except (AttributeError, TypeError, multiprocessing.ProcessError) as error:
            connection.send(RuntimeError(f"an answer that cannot be sent: {error}, {answer!r}"))


def _answered(message: Any, made: dict[str, Measured]) -> Any:
    if message is None:
        made.clear()
        return gc.collect()
    if isinstance(message, str):
        return made[message]()
    name, factory, arguments = message
    module, function = factory.split(":")
    made[name] = getattr(importlib.import_module(module), function)(**arguments)
    gc.collect()
    return None
