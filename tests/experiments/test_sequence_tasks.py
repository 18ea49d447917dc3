"""Tasks that are sequences: what their batches hold, what a loss counts and what a net may see."""

import importlib.util

import jax
import numpy as np
import pytest
from rows import sampled

from experiments import models
from experiments.data import chorales as scores
from experiments.data import folk_tunes
from experiments.data import weather as days
from experiments.tasks import characters, chorales, rows, weather

KEY = jax.random.key(0)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs the package {package}")


def started(net, outputs):
    return jax.jit(net.init)(KEY, np.zeros(outputs, np.float32))


# No look at the future


def _recurrent(cell):
    inputs = np.random.default_rng(0).normal(size=(12, 2, 3)).astype(np.float32)
    return models.recurrent(cell, 3, 8, characters.SYMBOLS), inputs


def _language(kind):
    symbols = np.random.default_rng(0).integers(0, characters.SYMBOLS, (12, 2))
    net = characters.net(characters.Model(kind, width=8, length=12))
    return net, np.eye(characters.SYMBOLS, dtype=np.float32)[symbols]


NETS = {
    **{f"recurrent-{cell}": (_recurrent, cell) for cell in models.CELLS},
    **{f"language-{kind}": (_language, kind) for kind in ("lstm", "transformer")},
}


@sampled("net", NETS, ["recurrent-gru"])
def test_later_inputs_do_not_change_earlier_outputs_and_change_all_later_ones(net):
    make, kind = net
    net, inputs = make(kind)
    changed = inputs.copy()
    changed[7] = np.roll(inputs[7], 1, axis=-1) + 1
    params, apply = started(net, characters.SYMBOLS), jax.jit(net.apply)
    before, after = (np.asarray(apply(params, each)) for each in (inputs, changed))
    moved = np.abs(before - after).max((1, 2))
    assert not moved[:7].any() and moved[7:].all()


# Chorales

draw_passages = jax.jit(chorales.draw, static_argnums=(2, 3))


def _chorales(*lengths, key=40):
    """Chorales in each of which one and the same key sounds at every step."""
    voices = [np.full((length, 4), scores.LOWEST_KEY + key, np.int8) for length in lengths]
    return scores.piano_rolls(voices, margin=-chorales.LOWER)


def test_passages_are_transposed_by_each_of_twelve_semitones():
    passages, _ = draw_passages(KEY, _chorales(30), 300, 8)
    assert (np.asarray(passages).sum(-1) == 1).all()
    shifts = np.asarray(passages.argmax(-1)) - 40
    assert (shifts == shifts[0]).all()
    assert set(shifts[0]) == set(range(chorales.LOWER, chorales.UPPER + 1))


@needs("music21")
def test_no_chorale_leaves_the_keyboard_when_it_is_transposed():
    rolls, _ = scores.piano_rolls(scores.load().train)
    used = np.flatnonzero(rolls.any((0, 1)))
    assert used.min() + chorales.LOWER >= 0 and used.max() + chorales.UPPER < scores.KEYS


def test_mask_leaves_out_the_first_chord_and_what_comes_after_the_end():
    passages, mask = draw_passages(KEY, _chorales(10, 100), 50, 48)
    sounding = np.asarray(passages.any(-1))
    assert passages.shape[:2] == (49, 50) and mask.shape == (48, 50)
    assert set(np.asarray(mask.sum(0))) == {9, 48}
    np.testing.assert_array_equal(mask, sounding[1:])


@pytest.mark.exhaustive
def test_what_the_mask_hides_changes_neither_loss_nor_gradient():
    passages, mask = draw_passages(KEY, _chorales(10, 100), 6, 48)
    net = models.recurrent("tanh", scores.KEYS, 8, scores.KEYS)
    params = started(net, scores.KEYS)
    passages, mask = map(np.asarray, (passages, mask))
    hidden = np.concatenate([np.zeros_like(mask[:1]), ~mask])[..., None]
    assert hidden.any()
    loss = jax.jit(jax.value_and_grad(lambda p, b: chorales.loss(net, p, b)))
    first = loss(params, (passages, mask))
    second = loss(params, (np.where(hidden, 1 - passages, passages), mask))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_a_split_scores_what_its_chorales_score_one_by_one():
    rolls, lengths = _chorales(10, 25)
    task = chorales.build(chorales.Model("tanh", 8, 4, 16))
    rolls = rolls[..., 6:-6]
    data = {"log_odds": np.zeros(scores.KEYS, np.float32), "valid": (rolls, lengths)}
    params = jax.jit(task.init)(KEY, data)
    evaluate = jax.jit(lambda *split: task.evaluate(params, None, {**data, "test": split})["test"])
    apart = [
        evaluate(rolls[i : i + 1, :size], lengths[i : i + 1]) for i, size in enumerate(lengths)
    ]
    expected = np.average(apart, weights=lengths - 1)
    np.testing.assert_allclose(evaluate(rolls, lengths), expected, rtol=1e-5)


