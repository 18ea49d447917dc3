"""Adaptive and per-example clipping by the packages people use, equal step by step.

As in `test_parity.py`: here where the peer is right; `test_peer_defects_adaptive.py` has the rest.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import peers_adaptive
import pytest
from parity_steps import assert_same_steps, heavy_tailed_gradients, spiky_gradients

import clipax
from clipax import measures, thresholds

pytestmark = peers.marks

TOLERANCE = 3e-6  # all of these add 1e-6 to a norm of about 40 before they divide by it


@pytest.fixture(scope="module")
def gradients() -> list:
    return spiky_gradients()


# ZClip


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"max_norm": None}, {"max_grad_norm": None}),
        ({"max_norm": 60.0}, {"max_grad_norm": 60.0}),
        ({"max_norm": None, "clip_factor": 0.8}, {"max_grad_norm": None, "clip_factor": 0.8}),
        ({"max_norm": None, "mode": "mean"}, {"max_grad_norm": None, "clip_option": "mean"}),
        (
            {"max_norm": None, "mode": "percentile", "z": 1.5},
            {"max_grad_norm": None, "mode": "percentile", "z_thresh": 1.5},
        ),
        (
            {"max_norm": None, "skip_update_on_spike": True},
            {"max_grad_norm": None, "skip_update_on_spike": True},
        ),
        (
            {"max_norm": 60.0, "decay": 0.9, "warmup": 10, "eps": 1e-3},
            {"max_grad_norm": 60.0, "alpha": 0.9, "warmup_steps": 10, "eps": 1e-3},
        ),
    ],
    ids=["zscore", "capped", "clip_factor", "mean", "percentile", "skip", "settings"],
)
def test_zclip_equals_zclip(gradients, ours, theirs):
    found = peers.clipax_steps(clipax.zclip(restart=None, **ours), gradients)
    assert_same_steps(found, peers_adaptive.zclip_steps(gradients, **theirs), gradients, TOLERANCE)


def test_zclip_with_its_defaults_equals_zclip():
    """Its default `max_grad_norm` of 1 needs smaller gradients."""
    gradients = jax.tree.map(lambda leaf: leaf / 40, spiky_gradients())
    found = peers.clipax_steps(clipax.zclip(restart=None), gradients)
    assert_same_steps(found, peers_adaptive.zclip_steps(gradients), gradients, rtol=1e-5)


# AutoClip's torch package, in which the current norm enters after its threshold was taken. It finds
# ranks in float32, which is exact for quantiles that are.


@pytest.mark.parametrize(("quantile", "length"), [(0.875, 1000), (0.25, 20)])
@pytest.mark.parametrize(
    ("measure", "everywhere"),
    [(measures.per_tree(), True), (measures.per_leaf(), False)],
    ids=["global", "per-tensor"],
)
def test_window_without_the_current_norm_equals_autoclip(
    gradients, quantile, length, measure, everywhere
):
    settings = {"quantile": quantile, "history_length": length, "global_threshold": everywhere}
    theirs = peers_adaptive.autoclip_steps(gradients, **settings)
    clipper = clipax.autoclip(100 * quantile, window=length, include_current=False, measure=measure)
    found = peers.clipax_steps(clipper, gradients)
    assert_same_steps(found, theirs, gradients, TOLERANCE, fewest=1)


# Opacus


def batches(count: int) -> list[list[np.ndarray]]:
    """Batches of eight examples with norms from 0.3 to 100."""
    random = np.random.default_rng(2)

    def leaf(scales, *shape):
        return scales.reshape(-1, *[1] * len(shape)) * random.normal(size=(8, *shape))

    scales = np.exp(random.uniform(-2.5, 3, size=(count, 8)))
    return [[np.float32(leaf(s, 4, 3)), np.float32(leaf(s, 3))] for s in scales]


@functools.partial(jax.jit, static_argnums=0)
def clipped_sum(clipper, batch, step=0):
    def clip(example):
        return clipper.update(example, clipper.init(example)._replace(step=step))[0]

    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), jax.vmap(clip)(batch))


CLIPPER = clipax.global_norm(5.0)


def assert_sums_equal(ours, theirs):
    """Entries of a sum may cancel; they are equal as shares of the largest."""
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=0, atol=TOLERANCE * np.abs(their).max())


def test_clipped_examples_equal_opacus():
    for batch in batches(20):
        optimizer = peers_adaptive.opacus_optimizer([leaf[0] for leaf in batch], 5.0)
        ours = clipped_sum(CLIPPER, batch)
        assert_sums_equal(ours, peers_adaptive.opacus_sum(optimizer, batch))


@pytest.mark.parametrize(
    ("name", "settings", "schedule"),
    [
        ("ExponentialGradClip", {"gamma": 0.9}, optax.exponential_decay(1.0, 1, 0.9)),
        (
            "StepGradClip",
            {"step_size": 4, "gamma": 0.5},
            optax.exponential_decay(1.0, 4, 0.5, staircase=True),
        ),
        (
            "LambdaGradClip",
            {"scheduler_function": lambda epoch: 2 / (2 + epoch)},
            lambda epoch: 2 / (2 + epoch),
        ),
    ],
    ids=["exponential", "step", "lambda"],
)
def test_scaled_threshold_equals_the_schedulers_of_opacus(name, settings, schedule):
    examples = batches(20)
    optimizer = peers_adaptive.opacus_optimizer([leaf[0] for leaf in examples[0]], 5.0)
    scheduler = getattr(peers.package("opacus.schedulers"), name)(optimizer, **settings)
    clipper = clipax.global_norm(thresholds.scaled(5.0, schedule))
    for epoch, batch in enumerate(examples):
        ours = clipped_sum(clipper, batch, jnp.int32(epoch))
        assert_sums_equal(ours, peers_adaptive.opacus_sum(optimizer, batch))
        scheduler.step()
    assert optimizer.max_grad_norm < 1


# Optax


def test_clipped_examples_equal_optax():
    for batch in batches(20):
        theirs, _ = optax.per_example_global_norm_clip([jnp.asarray(x) for x in batch], 5.0)
        assert_sums_equal(clipped_sum(CLIPPER, batch), theirs)


def test_block_rms_equals_optax():
    gradients = heavy_tailed_gradients(zero_at=20)
    theirs = peers.clipax_steps(optax.clip_by_block_rms(1.5), gradients)
    found = peers.clipax_steps(clipax.block_rms(1.5), gradients)
    assert_same_steps(found, theirs, gradients)


@pytest.mark.parametrize("clipping", [0.01, 0.3])
def test_agc_equals_optax(clipping):
    random = np.random.default_rng(4)
    shapes = [(6, 4), (4,), (3, 2, 5), (2, 2, 3, 4), ()]
    params = [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes]
    params[0] = params[0].at[:, 1].set(0)
    scales = np.exp(random.uniform(-8, 2, size=50))
    gradients = [
        [jnp.asarray(s * random.normal(size=shape), jnp.float32) for shape in shapes]
        for s in scales
    ]
    ours, theirs = (
        jax.jit(lambda g, clipper=clipper: clipper.update(g, clipper.init(params), params)[0])
        for clipper in (clipax.agc(clipping), optax.adaptive_grad_clip(clipping))
    )
    for gradient in gradients:
        for a, b in zip(ours(gradient), theirs(gradient), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6)
