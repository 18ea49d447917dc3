"""The same gradients through clipax and through the packages people clip with today.

Here on the range where the peer is right, equal step by step; `test_peer_defects.py` has the rest.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import pytest
from parity_steps import LEAVES, SHAPES, TREE, assert_same_steps, heavy_tailed_gradients

import clipax

pytestmark = peers.marks


@pytest.fixture(scope="module")
def gradients() -> list:
    """Heavy-tailed gradients, norms from about 1e-2 to 1e4, one of them zero."""
    return heavy_tailed_gradients(zero_at=20)


@pytest.mark.parametrize("order", [1, 2, 3, math.inf])
def test_global_norm_equals_torch(gradients, order):
    theirs = [peers.torch_norm(jax.tree.leaves(g), 5.0, order) for g in gradients]
    ours = peers.clipax_steps(clipax.global_norm(5.0, ord=order), gradients)
    # torch divides by norm + 1e-6.
    assert_same_steps(ours, theirs, gradients, rtol=3e-6)


def test_value_equals_torch(gradients):
    theirs = [peers.torch_value(jax.tree.leaves(g), 3.0) for g in gradients]
    ours = peers.clipax_steps(clipax.value(3.0), gradients)
    assert_same_steps(ours, theirs, gradients, rtol=0)


def test_global_norm_equals_tensorflow(gradients):
    theirs = [peers.tensorflow_global_norm(jax.tree.leaves(g), 5.0) for g in gradients]
    ours = peers.clipax_steps(clipax.global_norm(5.0), gradients)
    assert_same_steps(ours, theirs, gradients)


def test_per_leaf_equals_tensorflow_clip_by_norm(gradients):
    theirs = [peers.tensorflow_norm(jax.tree.leaves(g), 3.0) for g in gradients]
    ours = peers.clipax_steps(clipax.per_leaf(3.0), gradients)
    assert_same_steps(ours, theirs, gradients)


def test_value_equals_tensorflow(gradients):
    theirs = [peers.tensorflow_value(jax.tree.leaves(g), -2.0, 3.0) for g in gradients]
    ours = peers.clipax_steps(clipax.value((-2.0, 3.0)), gradients)
    assert_same_steps(ours, theirs, gradients, rtol=0)


@pytest.mark.parametrize(
    ("argument", "clipper"),
    [
        ({"global_clipnorm": 5.0}, clipax.global_norm(5.0)),
        ({"clipnorm": 3.0}, clipax.per_leaf(3.0)),
        ({"clipvalue": 3.0}, clipax.value(3.0)),
    ],
    ids=["global_clipnorm", "clipnorm", "clipvalue"],
)
def test_equals_keras_inside_an_optimizer(gradients, argument, clipper):
    theirs = peers.keras_steps([jax.tree.leaves(g) for g in gradients], **argument)
    assert_same_steps(peers.clipax_steps(clipper, gradients), theirs, gradients)


@pytest.mark.parametrize(
    ("arguments", "clipper"),
    [
        ({"gradient_clip_val": 5.0}, clipax.global_norm(5.0)),
        ({"gradient_clip_val": 3.0, "gradient_clip_algorithm": "value"}, clipax.value(3.0)),
    ],
    ids=["norm", "value"],
)
def test_equals_lightning_inside_a_trainer(gradients, arguments, clipper):
    theirs = peers.lightning_steps([jax.tree.leaves(g) for g in gradients], **arguments)
    # Lightning clips with torch, which divides by norm + 1e-6.
    assert_same_steps(peers.clipax_steps(clipper, gradients), theirs, gradients, rtol=3e-6)


def optax_by_label(label_of):
    """optax's global clip at 3.0 in each group of leaves that share a label."""

    def labels(tree):
        return jax.tree_util.tree_map_with_path(lambda path, _: label_of(path), tree)

    names = set(jax.tree.leaves(labels(jax.tree.unflatten(TREE, [0.0] * len(LEAVES)))))
    return optax.partition({name: optax.clip_by_global_norm(3.0) for name in names}, labels)


def optax_scheduled(schedule):
    return optax.inject_hyperparams(optax.clip_by_global_norm)(max_norm=schedule)


@pytest.mark.parametrize(
    ("clipper", "peer"),
    [
        pytest.param(clipax.global_norm(5.0), optax.clip_by_global_norm(5.0), id="global_norm"),
        pytest.param(clipax.value(3.0), optax.clip(3.0), id="value"),
        pytest.param(clipax.per_leaf(3.0), optax_by_label(str), id="per_leaf"),
        pytest.param(
            clipax.per_layer(3.0), optax_by_label(lambda path: str(path[0])), id="per_layer"
        ),
        pytest.param(
            clipax.per_group(3.0, {layer: {"kernel": "k", "bias": "b"} for layer in SHAPES}),
            optax_by_label(lambda path: str(path[1])),
            id="per_group",
        ),
        pytest.param(
            clipax.global_norm(optax.exponential_decay(50.0, 1, 0.9)),
            optax_scheduled(optax.exponential_decay(50.0, 1, 0.9)),
            id="global_norm-scheduled",
        ),
        pytest.param(
            clipax.decaying(50.0, 0.9),
            optax_scheduled(optax.exponential_decay(50.0, 1, 0.9)),
            id="decaying",
        ),
        pytest.param(
            clipax.decaying(50.0, 0.5, every=10, floor=5.0),
            optax_scheduled(optax.exponential_decay(50.0, 10, 0.5, staircase=True, end_value=5.0)),
            id="decaying-every-floor",
        ),
    ],
)
def test_equals_optax(gradients, clipper, peer):
    ours = peers.clipax_steps(clipper, gradients)
    assert_same_steps(ours, peers.clipax_steps(peer, gradients), gradients, rtol=2e-6)


@pytest.mark.parametrize(
    ("clipper", "peer"),
    [
        (clipax.global_norm(0.5), optax.clip_by_global_norm(0.5)),
        (clipax.value(0.1), optax.clip(0.1)),
    ],
    ids=["global_norm", "value"],
)
def test_training_equals_optax(clipper, peer):
    """Two hundred steps of Adam on a small regression end in the same place."""
    random = np.random.default_rng(1)
    inputs = random.normal(size=(64, 7)).astype(np.float32)
    targets = (inputs @ random.normal(size=(7, 3))).astype(np.float32)

    def loss(weights):
        return jnp.mean(jnp.square(inputs @ weights - targets))

    def train(transformation):
        optimizer = optax.chain(transformation, optax.adam(1e-2))

        def step(carry, _):
            weights, state = carry
            value, gradient = jax.value_and_grad(loss)(weights)
            updates, state = optimizer.update(gradient, state, weights)
            return (optax.apply_updates(weights, updates), state), value

        weights = jnp.zeros((7, 3))
        (weights, _), losses = jax.lax.scan(step, (weights, optimizer.init(weights)), length=200)
        return np.asarray(weights), np.asarray(losses)

    weights, losses = train(clipper)
    peer_weights, peer_losses = train(peer)
    np.testing.assert_allclose(weights, peer_weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses, peer_losses, rtol=1e-4)
