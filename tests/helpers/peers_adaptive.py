"""Clipping by packages that keep a state or clip each example, in the form of `peers`."""

import jax
import numpy as np
from peers import package


def _module(leaves):
    torch = package("torch")
    module = torch.nn.Module()
    module.weights = torch.nn.ParameterList(
        [torch.nn.Parameter(torch.zeros(np.shape(leaf))) for leaf in leaves]
    )
    return module


def _steps(module, step, gradients) -> list[list[np.ndarray]]:
    """Set the gradients of a module, let the peer take its step, read them."""
    torch = package("torch")
    results = []
    for gradient in gradients:
        leaves = jax.tree.leaves(gradient)
        for parameter, leaf in zip(module.parameters(), leaves, strict=True):
            parameter.grad = torch.from_numpy(np.array(leaf, np.float32))
        step()
        results.append([parameter.grad.numpy().copy() for parameter in module.parameters()])
    return results


def zclip_steps(gradients, **settings) -> list[list[np.ndarray]]:
    peer = package("zclip").ZClip(**settings)
    module = _module(jax.tree.leaves(gradients[0]))
    return _steps(module, lambda: peer.step(module), gradients)


def autoclip_steps(gradients, kind="QuantileClip", **settings) -> list[list[np.ndarray]]:
    module = _module(jax.tree.leaves(gradients[0]))
    peer = getattr(package("autoclip.torch"), kind)(module.parameters(), **settings)
    return _steps(module, peer.step, gradients)


def opacus_optimizer(leaves, max_norm):
    """An optimizer of opacus without noise, for parameters shaped like the leaves."""
    torch, optimizers = package("torch"), package("opacus.optimizers")
    module = _module(leaves)
    sgd = torch.optim.SGD(module.parameters(), lr=1.0)
    return optimizers.DPOptimizer(
        sgd, noise_multiplier=0.0, max_grad_norm=max_norm, expected_batch_size=1
    )


def opacus_sum(optimizer, batch) -> list[np.ndarray]:
    """The sum of the clipped gradients of the examples of a batch."""
    torch = package("torch")
    for parameter, leaf in zip(optimizer.params, batch, strict=True):
        parameter.grad_sample = torch.from_numpy(np.array(leaf, np.float32))
        parameter.summed_grad = None
    optimizer.clip_and_accumulate()
    return [parameter.summed_grad.numpy().copy() for parameter in optimizer.params]
