"""Known defects of adaptive and per-example clippers: their answer pinned beside clipax's.

As in `test_peer_defects.py`, a test that fails after an upgrade tells that a defect is gone.
"""

import jax.numpy as jnp
import numpy as np
import optax
import peers
import peers_adaptive
from norm_series import calm

import clipax

pytestmark = peers.marks

LARGE = np.full(3, 1e20, np.float32)


def single(norms) -> list[list[np.ndarray]]:
    """Gradients of one entry."""
    return [[np.array([norm], np.float32)] for norm in norms]


def left(steps) -> np.ndarray:
    """What is left of them."""
    return np.array([np.abs(np.asarray(step[0])).item() for step in steps])


def zclip_norms(norms) -> np.ndarray:
    return left(peers_adaptive.zclip_steps(single(norms), max_grad_norm=None))


def clipax_norms(clipper, norms) -> np.ndarray:
    return left(peers.clipax_steps(clipper, single(norms)))


OURS = clipax.zclip(max_norm=None)


# ZClip


def test_spike_in_the_warmup_leaves_clipax_working_where_zclip_is_blind():
    norms = calm(0, 60)
    norms[10] = norms[40] = 50.0
    assert zclip_norms(norms)[40] > 9
    assert clipax_norms(OURS, norms)[40] < 1.3


def test_lasting_rise_is_accepted_where_zclip_clips_it_for_ever():
    norms = np.concatenate([calm(1, 100), 3 * calm(2, 1500)])
    assert (zclip_norms(norms)[-1000:] < 0.9 * norms[-1000:]).mean() > 0.98
    assert (clipax_norms(OURS, norms)[-1000:] < 0.9 * norms[-1000:]).mean() < 0.02


def test_small_rise_after_equal_norms_passes_where_zclip_clips_it():
    norms = np.where(np.arange(60) < 25, 1.0, 1.001)
    # The deviation is below zclip's eps of 1e-6, and a thousandth above the mean is a spike.
    np.testing.assert_allclose(zclip_norms(norms)[25], 1.0, rtol=1e-5)
    np.testing.assert_array_equal(clipax_norms(OURS, norms), np.float32(norms))


# AutoClip's torch package


def test_deviation_of_one_norm_is_no_threshold_where_autoclip_makes_nan():
    norms = np.array([1.0, 1.1, 0.9, 1.0])
    steps = peers_adaptive.autoclip_steps(single(norms), kind="StandardClip")
    np.testing.assert_array_equal(np.isnan(left(steps)), [False, True, False, False])
    # Its threshold is a multiple of the deviation alone, far below every norm.
    assert (left(steps)[2:] < 0.3).all()
    ours = clipax_norms(clipax.history_sigma(2.0, warmup=1), norms)
    np.testing.assert_allclose(ours, [1.0, 1.0, 0.9, 1.0], rtol=1e-5)


def test_zero_norms_block_nothing_where_autoclip_zeroes_what_follows():
    norms = np.array([0.0, 0.0, 1.0, 1.0])
    steps = peers_adaptive.autoclip_steps(single(norms), quantile=0.5, global_threshold=True)
    np.testing.assert_array_equal(left(steps), [0, 0, 0, 0])
    for window in (10, None):
        clipper = clipax.autoclip(50.0, window=window, include_current=window is None)
        np.testing.assert_array_equal(clipax_norms(clipper, norms), norms)


# Opacus


def opacus_clip(leaf, max_norm) -> np.ndarray:
    optimizer = peers_adaptive.opacus_optimizer([leaf], max_norm)
    return peers_adaptive.opacus_sum(optimizer, [leaf[None]])[0]


def test_large_finite_example_is_clipped_where_opacus_drops_it():
    np.testing.assert_array_equal(opacus_clip(LARGE, 1.0), [0, 0, 0])
    np.testing.assert_allclose(
        peers.clipax_clip([LARGE], clipax.global_norm(1.0))[0], [3**-0.5] * 3, rtol=1e-6
    )


def test_tiny_example_below_the_threshold_is_kept_where_opacus_shrinks_it():
    leaf = np.array([3e-7, 4e-7], np.float32)
    np.testing.assert_allclose(opacus_clip(leaf, 1e-6), leaf * 2 / 3, rtol=1e-5)
    np.testing.assert_array_equal(peers.clipax_clip([leaf], clipax.global_norm(1e-6))[0], leaf)


# Optax


def test_large_finite_example_is_clipped_where_optax_drops_it():
    theirs, _ = optax.per_example_global_norm_clip([jnp.asarray(LARGE)[None]], 1.0)
    np.testing.assert_array_equal(theirs[0], [0, 0, 0])


def test_large_finite_leaf_is_clipped_where_optax_block_rms_zeroes_it():
    clipper = optax.clip_by_block_rms(1.0)
    leaf = [jnp.asarray(LARGE)]
    np.testing.assert_array_equal(clipper.update(leaf, clipper.init(leaf))[0][0], [0, 0, 0])
    ours = peers.clipax_clip([LARGE], clipax.block_rms(1.0))[0]
    np.testing.assert_allclose(ours, np.ones(3), rtol=1e-6)


def test_tiny_share_of_zero_parameters_is_reached_where_optax_clips_too_much():
    """optax takes a gradient to have a norm of at least 1e-6: 1e-7 were allowed here."""
    gradient, params = [jnp.array([6e-7])], [jnp.array([0.0])]
    theirs = optax.adaptive_grad_clip(1e-4)
    found, _ = theirs.update(gradient, theirs.init(params), params)
    np.testing.assert_allclose(found[0], [6e-8], rtol=1e-5)
    ours, _ = clipax.clip(gradient, clipax.agc(1e-4), params)
    np.testing.assert_allclose(ours[0], [1e-7], rtol=1e-5)


def test_kernel_with_one_input_has_a_unit_for_each_output_where_optax_has_one():
    """Not a defect but a choice: the published code squeezes the shape as well."""
    gradient, params = [jnp.array([[3.0, 4.0]])], [jnp.array([[300.0, 1.0]])]
    theirs = optax.adaptive_grad_clip(0.01)
    found, _ = theirs.update(gradient, theirs.init(params), params)
    np.testing.assert_allclose(found[0], [[1.8, 2.4]], rtol=1e-4)
    ours, _ = clipax.clip(gradient, clipax.agc(0.01), params)
    np.testing.assert_allclose(ours[0], [[3.0, 0.01]], rtol=1e-5)