@needs("music21")
def test_floors_of_chorales_are_those_of_independent_keys():
    floors = chorales.load(None, chorales.Model("tanh")).floors
    np.testing.assert_allclose([floors["valid"], floors["test"]], [11.29, 11.45], atol=0.005)


# Rows


@pytest.mark.parametrize("pixels", [1, 28])
def test_pixels_are_read_in_the_order_of_the_rows(pixels):
    images = np.arange(3 * 784).reshape(3, 784)
    sequence = np.asarray(rows.steps(images, pixels))
    assert sequence.shape == (784 // pixels, 3, pixels)
    np.testing.assert_array_equal(sequence.swapaxes(0, 1).reshape(3, 784), images)


def test_logits_that_are_not_finite_are_no_answer():
    task = rows.build(rows.Model("tanh", width=4))
    split = (np.ones((100, 784), np.float32), np.zeros(100, np.int32))
    data = {"train": split, "valid": split, "test": split}
    params = jax.jit(task.init)(KEY, data)
    evaluate = jax.jit(lambda params: task.evaluate(params, None, data))
    assert float(evaluate(params)["test"]) in (0.0, 1.0)
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), params)
    assert np.isnan(evaluate(broken)["valid"])


# Weather


def test_windows_are_all_stretches_and_end_with_what_is_predicted():
    found = weather.windows(np.arange(10.0)[:, None], 3)[..., 0]
    np.testing.assert_array_equal(found, np.arange(7) + np.arange(4)[:, None])


@needs("vega_datasets")
def test_each_year_is_predicted_once_and_only_the_first_two_are_trained_on():
    series = weather.standardised(days.load())
    arrays = weather.load(None, weather.Model("lstm")).arrays
    parts = (arrays["train"], arrays["valid"][-1], arrays["test"][-1])
    assert [len(part) for part in parts] == [366 + 365, 365, 365]
    np.testing.assert_array_equal(np.concatenate(parts), series)
    np.testing.assert_array_equal(arrays["valid"][:-1, 0], arrays["train"][-30:])
    np.testing.assert_allclose(parts[0].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(parts[0].std(0), 1, rtol=1e-5)


def test_a_weather_batch_is_of_days_that_follow_each_other():
    model = weather.Model("lstm", days=5, batch=400)
    series = np.arange(40, dtype=np.float32)[:, None]
    found = np.asarray(weather.build(model).batch(KEY, {"train": series}))[..., 0]
    assert (np.diff(found, axis=0) == 1).all()
    assert set(found[0]) == set(range(35))


# Characters


def test_stretches_share_no_symbol_and_lose_at_most_nine():
    parts = characters.split(np.arange(10_009))
    assert [part.size for part in parts] == [9000, 500, 500]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts, axis=1).ravel()), range(10_000))


def test_held_out_windows_are_pieces_of_the_text_and_do_not_overlap():
    _, valid, _ = characters.split(np.arange(400_000))
    found = characters.windows(valid, 32)
    assert found.shape == (33, 256)
    assert (np.diff(found, axis=0) == 1).all()
    assert len(np.unique(found)) == found.size and np.isin(found, valid).all()


def _drawn(*kinds, count=4000):
    stretches = np.random.default_rng(0).integers(0, 26, (10, 500)).astype(np.uint8)

    def draw(seed, stretches):
        return [characters.draw(jax.random.key(seed), model, stretches) for model in kinds]

    found = jax.jit(jax.vmap(draw, (0, None)))(np.arange(count), stretches)
    return jax.tree.map(np.asarray, found)


@pytest.mark.exhaustive
def test_the_stated_share_of_batches_is_bad_and_nothing_else_differs():
    size = {"length": 8, "batch": 2}
    share = 0.02
    (read, following), (read_too, replaced) = _drawn(
        characters.Model("lstm", **size), characters.Model("lstm", **size, bad=share)
    )
    np.testing.assert_array_equal(read[:, 1:], following[:, :-1])
    np.testing.assert_array_equal(read, read_too)
    bad = (following != replaced).any((1, 2))
    assert abs(bad.mean() - share) < 3 * np.sqrt(share * (1 - share) / len(bad))
    noise = replaced[bad]
    assert (noise != following[bad]).mean() > 0.9
    assert noise.min() < 8 and noise.max() >= characters.SYMBOLS - 8


def test_a_text_of_the_users_own_is_read_instead_of_the_tunes(tmp_path):
    text = "".join(np.random.default_rng(0).choice(list(LETTERS), folk_tunes.SHORTEST))
    path = tmp_path / "own.txt"
    path.write_text(text)
    material = characters.load(None, characters.Model("lstm", text=str(path)))
    assert material.arrays["train"].shape == (10, 900)
    assert material.arrays["valid"].shape == material.arrays["test"].shape == (33, 10)
    np.testing.assert_allclose(list(material.floors.values()), np.log(len(LETTERS)), atol=0.05)
    assert material.trivial == material.floors["test"]
