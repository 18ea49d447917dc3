"""The methods of `docs/methods/unnamed.md` are what it says."""

import functools
import math
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from methods_page import (
    BLOCKS,
    GIVEN,
    METHOD_ROWS,
    PARAMS,
    QUICK,
    TEXT,
    build,
    run,
    series,
)

import clipax

# Methods without a name.


def stack(function, gradients: Any) -> Any:
    """A function of one gradient and its step, for all of them, in float64 numpy."""
    steps = [jax.tree.map(lambda x, t=t: np.float64(x[t]), gradients) for t in range(30)]
    done = [function(gradient, t) for t, gradient in enumerate(steps)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *done)


def scaled_down(tree, tau, norm=None):
    n = math.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(tree))) if norm is None else norm
    return jax.tree.map(lambda x: x * min(1.0, tau / n) if n else x, tree)


def each(function):
    return lambda tree, step: jax.tree.map(lambda x: function(x, step), tree)


def rms(*arrays) -> float:
    return math.sqrt(np.mean(np.concatenate([np.ravel(x) for x in arrays]) ** 2))


def trust_region(y, step):
    x = y / 1.5
    return np.clip(1.5 * (0.1 * np.sign(x) * np.log1p(np.abs(x)) + 0.9 * np.tanh(x)), -2, 2)


def sclip(y, step):
    return GIVEN["phi"](step) * y / np.sqrt(y**2 + float(GIVEN["eps"](step)))


def weighted(tree, step):
    n = math.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: 0.5 * x / (n + 0.1 / (n + 0.1)), tree)


def unit(tree, step):
    n = math.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: x / n if n else x, tree)


DEFINITIONS = {
    "HeavyBall, trust region": each(trust_region),
    "HeavyBall, l2, per tensor": each(lambda x, step: scaled_down(x, 1.0)),
    "HeavyBall, rms, per tensor": each(lambda x, step: scaled_down(x, 1.0, rms(x))),
    "HeavyBall, l2, global": lambda tree, step: scaled_down(tree, 1.0),
    "HeavyBall, rms, global": lambda tree, step: scaled_down(
        tree, 1.0, rms(*jax.tree.leaves(tree))
    ),
    "HeavyBall, adaptive gradient clipping": lambda tree, step: jax.tree.map(
        lambda x, w: scaled_down(x, 0.01 * max(float(np.linalg.norm(w)), 1e-3)), tree, PARAMS
    ),
    "HeavyBall, softsign": each(lambda x, step: 2 * x / (1 + np.abs(x))),
    "SClip, [Yu et al. 2023][yu2023]": each(sclip),
    "AUTO-V, [Bu et al. 2023][bu2023]": unit,
    "DP-PSAC, [Xia et al. 2023][xia2023]": weighted,
    "Opacus, `ExponentialGradClip`": lambda tree, step: scaled_down(
        tree, 0.5 * 0.9 ** (step // 10)
    ),
    "Opacus, `StepGradClip`": lambda tree, step: scaled_down(tree, 0.5 * 0.9 ** (step // 10 // 3)),
    "Opacus, `LambdaGradClip`": lambda tree, step: scaled_down(tree, 0.5 / (1 + step // 10)),
    "OLMo, warm-up of the global threshold": lambda tree, step: scaled_down(tree, 10.0),
}


@functools.cache
def first_steps() -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[:30], series())


@functools.cache
def applied() -> dict[str, Any]:
    """What the expressions of all methods do, compiled together."""
    built = {method: build(expression) for method, expression in METHOD_ROWS.items()}
    done = jax.jit(
        lambda g: [run(clipper, g)[0] for clipper in built.values()], compiler_options=QUICK
    )(first_steps())
    return dict(zip(built, done, strict=True))


@pytest.mark.parametrize("method", DEFINITIONS)
def test_method_without_a_name_is_its_definition(method):
    expected = stack(DEFINITIONS[method], first_steps())
    chex.assert_trees_all_close(applied()[method], expected, rtol=2e-5, atol=1e-7)


def test_adafactor_clips_as_optax_does():
    (method,) = (m for m in METHOD_ROWS if "Adafactor" in m)
    theirs = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    expected = jax.jit(lambda g: run(theirs, g)[0], compiler_options=QUICK)(first_steps())
    chex.assert_trees_all_close(applied()[method], expected, rtol=1e-5)


def test_all_methods_without_a_name_leave_no_nan():
    for updates in applied().values():
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))


def test_update_clipping_behind_adam_is_stable_adamw_without_momentum():
    rng = np.random.default_rng(4)
    gradients = np.float32(rng.normal(size=(30, 4)) * np.exp(rng.standard_t(3, size=(30, 1))))

    def ours(b1):
        optimizer = optax.chain(optax.scale_by_adam(b1=b1), clipax.block_rms(1.0))
        step = jax.jit(optimizer.update)
        state, out = optimizer.init(jnp.zeros(4)), []
        for gradient in gradients:
            update, state = step(jnp.asarray(gradient), state)
            out.append(np.asarray(update))
        return np.stack(out)

    def theirs(b1, b2=0.999, eps=1e-8):
        m, v, out = np.zeros(4), np.zeros(4), []
        for t, g in enumerate(gradients.astype(np.float64), 1):
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            second = v / (1 - b2**t)
            share = math.sqrt(np.mean(g**2 / np.maximum(second, eps**2)))
            out.append(m / (1 - b1**t) / (np.sqrt(second) + eps) / max(1.0, share))
        return np.stack(out)

    np.testing.assert_allclose(ours(0.0), theirs(0.0), rtol=1e-4)
    assert np.abs(ours(0.9) - theirs(0.9)).max() > 0.1


def test_nearest_chain_to_acclip_is_another_method():
    (expression,) = re.findall(r"`(chain\(optax\.ema[^`]+)`", TEXT)
    gradients = np.float32(np.random.default_rng(5).standard_t(2, size=(20, 3)))
    chain = build(expression)
    state, momentum, tau = chain.init(jnp.zeros(3)), np.zeros(3), np.zeros(3)
    for gradient in gradients:
        update, state = chain.update(jnp.asarray(gradient), state)
        momentum = 0.9 * momentum + 0.1 * gradient
        tau = 0.99 * tau + 0.01 * np.abs(gradient)
    acclip = np.minimum(tau / np.abs(momentum), 1) * momentum
    assert np.isfinite(update).all() and not np.allclose(update, acclip, rtol=0.1)


def test_gradients_of_examples_are_weighted_one_by_one():
    (code,) = [code for code in BLOCKS if "per_example" in code]
    names: dict[str, Any] = {}
    exec(code, names)
    norms = np.array([5.0, 0.05])
    expected = norms / (norms + 0.1 / (norms + 0.1))
    np.testing.assert_allclose(np.linalg.norm(names["clipped"]["w"], axis=1), expected, rtol=1e-5)
