"""Known defects of the packages people clip with today: their answer pinned beside clipax's.

They are those of the versions that the extra `parity` names; a test that fails after an upgrade of
one of these packages tells that its defect is gone, not that clipax is wrong.
"""

import math

import numpy as np
import peers
import pytest

import clipax

pytestmark = peers.marks

LARGE = np.full(3, 1e20, np.float32)
HALF = np.array([300], np.float16)
LARGE_CASES = pytest.mark.parametrize(
    ("leaf", "right"), [(LARGE, [3**-0.5] * 3), (HALF, [1.0])], ids=["float32-1e20", "float16-300"]
)


def assert_clips_to(leaf, clipper, right):
    ours = peers.clipax_clip([leaf], clipper)[0]
    assert ours.dtype == leaf.dtype
    np.testing.assert_allclose(ours, right, rtol=4 * np.finfo(leaf.dtype).eps)


# PyTorch


@pytest.mark.parametrize(
    ("gradient", "max_norm", "shrunk"),
    [([3e-6, 4e-6], 5.0001e-6, 5.0001 / 6), ([3e-7, 4e-7], 1e-6, 2 / 3)],
    ids=["at-threshold", "half-the-threshold"],
)
def test_norm_below_threshold_is_kept_where_torch_shrinks_it(gradient, max_norm, shrunk):
    leaf = np.array(gradient, np.float32)
    np.testing.assert_allclose(peers.torch_norm([leaf], max_norm)[0], shrunk * leaf, rtol=1e-5)
    np.testing.assert_array_equal(peers.clipax_clip([leaf], clipax.global_norm(max_norm))[0], leaf)


def test_tiny_threshold_is_reached_where_torch_stops_far_below():
    leaf = np.array([3e-8, 4e-8], np.float32)
    theirs = peers.torch_norm([leaf], 1e-8)
    np.testing.assert_allclose(peers.double_norm(theirs), 1e-8 * 5e-8 / 1.05e-6, rtol=1e-5)
    assert_clips_to(leaf, clipax.global_norm(1e-8), [6e-9, 8e-9])


def test_large_finite_gradient_is_clipped_where_torch_zeroes_it():
    np.testing.assert_array_equal(peers.torch_norm([LARGE], 1.0)[0], [0, 0, 0])
    assert_clips_to(LARGE, clipax.global_norm(1.0), [3**-0.5] * 3)


def test_infinite_threshold_is_the_identity_where_torch_makes_nan():
    assert np.isnan(peers.torch_norm([LARGE], math.inf)[0]).all()
    np.testing.assert_array_equal(
        peers.clipax_clip([LARGE], clipax.global_norm(math.inf))[0], LARGE
    )


def test_infinite_entry_is_loud_where_torch_loses_half_the_step_silently():
    leaves = [np.array([np.inf, 1], np.float32), np.array([2], np.float32)]
    theirs = peers.torch_norm(leaves, 1.0)
    np.testing.assert_array_equal(np.concatenate(theirs), [np.nan, 0, 0])
    ours = peers.clipax_clip(leaves, clipax.global_norm(1.0))
    assert np.isnan(np.concatenate(ours)).all()


def test_negative_threshold_is_refused_where_torch_flips_the_sign():
    leaf = np.array([3, 4], np.float32)
    np.testing.assert_allclose(peers.torch_norm([leaf], -1.0)[0], [-0.6, -0.8], rtol=1e-6)
    with pytest.raises(ValueError, match="max_norm"):
        clipax.global_norm(-1.0)


def test_negative_limit_is_refused_where_torch_writes_it_into_every_entry():
    leaf = np.array([-3, 0.5, 3], np.float32)
    np.testing.assert_array_equal(peers.torch_value([leaf], -1.0)[0], [-1, -1, -1])
    with pytest.raises(ValueError, match="limit"):
        clipax.value(-1.0)


# TensorFlow

TENSORFLOW = pytest.mark.parametrize(
    ("clip", "clipper", "wrong"),
    [
        (peers.tensorflow_global_norm, clipax.global_norm, np.nan),
        (peers.tensorflow_norm, clipax.per_leaf, 0.0),
    ],
    ids=["clip_by_global_norm", "clip_by_norm"],
)


@TENSORFLOW
@LARGE_CASES
def test_large_finite_gradient_is_clipped_where_tensorflow_loses_it(
    clip, clipper, wrong, leaf, right
):
    np.testing.assert_array_equal(clip([leaf], 1.0)[0], np.full(leaf.shape, wrong))
    assert_clips_to(leaf, clipper(1.0), right)


