"""What the clippers with running numbers do in the situations that they were repaired for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_methods as methods
from norm_series import calm
from norm_series import follow as follow_exactly
from rows import sampled

from clipax import _windows, thresholds

SERIES = 40
LENGTHS = (600, 2000, 7000, 12_000, 20_300)


def follow(policy, norms, state=None):
    """In a few lengths, so that less is compiled: norms that are not finite change nothing."""
    norms = np.asarray(norms, np.float32)
    steps = min(n for n in LENGTHS if n >= len(norms)) - len(norms)
    padded = np.concatenate([norms, np.full((steps, *norms.shape[1:]), np.nan, np.float32)])
    values, state = follow_exactly(policy, padded, state)
    return values[: len(norms)], state


def calm_series(length: int, begin: int = 0) -> np.ndarray:
    """Many series of norms that vary by a fifth, in columns."""
    return np.stack([calm(begin + seed, length) for seed in range(SERIES)], axis=1)


def after(policy, norms) -> np.ndarray:
    """What is left of the norms."""
    return np.minimum(follow(policy, norms)[0], norms)


# ZClip: with its repairs, and as it was published.


SCORE = thresholds.restarted(thresholds.z_score(), 25)
PUBLISHED_SCORE = thresholds.z_score(outlier=None, spread=0.0)


def shifted(factor: float, length: int) -> np.ndarray:
    return np.concatenate([calm_series(300), factor * calm_series(length, 1000)])


@pytest.mark.parametrize(("factor", "steps"), [(2.5, 40), (3.0, 30), (10.0, 25), (100.0, 25)])
def test_lasting_rise_is_accepted_by_zclip(factor, steps):
    """Afterwards hardly any norm is clipped, as before; the published rule clips all of them."""
    norms = shifted(factor, 700).astype(np.float32)
    later = np.s_[300 + steps :]
    assert np.mean(after(SCORE, norms)[later] < 0.9 * norms[later]) < 0.02
    published = after(PUBLISHED_SCORE, norms)[later]
    assert np.mean(published < 0.9 * norms[later]) > (0.99 if factor >= 3 else 0.4)


def test_lasting_rise_is_never_accepted_as_published():
    norms = shifted(3.0, 20_000)[:, :4].astype(np.float32)
    published = after(PUBLISHED_SCORE, norms)[-1000:]
    assert (published < norms[-1000:]).all()
    assert np.median(published) < 1.2


@pytest.mark.parametrize("steps_later", [1, 25, 75])
def test_spike_in_the_warmup_leaves_zclip_working(steps_later):
    norms = calm_series(120)
    usual = np.delete(norms[:25], 10, axis=0).mean(axis=0)
    norms[10] = 50 * usual
    norms[24 + steps_later] = 50 * usual
    kept = after(SCORE, norms)[24 + steps_later] / usual
    assert kept.max() < 1.1
    published = after(PUBLISHED_SCORE, norms)[24 + steps_later] / usual
    assert np.median(published) > {1: 15, 25: 7.5, 75: 2.4}[steps_later]


def test_rise_by_a_thousandth_after_equal_norms_is_not_clipped():
    norms = np.ones(60, np.float32)
    norms[25:] = 1.001
    np.testing.assert_array_equal(after(SCORE, norms), norms)
    assert (after(PUBLISHED_SCORE, norms)[25:] < norms[25:]).all()


def test_median_of_two_norms_decides_which_of_them_enter_the_warmup():
    """It is 10, so that 19 is not too far above it, as it is above 1."""
    norms = np.float32([1, 19, 10, 30])
    expected = methods.trace(methods.z_score(warmup=2), norms).threshold
    found, _ = follow(thresholds.z_score(warmup=2), norms)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_repairs_of_zclip_change_nothing_on_calm_norms():
    norms = calm_series(500)
    np.testing.assert_allclose(after(SCORE, norms), after(PUBLISHED_SCORE, norms), rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_restart_of_zclip_never_happens_on_ordinary_norms(sigma):
    norms = np.random.default_rng(0).lognormal(sigma=sigma, size=(2000, SERIES))
    plain = follow(thresholds.z_score(), norms)[0]
    np.testing.assert_allclose(follow(SCORE, norms)[0], plain, rtol=1e-6)


# AdaGC

PUBLISHED_MEAN = thresholds.exponential_mean(1.04, decay=0.99, warmup=100)
MEAN = thresholds.restarted(PUBLISHED_MEAN, 100, ratio=4.0)


def steps_until(condition: np.ndarray) -> np.ndarray:
    """At which step, from 1, a condition first holds in each series."""
    assert condition.any(axis=0).all()
    return 1 + condition.argmax(axis=0)


def test_adagc_recovers_from_one_small_norm_in_the_warmup():
    """A restart needs a hundred norms in a row above its bound, which nine series in ten have."""
    norms = calm_series(7000)
    usual = follow(PUBLISHED_MEAN, norms)[0][100:]
    norms[7] *= 0.1
    recovery = steps_until(follow(MEAN, norms)[0][100:] > 0.8 * usual)
    published = steps_until(follow(PUBLISHED_MEAN, norms)[0][100:] > 0.8 * usual)
    assert np.quantile(recovery, 0.9) <= 105
    assert published.min() > 3500 and np.median(published) > 4500


def test_restart_of_adagc_changes_nothing_on_calm_norms():
    norms = calm_series(3000)
    np.testing.assert_allclose(follow(MEAN, norms)[0], follow(PUBLISHED_MEAN, norms)[0], rtol=1e-6)


@pytest.mark.parametrize("place", [3, 100, 400])
def test_zeros_change_nothing_in_adagc(place):
    norms = calm_series(600)[:, :3]
    spoiled = np.insert(norms, place, np.zeros((1000, 3)), axis=0)
    found = np.delete(follow(MEAN, spoiled)[0], np.s_[place : place + 1000], axis=0)
    np.testing.assert_array_equal(found, follow(MEAN, norms)[0])


def test_zero_amid_a_run_neither_extends_nor_ends_it():
    policy = thresholds.restarted(thresholds.exponential_mean(1.1), 3)
    norms = np.float32([1, 9, 0, 8, 9, 9])
    found, expected = (follow(policy, n)[0] for n in (norms, np.delete(norms, 2)))
    np.testing.assert_array_equal(np.delete(found, 2), expected)
    assert expected[-1] > 8 > expected[-2]


def test_adagc_clips_most_calm_norms():
    norms = calm_series(3000)
    share = np.mean(after(MEAN, norms)[100:] < norms[100:], axis=0)
    assert share.min() > 0.65 and share.max() < 0.9


# The tracked quantile

RATES = {0.2: (0.12, 0.26), 0.02: (0.04, 0.08)}
QUANTILES = {f"{rate}-{t}": (t, rate, RATES[rate]) for rate in RATES for t in (0.1, 0.5, 0.9)}


@functools.cache
def tracked(target, rate):
    return thresholds.tracked_quantile(target, rate=rate)


@functools.cache
def lognormal(length: int) -> np.ndarray:
    return np.random.default_rng(5).lognormal(sigma=0.5, size=(length, 6)).astype(np.float32)


@sampled("quantile", QUANTILES, ("0.2-0.1", "0.02-0.9"))
def test_quantile_has_its_coverage_and_strays_as_documented(quantile):
    target, rate, spread = quantile
    norms = lognormal(12_000)
    values, _ = follow(tracked(target, rate), norms)
    covered = np.mean(norms[2000:] <= values[2000:])
    np.testing.assert_allclose(covered, target, atol=1e-3)
    strayed = np.std(np.log(values[2000:]), axis=0).mean()
    assert spread[0] < strayed < spread[1]


@sampled("quantile", QUANTILES, ("0.2-0.1", "0.02-0.9"))
def test_quantile_follows_a_shift_at_the_documented_speed(quantile):
    """The first nine tenths of the way, in logarithms; near the quantile it slows down."""
    target, rate, _ = quantile
    policy = tracked(target, rate)
    _, settled = follow(policy, lognormal(6000))
    exact = np.quantile(lognormal(12_000), target)
    for factor, share in ((100.0, target), (0.01, 1 - target)):
        values, _ = follow(policy, factor * lognormal(6000), settled)
        way = np.log(values / exact) / np.log(factor)
        steps = np.median(steps_until(way > 0.9))
        np.testing.assert_allclose(steps, 0.9 * np.log(100) / (rate * share), rtol=0.25)


# The deviation of the last norms


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_deviation_is_exact_at_any_scale_with_a_spike(scale):
    norms = np.random.default_rng(6).lognormal(sigma=0.3, size=500) * scale
    norms[200] *= 1e6
    norms = norms.astype(np.float32)
    expected = methods.trace(methods.deviation(), norms).threshold
    for begin in (np.s_[:200], np.s_[200:330], np.s_[330:]):
        found = follow(thresholds.window_deviation(), norms)[0][begin]
        assert not np.isnan(found).any()
        np.testing.assert_allclose(found, expected[begin], rtol=1e-6)


def test_deviation_of_equal_norms_is_its_least():
    for value in (3.3, 1e-3, 1e30):
        norms = np.full(300, value, np.float32)
        found, _ = follow(thresholds.window_deviation(3.0), norms)
        np.testing.assert_allclose(found[64:], np.float64(norms[64:]) + 3e-6, rtol=1e-6)


MODES = {
    "compiled-1": (jax.jit, 1),
    "compiled-3": (jax.jit, 3),
    "eager-1": (lambda f: f, 1),
    "eager-3": (lambda f: f, 3),
}


@sampled("mode", MODES, ("compiled-1", "compiled-3", "eager-3"))
def test_equal_norms_have_no_deviation(mode):
    """Not even that of a quotient and a product with a reciprocal."""
    of_window, groups = mode[0](_windows.mean_and_deviation), mode[1]
    values = np.random.default_rng(7).lognormal(sigma=3.0, size=(50, groups)).astype(np.float32)
    for count in (2, 3, 25):
        for value in values[:: 1 if mode[0] is jax.jit else 5]:
            window = np.where(np.arange(25)[:, None] < count, value, np.inf)
            mean, deviation = of_window(jnp.asarray(window, np.float32), window < np.inf)
            np.testing.assert_allclose(mean, value, rtol=25 * 2**-24)  # of a sum in any order
            assert not deviation.any(), (count, value, deviation)


def test_deviation_stays_a_number_after_the_largest():
    norms = np.ones(300)
    norms[100] = np.finfo(np.float32).max
    found, _ = follow(thresholds.window_deviation(), norms)
    assert not np.isnan(np.asarray(found)).any()
    largest_at = found[101:229]
    expected = methods.trace(methods.deviation(), np.float32(norms)).threshold[101:229]
    np.testing.assert_allclose(largest_at, expected, rtol=1e-6)
