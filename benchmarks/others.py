"""How other packages do the same work; each function imports its package and times it."""

import importlib
import os
from collections.abc import Callable
from typing import Any

from benchmarks.timing import Call, Measured
from benchmarks.trees import entries_of
from experiments import provenance


def torch_clip(
    count: int, size: int, max_norm: float, dtype: str, foreach: bool | None
) -> Measured:
    """`clip_grad_norm_` in place; `foreach=None` lets torch choose."""
    clip = _torch().nn.utils.clip_grad_norm_
    model, refresh = _torch_model(count, size, dtype)
    parameters = list(model.parameters())
    return Call(lambda: clip(parameters, max_norm, foreach=foreach), refresh)


def zclip_step(count: int, size: int) -> Measured:
    """The step of ZClip behind its warm-up, of a norm that stands out."""
    model, refresh = _torch_model(count, size)
    peer = _module("zclip").ZClip(warmup_steps=20, max_grad_norm=None)
    for i in range(25):
        refresh(0.1 * 1.1 ** (i % 3))
        peer.step(model)
    before = peer.mean, peer.var

    def again() -> tuple[()]:
        peer.mean, peer.var = before
        return refresh()

    return Call(lambda: peer.step(model), again)


def autoclip_step(count: int, size: int, window: int) -> Measured:
    """The step of AutoClip with a full history of smaller norms."""
    model, refresh = _torch_model(count, size)
    peer = _module("autoclip.torch").QuantileClip(
        model.parameters(), quantile=0.1, history_length=window, global_threshold=True
    )
    refresh(0.1)
    for _ in range(window):
        peer.step()
    return Call(peer.step, refresh)


def torch_recurrent(width: int, batch: int, length: int, inputs: int) -> Measured:
    """Forward and backward pass of an RNN, `clip_grad_norm_` and a step of SGD."""
    torch = _torch()
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

    return Call(step)


def tensorflow_clip(count: int, size: int, max_norm: float) -> Measured:
    """`tf.clip_by_global_norm` in a `tf.function`, which cannot overwrite its arguments."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tensorflow = _module("tensorflow")
    given = [tensorflow.constant(x) for x in entries_of(count, size)]
    clip = tensorflow.function(lambda g: tensorflow.clip_by_global_norm(g, max_norm)[0])

    def clipped() -> Any:
        result = clip(given)
        result[-1][:1].numpy()  # it has come
        return lambda: result  # one thing to wait for, and nothing is freed while the clock runs

    return Call(clipped)


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _torch() -> Any:
    """torch with a thread for each core, as XLA has them."""
    torch = _module("torch")
    torch.set_num_threads(provenance.cores())
    return torch


def _torch_model(
    count: int, size: int, dtype: str = "float32"
) -> tuple[Any, Callable[..., tuple[()]]]:
    """A module, and a function that sets its gradients, times a number."""
    torch = _torch()
    fresh = [torch.from_numpy(x).to(getattr(torch, dtype)) for x in entries_of(count, size)]
    model = torch.nn.Module()
    model.weights = torch.nn.ParameterList([torch.zeros_like(x) for x in fresh])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def refresh(scale: float = 1.0) -> tuple[()]:
        for parameter, x in zip(model.parameters(), fresh, strict=True):
            parameter.grad.copy_(x * scale if scale != 1.0 else x)
        return ()

    return model, refresh