def test_small_gradient_is_measured_where_tensorflow_underflows():
    leaf = np.full(3, 1e-23, np.float32)
    np.testing.assert_array_equal(peers.tensorflow_global_norm([leaf], 1e-25)[0], leaf)
    np.testing.assert_array_equal(peers.tensorflow_norm([leaf], 1e-25)[0], [0, 0, 0])
    for clipper in (clipax.global_norm, clipax.per_leaf):
        assert_clips_to(leaf, clipper(1e-25), [1e-25 * 3**-0.5] * 3)


@TENSORFLOW
def test_zero_gradient_at_threshold_zero_is_zero_where_tensorflow_makes_nan(clip, clipper, wrong):
    leaf = np.zeros(2, np.float32)
    assert np.isnan(clip([leaf], 0.0)[0]).all()
    np.testing.assert_array_equal(peers.clipax_clip([leaf], clipper(0.0))[0], leaf)


def test_negative_threshold_is_refused_where_tensorflow_accepts_it():
    leaf = np.array([3, 4], np.float32)
    np.testing.assert_array_equal(peers.tensorflow_global_norm([leaf], -1.0)[0], [3, 4])
    np.testing.assert_array_equal(peers.tensorflow_norm([leaf], -1.0)[0], [0, 0])
    for clipper in (clipax.global_norm, clipax.per_leaf):
        with pytest.raises(ValueError, match="max_norm"):
            clipper(-1.0)


# Keras

KERAS = pytest.mark.parametrize(
    ("argument", "clipper", "wrong"),
    [("global_clipnorm", clipax.global_norm, np.nan), ("clipnorm", clipax.per_leaf, 0.0)],
    ids=["global_clipnorm", "clipnorm"],
)


@KERAS
@LARGE_CASES
def test_large_finite_gradient_is_clipped_where_keras_loses_it(
    argument, clipper, wrong, leaf, right
):
    theirs = peers.keras_clip([leaf], **{argument: 1.0})[0]
    np.testing.assert_array_equal(theirs, np.full(leaf.shape, wrong))
    assert_clips_to(leaf, clipper(1.0), right)


@KERAS
def test_negative_threshold_is_refused_where_keras_ignores_it(argument, clipper, wrong):
    leaf = np.array([3, 4], np.float32)
    np.testing.assert_array_equal(peers.keras_clip([leaf], **{argument: -1.0})[0], leaf)
    with pytest.raises(ValueError, match="max_norm"):
        clipper(-1.0)


@KERAS
def test_threshold_zero_stops_everything_where_keras_ignores_it(argument, clipper, wrong):
    leaf = np.array([3, 4], np.float32)
    np.testing.assert_array_equal(peers.keras_clip([leaf], **{argument: 0.0})[0], leaf)
    np.testing.assert_array_equal(peers.clipax_clip([leaf], clipper(0.0))[0], [0, 0])


# Adaptive thresholds after one NaN

CALM = np.exp(0.2 * np.random.default_rng(0).normal(size=60))
NORMS = [*CALM, np.nan, *CALM[:9], 1000.0]


def clipped_norms(clipper) -> np.ndarray:
    steps = peers.clipax_steps(clipper, [np.array([norm], np.float32) for norm in NORMS])
    return np.abs(np.concatenate([np.asarray(step) for step in steps]))


def test_spike_after_nan_is_clipped_where_autoclip_stays_nan():
    torch, autoclip = peers.package("torch"), peers.package("autoclip.torch")
    parameter = torch.nn.Parameter(torch.zeros(1))
    peer = autoclip.QuantileClip([parameter], quantile=0.9, history_length=1000)
    theirs = []
    for norm in NORMS:
        parameter.grad = torch.tensor([float(norm)])
        peer.step()
        theirs.append(float(parameter.grad))
    assert np.isfinite(theirs[:60]).all()
    assert np.isnan(theirs[60:]).all()

    ours = clipped_norms(clipax.adaptive(90.0, multiplier=1.0, warmup=10))
    assert np.isnan(ours[60])
    assert ours[-1] <= CALM.max()


def test_spike_after_nan_is_clipped_where_zclip_lets_it_pass():
    torch, zclip = peers.package("torch"), peers.package("zclip")
    model = torch.nn.Linear(1, 1, bias=False)
    peer = zclip.ZClip(max_grad_norm=None)
    theirs = []
    for norm in NORMS:
        model.weight.grad = torch.tensor([[float(norm)]])
        peer.step(model)
        theirs.append(float(model.weight.grad))
    assert math.isnan(peer.mean)
    assert theirs[-1] == 1000.0

    ours = clipped_norms(clipax.moving_average())
    assert np.isnan(ours[60])
    np.testing.assert_allclose(ours[-1], 2 * np.mean(CALM), rtol=0.1)
