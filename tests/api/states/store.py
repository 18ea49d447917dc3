"""Stores a checkpoint of this release: `python tests/states/store.py`.

For each clipper: its state in the middle of training, parameters and the next gradient, the update
and the state that came of it. `test_stored_states.py` restores the checkpoints of all releases.
"""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import clipax

FOLDER = pathlib.Path(__file__).parent
STEPS = 40
# What a user would write, so that later releases build the same; every clipper and wrapper.
CALLS = (
    "clipax.global_norm(1.0)",
    "clipax.global_norm(optax.linear_schedule(2.0, 1.0, 100))",
    "clipax.per_layer(1.0)",
    "clipax.per_leaf(1.0)",
    "clipax.per_group(1.0, {'dense': {'kernel': 'a', 'bias': 'b'}, 'scale': 'b'})",
    "clipax.value(0.5)",
    "clipax.block_rms()",
    "clipax.decaying(2.0, every=3)",
    "clipax.decaying(2.0, clip_rate=0.5)",
    "clipax.adaptive(warmup=10)",
    "clipax.adaptive(window=20, measure=clipax.measures.per_layer())",
    "clipax.moving_average()",
    "clipax.autoclip()",
    "clipax.autoclip(window=25)",
    "clipax.median(window=16)",
    "clipax.history_sigma(window=32, warmup=16)",
    "clipax.zclip()",
    "clipax.zclip(restart=None)",
    "clipax.quantile()",
    "clipax.adagc(warmup=10)",
    "clipax.adagc(warmup=10, restart=None)",
    "clipax.olmo()",
    "clipax.agc()",
    "clipax.clippy()",
    "clipax.spam(warmup=5)",
    "clipax.stable_spam()",
    "clipax.spectral(1.0)",
    "clipax.normalize()",
    "clipax.auto_s()",
    "clipax.smooth()",
    "clipax.delta_clip()",
    "clipax.monitor()",
    "clipax.skip_spikes(optax.adam(1e-3), warmup=10)",
    "clipax.momentum_reset(optax.adam(1e-3))",
    "clipax.error_feedback(clipax.global_norm(1.0))",
    "optax.chain(clipax.zclip(name='clip'), optax.adam(1e-3))",
)


def build(call: str) -> optax.GradientTransformationExtraArgs:
    return eval(call, {"clipax": clipax, "optax": optax})


def gradient(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    size = np.exp(0.5 * rng.standard_t(3))
    shapes = {"dense": {"kernel": (4, 3), "bias": (3,)}, "scale": ()}
    return jax.tree.map(
        lambda shape: jnp.asarray(size * rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def trained(call: str) -> dict[str, Any]:
    """The state after some steps, what goes into one more, and what comes of it."""
    optimizer, params = build(call), gradient(1000)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(STEPS):
        _, state = update(gradient(step), state, params)
    given = {"params": params, "gradient": gradient(STEPS), "state": state}
    updates, after = update(given["gradient"], state, params)
    return given | {"updates": updates, "after": after}


def named(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def main() -> None:
    file = FOLDER / f"{clipax.__version__}.npz"
    if file.exists():
        raise SystemExit(f"{file} is there; remove it only if that version is not released yet")
    arrays = {}
    for i, call in enumerate(CALLS):
        for part, tree in trained(call).items():
            arrays |= {f"{i}/{part}/{path}": array for path, array in named(tree).items()}
    arrays["calls"] = np.array(json.dumps(CALLS))
    np.savez_compressed(file, **arrays)
    print(f"{len(CALLS)} states in {file}, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
