"""What every file under `experiments/tasks/` promises: its text, its variants and its functions."""

import json
import math
import pickle
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import sampled

from experiments import clippers, config, runner, task, train

SECTIONS = ("Claim", "Protocol", "Seeds", "Runtime", "Command")
every_task = pytest.mark.parametrize("name", task.NAMES)


@pytest.fixture(scope="module")
def load():
    return cache(lambda name, model: task.find(name).load(None, model))


def offered(name):
    found = task.find(name)
    return [*found.variants.items(), *found.long.items()]


def twins(name):
    return list(task.find(name).smoke.items())


def is_number(shape):
    return shape.shape == () and shape.dtype == jnp.float32


def test_tasks_are_found_by_their_files():
    assert {"chorales", "clipped_gd", "mnist", "regression"} <= set(task.NAMES)


@every_task
def test_docstring_has_a_title_and_all_sections(name):
    text = task.module(name).__doc__
    title, empty, *lines = text.splitlines()
    assert title.endswith(("?", ".")) and not empty
    # The source of a claim may stand before its colon.
    begun = [line.split(" (")[0].split(":")[0] for line in lines if ":" in line or " (" in line]
    assert [word for word in begun if word in SECTIONS] == list(SECTIONS)
    assert f"Command: `python -m experiments run {name}" in text


@every_task
def test_experiment_says_what_it_measures(name):
    found = task.find(name)
    texts = (found.title, found.score, found.unit, found.failure)
    assert all(texts) and not any(text.endswith(".") for text in texts)
    assert found.leaderboard in found.variants
    assert set(found.methods) <= set(clippers.NAMES)


@every_task
def test_smoke_twins_are_small_twins_of_variants(name):
    variants = dict(offered(name))
    assert twins(name)
    for key, twin in twins(name):
        same = variants[key]
        assert type(twin.model) is type(same.model)
        assert (twin.optimizer, twin.schedule) == (same.optimizer, same.schedule)
        assert twin.updates < same.updates and twin.parameters <= same.parameters


@every_task
def test_no_variant_is_both_long_and_not(name):
    found = task.find(name)
    assert not set(found.variants) & set(found.long)


@every_task
def test_variants_can_be_planned_and_trained(name):
    for _, variant in offered(name) + twins(name):
        rates = variant.learning_rates
        assert list(rates) == sorted(set(rates)) and rates[0] > 0
        assert variant.optimizer in runner.OPTIMIZERS
        assert variant.schedule in ("cosine", "constant")
        assert variant.updates > 0 and 0 < variant.scale < math.inf and variant.seconds > 0
        assert set(variant.methods) <= set(clippers.NAMES)


@every_task
def test_a_variant_travels_to_other_processes_and_into_records(name):
    for _, variant in offered(name) + twins(name):
        assert pickle.loads(pickle.dumps(variant)) == variant
        assert json.loads(config.to_json(variant))["updates"] == variant.updates


@every_task
def test_equal_models_give_one_task(name):
    found = task.find(name)
    for _, variant in offered(name):
        equal = pickle.loads(pickle.dumps(variant.model))
        assert found.build(equal) is found.build(variant.model)


@every_task
def test_parameters_are_as_many_as_the_variant_says(name, load):
    found = task.find(name)
    for _, variant in offered(name) + twins(name):
        arrays = load(name, variant.model).arrays
        params = jax.eval_shape(found.build(variant.model).init, jax.random.key(0), arrays)
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == variant.parameters


@every_task
def test_material_has_a_floor_for_each_score_and_a_trivial_one(name, load):
    for _, twin in twins(name):
        material = load(name, twin.model)
        assert set(material.floors) == {"valid", "test"}
        assert not any(math.isnan(floor) for floor in material.floors.values())
        assert math.isfinite(material.trivial)
        assert len(bytes.fromhex(material.digest)) == 32


@every_task
def test_parameters_gradients_and_scores_are_float32(name, load):
    for _, twin in twins(name):
        built, arrays = task.find(name).build(twin.model), load(name, twin.model).arrays
        key, curve = jax.random.key(0), jnp.zeros(twin.updates)
        record = train.Record(curve, curve, curve, curve > 0)
        params = jax.eval_shape(built.init, key, arrays)
        batch = jax.eval_shape(built.batch, key, arrays)
        scores = jax.eval_shape(built.evaluate, params, record, arrays)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
        assert is_number(jax.eval_shape(built.loss, params, batch))
        assert set(scores) == {"valid", "test"} and all(map(is_number, scores.values()))


@every_task
def test_a_batch_depends_on_the_key_alone(name, load):
    for _, twin in twins(name):
        built, arrays = task.find(name).build(twin.model), load(name, twin.model).arrays
        draw = jax.jit(lambda seed, arrays, built=built: built.batch(jax.random.key(seed), arrays))
        first, again, other = (jax.tree.leaves(draw(seed, arrays)) for seed in (0, 0, 1))
        assert all(map(np.array_equal, first, again))
        assert name == "clipped_gd" or not all(map(np.array_equal, first, other))


# The nets of the others are run by the tests of sequences and of Pascanu's tasks.
COMPILED = ("clipped_gd", "weather")


@sampled("name", {name: name for name in task.NAMES}, COMPILED)
def test_a_batch_and_its_loss_are_finite_and_depend_on_the_key_alone(name, load):
    for _, twin in twins(name):
        built, arrays = task.find(name).build(twin.model), load(name, twin.model).arrays

        @jax.jit
        def loss(seed, arrays, built=built):
            key = jax.random.key(seed)
            params = built.init(key, arrays)
            return built.loss(params, built.batch(key, arrays))

        first, again, other = (loss(seed, arrays) for seed in (0, 0, 1))
        assert jnp.isfinite(first)
        assert first == again != other
