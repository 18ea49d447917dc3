"""Clipping by other packages, in one form: gradient in, clipped gradient out, both as numpy.

A missing package skips the test that asks for it; with CLIPAX_REQUIRE_PARITY=1 it fails it.
"""

import importlib
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipax

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "jax"

marks = [
    pytest.mark.parity,
    # Deprecations inside the other packages are theirs.
    pytest.mark.filterwarnings("default"),
]


def package(
    name: str,
    install: str = 'on Python 3.11, pip install -e ".[test,parity]"',
    required: str = "CLIPAX_REQUIRE_PARITY",
):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        reason = f"{error}: {install}"
    missing(reason, required)


def missing(reason: str, required: str):
    """Skips a test; fails it where the environment has a 1 for `required`."""
    if os.environ.get(required) == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def torch_norm(leaves, max_norm, order=2.0) -> list[np.ndarray]:
    clip = package("torch").nn.utils.clip_grad_norm_
    return _torch(leaves, lambda parameters: clip(parameters, max_norm, norm_type=order))


def torch_value(leaves, limit) -> list[np.ndarray]:
    clip = package("torch").nn.utils.clip_grad_value_
    return _torch(leaves, lambda parameters: clip(parameters, limit))


def _torch(leaves, clip) -> list[np.ndarray]:
    torch = package("torch")
    parameters = []
    for leaf in leaves:
        tensor = torch.from_numpy(np.array(leaf))
        parameters.append(torch.nn.Parameter(torch.zeros_like(tensor)))
        parameters[-1].grad = tensor
    clip(parameters)
    return [parameter.grad.numpy() for parameter in parameters]


def lightning_steps(gradients, **arguments) -> list[list[np.ndarray]]:
    """What a trainer subtracted with an SGD of rate 1 from parameters that were zero."""
    lightning, torch = package("pytorch_lightning"), package("torch")
    steps = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            zeros = [torch.zeros(leaf.shape) for leaf in gradients[0]]
            self.weights = torch.nn.ParameterList(zeros)

        def training_step(self, batch, index):
            leaves = [torch.from_numpy(np.array(leaf)) for leaf in gradients[index]]
            return sum((w * x).sum() for w, x in zip(self.weights, leaves, strict=True))

        def on_train_batch_end(self, *_):
            steps.append([-w.detach().numpy().copy() for w in self.weights])
            for w in self.weights:
                w.data.zero_()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(Module(), range(len(gradients)))
    return steps


def tensorflow_global_norm(leaves, max_norm) -> list[np.ndarray]:
    tensorflow = package("tensorflow")
    tensors = [tensorflow.constant(leaf) for leaf in leaves]
    return [tensor.numpy() for tensor in tensorflow.clip_by_global_norm(tensors, max_norm)[0]]


def tensorflow_norm(leaves, max_norm) -> list[np.ndarray]:
    tensorflow = package("tensorflow")
    return [tensorflow.clip_by_norm(tensorflow.constant(leaf), max_norm).numpy() for leaf in leaves]


def tensorflow_value(leaves, low, high) -> list[np.ndarray]:
    tensorflow = package("tensorflow")
    return [
        tensorflow.clip_by_value(tensorflow.constant(leaf), low, high).numpy() for leaf in leaves
    ]


def keras_steps(gradients, **arguments) -> list[list[np.ndarray]]:
    """The gradients that an SGD of rate 1 applied, on parameters set to zero before each step."""
    keras = package("keras")
    zeros = [jnp.zeros_like(leaf) for leaf in gradients[0]]
    parameters = [keras.Variable(zero, dtype=str(zero.dtype)) for zero in zeros]
    optimizer = keras.optimizers.SGD(1.0, **arguments)
    optimizer.build(parameters)
    steps = []
    for gradient in gradients:
        for parameter, zero in zip(parameters, zeros, strict=True):
            parameter.assign(zero)
        optimizer.apply([jnp.asarray(leaf) for leaf in gradient], parameters)
        steps.append([-np.asarray(parameter.value) for parameter in parameters])
    return steps


def keras_clip(leaves, **arguments) -> list[np.ndarray]:
    return keras_steps([leaves], **arguments)[0]


def clipax_steps(clipper, gradients) -> list:
    """The clipped gradient of each step, the state carried from one to the next."""
    state = clipper.init(gradients[0])
    update = jax.jit(clipper.update)
    steps = []
    for gradient in gradients:
        updates, state = update(gradient, state)
        steps.append(updates)
    return steps


def clipax_clip(leaves, clipper) -> list[np.ndarray]:
    updates, _ = clipax.clip([jnp.asarray(leaf) for leaf in leaves], clipper)
    return [np.asarray(update) for update in jax.tree.leaves(updates)]


def double_norm(leaves) -> float:
    """The 2-norm in float64."""
    return float(np.sqrt(sum(np.sum(np.square(np.float64(leaf))) for leaf in leaves)))
