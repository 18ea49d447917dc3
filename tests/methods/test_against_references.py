"""The published clippers of single leaves, units and entries against float64 references."""

import functools

import jax
import numpy as np
import optax
import pytest
import reference_clippers as clippers
import reference_methods as methods
from methods_page import QUICK
from norm_series import heavy_tailed

import clipax
from clipax import measures, rules

TOLERANCE = 1e-5
SHAPES = [(6, 4), (4,), (3, 2, 5), (2, 2, 3, 4), ()]
STEPS = 60


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def _run(transformation, gradients, params):
    def step(state, gradient):
        updates, state = transformation.update(gradient, state, params)
        return state, updates

    return jax.lax.scan(step, transformation.init(params), gradients)[1]


def run(transformation, gradients, params=None):
    """The updates of successive steps; a gradient has steps in front."""
    if params is None:
        params = [np.zeros(leaf.shape[1:], np.float32) for leaf in gradients]
    found = _run(transformation, gradients, params)
    return [np.asarray(leaf) for leaf in found]


def drawn(seed: int, *leading: int) -> list[np.ndarray]:
    """Leaves of every number of axes, with a zero unit and, over steps, heavy-tailed norms."""
    random = np.random.default_rng(seed)
    scales = heavy_tailed(seed, length=leading[0]) if leading else np.ones(())
    leaves = []
    for shape in SHAPES:
        entries = random.normal(size=(*leading, *shape))
        leaf = entries * np.reshape(scales, scales.shape + (1,) * len(shape))
        if len(shape) > 1:
            leaf[..., 0] = 0
        leaves.append(leaf.astype(np.float32))
    return leaves


def assert_steps_equal(found, reference_of_step, gradients):
    for step in range(STEPS):
        gradient = [leaf[step] for leaf in gradients]
        for ours, right in zip(
            (leaf[step] for leaf in found), reference_of_step(gradient), strict=True
        ):
            np.testing.assert_allclose(ours, right, rtol=TOLERANCE, err_msg=f"step {step}")


BY_NORM = {
    "normalize": (clipax.normalize(50.0), lambda n: clippers.normalize(n, 50.0)),
    "smooth": (clipax.smooth(2.0), lambda n: clippers.smooth(n, 2.0)),
    "delta_clip": (clipax.delta_clip(), lambda n: clippers.delta_clip(n, 0.1)),
    "delta_clip-floor": (
        clipax.delta_clip(2.0, delta=0.3),
        lambda n: clippers.delta_clip(n, 2.0, 0.3),
    ),
    "auto_s": (clipax.auto_s(), lambda n: clippers.auto_s(n, 1.0)),
    "auto_s-large": (
        clipax.auto_s(2.0, stability=5.0),
        lambda n: clippers.auto_s(n, 2.0, 5.0),
    ),
    "per_sample": (
        clipax.clip_by(measures.per_tree(), 2.0, rules.per_sample()),
        lambda n: clippers.per_sample(n, 2.0),
    ),
    "smooth_root": (
        clipax.clip_by(measures.per_tree(), 2.0, rules.smooth_root),
        lambda n: clippers.smooth_root(n, 2.0),
    ),
}


@pytest.mark.parametrize(("clipper", "factor_of"), BY_NORM.values(), ids=list(BY_NORM))
def test_whole_gradient_is_scaled_as_the_reference_does(clipper, factor_of):
    gradients = drawn(0, STEPS)
    found = run(clipper, gradients)
    assert_steps_equal(found, lambda g: clippers.scaled_by_norm(g, factor_of), gradients)


RULES = {
    "normalize": (rules.normalize, clippers.normalize),
    "smooth": (rules.smooth, clippers.smooth),
    "smooth_root": (rules.smooth_root, clippers.smooth_root),
    "trust_region": (rules.trust_region, clippers.trust_region),
    "stabilized": (rules.stabilized(0.01), clippers.auto_s),
    "per_sample": (rules.per_sample(0.1), clippers.per_sample),
    "at_least": (rules.at_least(1e-3), clippers.delta_clip),
}


