"""How other packages do the same work; each function imports its package and gives a `Timed`."""

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.timing import Timed

REPEATS = 5  # calls before anything is timed


def torch_clip(count: int, size: int, max_norm: float, dtype: str, foreach: bool | None) -> Timed:
    """`clip_grad_norm_` in place; `foreach=None` lets torch choose."""
    torch = _package("torch")
    fresh = _torch_leaves(count, size, dtype)
    parameters = [torch.nn.Parameter(torch.zeros_like(x)) for x in fresh]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)

    def refresh() -> None:
        for parameter, x in zip(parameters, fresh, strict=True):
            parameter.grad.copy_(x)

    def clip() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=foreach)

    return _timed(clip, refresh)


def zclip_step(count: int, size: int) -> Timed:
    """The step of ZClip behind its warm-up: norm, statistic and clipping."""
    model, refresh = _torch_module(count, size)
    peer = _package("zclip").ZClip(warmup_steps=2)
    return _timed(lambda: peer.step(model), refresh)


def autoclip_step(count: int, size: int, window: int) -> Timed:
    """The step of AutoClip with a full history."""
    model, refresh = _torch_module(count, size)
    peer = _package("autoclip.torch").QuantileClip(
        model.parameters(), quantile=0.1, history_length=window, global_threshold=True
    )
    refresh()
    for _ in range(window):
        peer.step()
    return _timed(peer.step, refresh)


def torch_recurrent(width: int, batch: int, length: int, inputs: int) -> Timed:
    """Forward and backward pass of an RNN, `clip_grad_norm_` and a step of SGD."""
    torch = _package("torch")
    torch.manual_seed(0)
    net = torch.nn.RNN(inputs, width)
    head = torch.nn.Linear(width, inputs)
    parameters = [*net.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    x = torch.randn(length, batch, inputs)
    y = torch.randint(inputs, (length, batch))

    def step() -> None:
        optimizer.zero_grad()
        logits = head(net(x)[0])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return _timed(step)


def tensorflow_clip(count: int, size: int, max_norm: float) -> Timed:
    """`tf.clip_by_global_norm` in a `tf.function`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tensorflow = _package("tensorflow")
    given = [tensorflow.constant(x) for x in _leaves(count, size)]
    clip = tensorflow.function(lambda g: tensorflow.clip_by_global_norm(g, max_norm)[0])
    return _timed(lambda: clip(given)[-1].numpy())


def _package(name: str) -> Any:
    return importlib.import_module(name)


def _torch_module(count: int, size: int) -> tuple[Any, Callable[[], None]]:
    torch = _package("torch")
    fresh = _torch_leaves(count, size, "float32")
    model = torch.nn.Module()
    model.weights = torch.nn.ParameterList([torch.zeros_like(x) for x in fresh])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def refresh() -> None:
        for parameter, x in zip(model.parameters(), fresh, strict=True):
            parameter.grad.copy_(x)

    return model, refresh


def _torch_leaves(count: int, size: int, dtype: str) -> list[Any]:
    torch = _package("torch")
    return [torch.from_numpy(x).to(getattr(torch, dtype)) for x in _leaves(count, size)]


def _leaves(count: int, size: int) -> list[np.ndarray]:
    one = np.random.default_rng(0).normal(size=size).astype(np.float32)
    return [np.roll(one, i) for i in range(count)]


def _timed(work: Callable[[], Any], prepare: Callable[[], None] = lambda: None) -> Timed:
    def timed() -> float:
        prepare()
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    for _ in range(REPEATS):
        timed()
    return timed
