"""`suggest_threshold`: what it reads from series of norms whose story is known."""

import numpy as np
import pytest

import clipax


def calm(size=400, seed=0, spread=0.2):
    return np.random.default_rng(seed).lognormal(sigma=spread, size=size)


def told(found, word):
    return any(word in reason for reason in found.reasons)


def test_calm_norms_give_their_95th_percentile_and_no_warning():
    norms = calm()
    found = clipax.suggest_threshold(norms)
    assert found.threshold == np.percentile(norms, 95)
    assert (found.spikes, found.changes, found.nonfinite) == ((), (), ())
    assert not found.diverges and len(found.reasons) == 1


def test_spikes_are_found_and_do_not_move_the_threshold():
    norms = calm()
    expected = clipax.suggest_threshold(norms).threshold
    norms[[5, 100, 101, 399]] *= 50
    found = clipax.suggest_threshold(norms)
    assert found.spikes == (5, 100, 101, 399)
    assert found.threshold == pytest.approx(expected, rel=0.02)
    assert not told(found, "of the steps are spikes")


def test_frequent_spikes_are_told():
    norms = calm()
    norms[::12] *= 50
    assert told(clipax.suggest_threshold(norms), "of the steps are spikes")


@pytest.mark.parametrize("factor", [3.0, 100.0, 0.1])
def test_change_of_the_level_is_found_where_it_is(factor):
    norms = calm()
    norms[250:] *= factor
    found = clipax.suggest_threshold(norms)
    assert len(found.changes) == 1 and abs(found.changes[0] - 250) <= 1
    assert found.spikes == ()
    assert found.threshold == pytest.approx(np.percentile(norms[250:], 95), rel=0.02)
    assert told(found, "level changes at step")


def test_threshold_is_of_the_norms_since_the_last_change():
    norms = calm(600)
    norms[200:] *= 10
    norms[400:] *= 10
    found = clipax.suggest_threshold(norms)
    assert found.changes == (200, 400)
    assert found.threshold == np.percentile(norms[400:], 95)


@pytest.mark.parametrize("seed", range(20))
def test_heavy_tails_are_no_change_of_the_level(seed):
    norms = np.random.default_rng(seed).standard_t(3, size=500) ** 2 + 0.1
    assert clipax.suggest_threshold(norms).changes == ()


def test_drift_is_told_and_the_last_norms_count():
    norms = calm() * np.geomspace(10, 1, 400)
    found = clipax.suggest_threshold(norms)
    assert found.changes == () and told(found, "drifts") and not found.diverges
    assert found.threshold == np.percentile(norms[300:], 95)


@pytest.mark.parametrize("growth", [30, 1e4, 1e30])
def test_growth_over_the_whole_run_is_told(growth):
    found = clipax.suggest_threshold(calm() * np.geomspace(1, growth, 400))
    assert found.diverges and told(found, "lower it first")


@pytest.mark.parametrize("seed", range(20))
def test_level_that_lasts_does_not_diverge(seed):
    norms = calm(seed=seed)
    norms[250:] *= 100
    found = clipax.suggest_threshold(norms)
    assert not found.diverges and found.explosion is None


@pytest.mark.parametrize("lost", [0, 1, 200])
@pytest.mark.parametrize("steps", [3, 10, 30, 90])
def test_explosion_at_the_end_is_told_and_left_out(steps, lost):
    norms = np.concatenate([calm(970), 4.0 ** np.arange(2, steps + 2), np.full(lost, np.nan)])
    found = clipax.suggest_threshold(norms)
    assert found.explosion == 970 and not found.diverges and told(found, "explode at step 970")
    assert found.threshold == np.percentile(calm(970), 95)
    assert (found.spikes, found.changes) == ((), ())
    assert len(found.nonfinite) == lost


def test_norms_that_are_lost_at_once_are_no_explosion():
    found = clipax.suggest_threshold(np.where(np.arange(400) < 370, calm(), np.nan))
    assert not found.diverges and found.explosion is None
    assert found.nonfinite == tuple(range(370, 400)) and told(found, "first at step 370")


def test_norms_that_are_finite_at_the_end_only():
    found = clipax.suggest_threshold(np.where(np.arange(200) < 180, np.nan, calm(200)))
    assert found.nonfinite == tuple(range(180)) and 0.5 < found.threshold < 3


def test_candidates_are_the_methods_in_use():
    norms = np.arange(1.0, 101.0)
    by_rule = {c.method: c for c in clipax.suggest_threshold(norms).candidates}
    assert by_rule["0.5 times the mean"].threshold == 25.25
    assert by_rule["0.5 times the mean"].clip_rate == 0.75
    assert by_rule["10 times the mean"].clip_rate == 0
    assert by_rule["percentile 90"].threshold == np.percentile(norms, 90)
    assert by_rule["2 times the median"].threshold == 101
    assert by_rule["mean and 3 deviations"].threshold == norms.mean() + 3 * norms.std()


def test_zeros_and_short_series():
    norms = np.concatenate([np.zeros(50), calm(20)])
    found = clipax.suggest_threshold(norms)
    assert 0.5 < found.threshold < 3 and found.spikes == ()
    assert clipax.suggest_threshold(np.ones(20)).threshold == 1


def test_it_prints_as_a_report():
    lines = str(clipax.suggest_threshold(calm())).splitlines()
    assert lines[0].startswith("threshold ") and lines[3].split() == [
        "method",
        "threshold",
        "clipped",
    ]
    assert len(lines) == 4 + 12


@pytest.mark.parametrize(
    ("norms", "error", "message"),
    [
        ("norms", TypeError, "`norms` must be a series of numbers, got 'norms'"),
        ([[1.0] * 30], ValueError, r"`norms` must have one axis, got the shape \(1, 30\)"),
        ([1.0] * 30 + [-1.0], ValueError, "`norms` must not be negative, got -1"),
        ([1.0] * 19 + [np.nan, 0.0], ValueError, "at least 20 finite norms above 0, got 19"),
        (
            [1.0] * 15 + [10.0**i for i in range(1, 9)],
            ValueError,
            "finite norms above 0, got 15 before they explode at step 15",
        ),
    ],
)
def test_wrong_series_are_refused(norms, error, message):
    with pytest.raises(error, match=message):
        clipax.suggest_threshold(norms)
