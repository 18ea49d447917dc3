"""One process of a job that trains a recurrent net for each clipper, spread over all devices.

Of every run each process writes what it has itself to a file: for each step the losses, the metrics
and the states of the thresholds, and in the end the parameters and the state of the optimizer.
In float64: sums over devices have no fixed order, and what they are rounded by stays far below what
is compared.
"""

import argparse
import math
import os
import pathlib
import pickle
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import clipax
from clipax import measures

STEPS, BATCH, LENGTH, INPUTS, HIDDEN, OUTPUTS = 10, 16, 6, 8, 16, 3
# No mesh divides these windows: of an array that is the same everywhere and that one divides, each
# process would save a part, which orbax 0.12 cannot with jax 0.7.
CLIPPERS = {
    "adaptive": clipax.adaptive(
        50.0, multiplier=1.0, window=7, warmup=3, initial=0.5, nonfinite="zero"
    ),
    "per_layer": clipax.moving_average(
        1.5, window=5, warmup=2, initial=0.5, measure=measures.per_layer(), nonfinite="zero"
    ),
    "largest": clipax.adaptive(
        50.0, multiplier=1.0, window=7, warmup=3, initial=0.05, ord=math.inf, nonfinite="zero"
    ),
}
OPTIMIZERS = {name: optax.chain(clipper, optax.adam(1e-2)) for name, clipper in CLIPPERS.items()}


def main():
    options = arguments()
    jax.config.update("jax_enable_x64", True)
    if options.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    for size in options.meshes or [jax.device_count()]:
        mesh = Mesh(np.array(jax.devices()[:size]), ("i",))
        step = step_on(mesh)
        for run in options.runs:
            result = train(run, step, mesh, options)
            file = options.out / f"{run}-{size}-{options.process}.pickle"
            file.write_bytes(pickle.dumps(result))


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--coordinator", help="host:port")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0, help="the number of this one")
    parser.add_argument("--meshes", type=int, nargs="+", help="their sizes; by default all devices")
    parser.add_argument("--runs", nargs="+", choices=["whole", "nan", "killed", "resumed"])
    parser.add_argument("--nan-at", type=int, help="step of `nan` with one NaN in a gradient")
    parser.add_argument("--kill-at", type=int, help="step of `killed` without the last process")
    parser.add_argument("--checkpoints", type=pathlib.Path, help="folder of `killed` and `resumed`")
    parser.add_argument("--every", type=int, default=3, help="steps between checkpoints")
    return parser.parse_args()


def train(run, step, mesh, options):
    nets, first, manager = jax.jit(initial, out_shardings=layout_of(mesh))(), 0, None
    if run in ("killed", "resumed"):
        manager = checkpoint_manager(options)
        if run == "resumed":
            first, nets = manager.latest_step(), restored(manager, mesh)
    seen = {}
    for i in range(first, STEPS):
        if run == "killed" and i == options.kill_at and options.process == options.processes - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        noise = noise_on(mesh, nan=run == "nan" and i == options.nan_at)
        nets, report = step(nets, batch_at(i, mesh), noise)
        seen[i] = {**own_copy(report), "holds_nan": holds_nan(noise)}
        if manager:
            save(manager, i + 1, nets)
    if manager:
        manager.close()
    gathered = jax.jit(unchanged, out_shardings=everywhere(mesh))(nets)
    return {"seen": seen, "nets": own_copy(gathered)}


def initial():
    return {name: (parameters(), o.init(parameters())) for name, o in OPTIMIZERS.items()}


def parameters():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]))

    cell = {"input": normal(INPUTS, HIDDEN), "recurrent": normal(HIDDEN, HIDDEN)}
    head = {"kernel": normal(HIDDEN, OUTPUTS), "bias": jnp.zeros(OUTPUTS)}
    return {"cell": {**cell, "bias": jnp.zeros(HIDDEN)}, "head": head}


def loss_of(params, x, y):
    cell, head = params["cell"], params["head"]

    def advance(hidden, x):
        hidden = jnp.tanh(x @ cell["input"] + hidden @ cell["recurrent"] + cell["bias"])
        return hidden, hidden @ head["kernel"] + head["bias"]

    _, outputs = jax.lax.scan(advance, jnp.zeros((x.shape[1], HIDDEN)), x)
    return jnp.mean((outputs - y) ** 2)


def step_on(mesh):
    layout = layout_of(mesh)

    def step(nets, batch, noise):
        after, seen = {}, {}
        for name, optimizer in OPTIMIZERS.items():
            params, state = nets[name]
            # Gathered once, and not at every step of the scan.
            whole = jax.lax.with_sharding_constraint(params, everywhere(mesh))
            loss, gradient = jax.value_and_grad(loss_of)(whole, *batch)
            gradient = jax.lax.with_sharding_constraint(gradient, layout[name][0])
            gradient["cell"]["recurrent"] += noise
            updates, state = optimizer.update(gradient, state, params)
            after[name] = optax.apply_updates(params, updates), state
            metrics = clipax.metrics(state)
            seen[name] = {"loss": loss, "metrics": metrics, "policy": state[0].policy}
        return after, seen

    return jax.jit(step, out_shardings=(layout, everywhere(mesh)))


def layout_of(mesh):
    """Parameters and what is shaped like them are spread, the state of a clipper is not."""

    def of_optimizer(name, state):
        return optax.tree_utils.tree_map_params(
            OPTIMIZERS[name],
            lambda x: spread(x, mesh),
            state,
            transform_non_params=lambda _: everywhere(mesh),
        )

    return {
        name: (jax.tree.map(lambda x: spread(x, mesh), params), of_optimizer(name, state))
        for name, (params, state) in jax.eval_shape(initial).items()
    }


def spread(x, mesh):
    """Along the largest axis that divides among the devices."""
    divisible = [n if n % mesh.size == 0 else 0 for n in x.shape]
    spec = [None] * x.ndim
    if any(divisible):
        spec[np.argmax(divisible)] = "i"
    return NamedSharding(mesh, P(*spec))


def everywhere(mesh):
    return NamedSharding(mesh, P())


def batch_at(i, mesh):
    rng = np.random.default_rng(i)
    x = rng.normal(size=(LENGTH, BATCH, INPUTS))
    y = np.cumsum(x[..., :OUTPUTS], axis=0) * (5.0 if i % 4 == 3 else 1.0)
    sharding = NamedSharding(mesh, P(None, "i"))
    return placed(x, sharding), placed(y, sharding)


def noise_on(mesh, nan):
    """What is added to the gradient of a matrix: zeros, or one NaN that lies on the last device."""
    noise = np.zeros((HIDDEN, HIDDEN))
    if nan:
        noise[-1, -1] = np.nan
    return placed(noise, spread(noise, mesh))


def holds_nan(x):
    """Whether this process does."""
    return any(np.isnan(part.data).any() for part in x.addressable_shards)


def placed(x, sharding):
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def own_copy(tree):
    """What this process has of arrays that every device has."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)


def unchanged(tree):
    return tree


def checkpoint_manager(options):
    kept = ocp.CheckpointManagerOptions(save_interval_steps=options.every)
    return ocp.CheckpointManager(options.checkpoints, options=kept)


def save(manager, step, nets):
    manager.save(step, args=ocp.args.StandardSave(nets))
    manager.wait_until_finished()


def restored(manager, mesh):
    target = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(initial),
        layout_of(mesh),
    )
    return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(target))


if __name__ == "__main__":
    main()