@pytest.mark.parametrize(("rule", "reference"), RULES.values(), ids=list(RULES))
def test_rule_is_that_of_the_reference_over_sixteen_orders_of_magnitude(rule, reference):
    norms = np.geomspace(1e-8, 1e8, 321).astype(np.float32)
    compiled = jax.jit(rule)
    for threshold in np.float32([1e-4, 0.1, 2.0, 3e3]):
        expected = [reference(float(n), float(threshold)) for n in norms]
        np.testing.assert_allclose(compiled(norms, threshold), expected, rtol=TOLERANCE)


def test_trust_region_bends_single_entries_as_heavyball_does():
    gradients = drawn(0, STEPS)

    def bent(leaf):
        entries = np.float64(leaf) / 1.5
        pressed = 0.1 * np.sign(entries) * np.log1p(np.abs(entries)) + 0.9 * np.tanh(entries)
        return np.clip(1.5 * pressed, -2, 2)

    clipper = clipax.clip_by(measures.per_element(), 2.0, rules.trust_region)
    assert_steps_equal(run(clipper, gradients), lambda g: map(bent, g), gradients)


def test_block_rms_is_that_of_the_reference():
    gradients = drawn(1, STEPS)
    found = run(clipax.block_rms(1.2), gradients)
    assert_steps_equal(found, lambda g: clippers.block_rms(g, 1.2), gradients)


def test_value_is_that_of_numpy_between_two_schedules():
    """Each is what its own side is cut off at."""
    clipper = clipax.value((lambda step: -1.0 - step, lambda step: 3.0 + step))
    gradient = np.float32([-9, -1.5, 0, 3.5, 9])
    for step, (found,) in enumerate(zip(*run(clipper, [np.stack([gradient] * 3)]), strict=True)):
        np.testing.assert_array_equal(found, np.clip(gradient, -1 - step, 3 + step))


@pytest.mark.parametrize("clipping", [0.01, 0.7])
def test_agc_is_that_of_the_reference(clipping):
    gradients, params = drawn(2, STEPS), drawn(3)
    found = run(clipax.agc(clipping), gradients, params)
    assert_steps_equal(found, lambda g: clippers.agc(g, params, clipping), gradients)


def test_agc_leaves_alone_what_is_excluded():
    gradient = {"body": np.full((3, 4), 10, np.float32), "head": np.full((3, 4), 10, np.float32)}
    params = {name: np.ones((3, 4), np.float32) for name in gradient}
    clipper = clipax.agc(0.1, exclude=lambda path: path == "head")
    result = jax.jit(lambda g, p: clipax.clip(g, clipper, p)[0])(gradient, params)
    np.testing.assert_allclose(result["body"], np.full((3, 4), 0.1), rtol=TOLERANCE)
    np.testing.assert_array_equal(result["head"], gradient["head"])


@pytest.mark.parametrize(("relative", "absolute"), [(0.1, 1e-7), (0.5, 1e-2), (3.0, 0.1)])
def test_clippy_is_that_of_the_reference(relative, absolute):
    updates, params = drawn(4, STEPS), drawn(5)
    found = run(clipax.clippy(relative, absolute=absolute), updates, params)
    assert_steps_equal(found, lambda u: clippers.clippy(u, params, relative, absolute), updates)


# Over successive steps.


def leaf_norms(*, zeros: bool) -> np.ndarray:
    """Three leaves of different sizes, two of which rise for good, one early small norm."""
    levels = 1 + (np.arange(500) > 200)[:, None] * np.array([0, 10, 25])
    columns = np.stack([heavy_tailed(seed, zeros=zeros) for seed in range(3)], axis=1)
    norms = columns * levels * np.array([1.0, 0.1, 20.0])
    norms[5] *= 0.01
    return norms.astype(np.float32)


@pytest.mark.parametrize(
    ("settings", "zeros"),
    [
        ({}, True),
        ({"restart": 30, "warmup": 20, "max_norm": 5.0}, True),
        ({"restart": 20, "warmup": 40, "ratio": 2.0, "decay": 0.9}, True),
        ({"restart": None}, False),
        ({"restart": None, "ratio": 1.05, "decay": 0.98}, False),
    ],
    ids=["ours", "late", "eager", "published", "published-first"],
)
def test_adagc_is_that_of_the_reference(settings, zeros):
    """A restart is a decision: the margin keeps float32 from taking it otherwise."""
    norms = leaf_norms(zeros=zeros)
    expected = clippers.adagc(norms, **settings)
    assert expected.margin > 1e-5
    assert 0.2 < np.mean(expected.factor < 1) < 1
    found = run(clipax.adagc(**settings), [norms[:, i, None] for i in range(3)])
    np.testing.assert_allclose(
        np.concatenate(found, axis=1), expected.factor * norms, rtol=TOLERANCE
    )


def test_warm_up_of_adagc_takes_the_sum_of_the_leaves_by_its_own_norm():
    clipper = clipax.adagc(max_norm=1.0, warmup=5, ord=1)
    (first,), (second,) = run(clipper, [np.float32([[3.0]]), np.float32([[-4.0]])])
    np.testing.assert_allclose([*first, *second], [3 / 7, -4 / 7], rtol=TOLERANCE)


def test_nan_in_one_leaf_does_not_count_in_the_warm_up_of_adagc():
    clipper = clipax.adagc(max_norm=1.0, warmup=5)
    (first,), (second,) = run(clipper, [np.float32([[np.nan]]), np.float32([[-4.0]])])
    assert np.isnan(first) and second == pytest.approx(-1, rel=TOLERANCE)


def entries(*, length: int = 300) -> np.ndarray:
    scales = np.stack([heavy_tailed(seed, length=length) for seed in range(4)], axis=1)
    return (np.random.default_rng(3).normal(size=scales.shape) * scales).astype(np.float32)


@pytest.mark.parametrize(
    "settings",
    [{}, {"ratio": 4.0, "every": 100, "warmup": 7}, {"ratio": 9.0, "every": None, "decay": 0.9}],
    ids=["published", "often", "once"],
)
def test_spam_is_that_of_the_reference(settings):
    gradient = entries()
    limits = [
        methods.trace(methods.second_moment(**settings), column).threshold
        for column in np.abs(gradient).T
    ]
    expected = np.sign(gradient) * np.minimum(np.abs(gradient), np.stack(limits, axis=1))
    assert (expected != gradient).any()
    (found,) = run(clipax.spam(**settings), [gradient])
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        (
            {"decay": 0.9, "decays": (0.5, 0.99), "eps": 1e-3},
            {"decay": 0.9, "decays": (0.5, 0.99), "eps": 1e-3},
        ),
    ],
    ids=["published", "other"],
)
def test_stable_spam_is_that_of_the_reference(ours, theirs):
    gradient = entries()
    (found,) = run(clipax.stable_spam(**ours), [gradient])
    np.testing.assert_allclose(found, clippers.stable_spam(gradient, **theirs), rtol=TOLERANCE)


# Adam's moments with exact shares: 1 - 0.999 has but four digits in float32, and so have Adam's.
BETAS = (0.875, 1 - 1 / 64)


def test_momentum_reset_of_adam_is_that_of_the_reference():
    gradient = entries()
    optimizer = clipax.momentum_reset(optax.adam(1e-3, *BETAS), 40, warmup=15)
    (found,) = run(optimizer, [gradient])
    expected, _ = clippers.adam_with_resets(gradient, 1e-3, BETAS, 1e-8, every=40, warmup=15)
    # Of the rate: the moment itself may pass through zero.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * TOLERANCE)


def test_spam_keeps_the_second_moment_that_adam_has_after_it():
    """Reset at the same steps, a copy of the moment stays one."""
    gradient = entries()
    clipper = clipax.spam(4.0, decay=BETAS[1], every=40, warmup=7)
    optimizer = clipax.momentum_reset(optax.adam(1e-3, *BETAS), 40, warmup=15)
    (clipped,) = run(clipper, [gradient])
    _, moments = clippers.adam_with_resets(clipped, 1e-3, BETAS, 1e-8, every=40, warmup=15)
    phase = np.arange(1, len(gradient) + 1) % 40
    limits = np.sqrt(4.0 * np.array(moments))[:-1]
    limits[(phase[1:] < 7)] = np.inf
    limits[limits == 0] = np.inf
    expected = np.sign(gradient[1:]) * np.minimum(np.abs(gradient[1:]), limits)
    np.testing.assert_allclose(clipped[1:], expected, rtol=TOLERANCE)
    (updates,) = run(optax.chain(clipper, optimizer), [gradient])
    (alone,) = run(optimizer, [clipped])
    np.testing.assert_allclose(updates, alone, rtol=0, atol=1e-3 * TOLERANCE)
