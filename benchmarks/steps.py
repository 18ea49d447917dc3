"""Suites `step`, `recurrent`, `example` and `devices`: whole optimizer steps."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

import clipax
from benchmarks.cases import OURS, Case
from benchmarks.methods import GROUPED, METHODS, ONE_NORM, contestants
from benchmarks.timing import Call, Loop, Measured
from benchmarks.trees import Leaves
from benchmarks.workers import of_devices, of_package
from experiments import provenance

TREE = Leaves(16, 2**17, columns=512)
SPREAD = Leaves(64, 2**20, columns=2**10)
UNDER_FSDP = ("global_norm", "adaptive", "zclip", "per_leaf", "value")
_SIZES = (1.0, 1.2) * 7 + (1.0, 30.0)  # of gradients in turn: the last stands out
_WARM = 144  # steps, more than any warm-up


def cases(*, quick: bool) -> Iterator[Case]:
    tree = Leaves(16, 2**10, columns=32) if quick else TREE
    for name in METHODS:
        yield _method(name, tree)
    yield from _wrapped(tree)
    yield _monitored(Leaves(30 if quick else 300, 2**13, columns=128))
    for runs, goal in ((10, 1 / 8), (1, None)):
        length = 10 if quick else 100
        yield _recurrent(runs, goal, width=50, batch=20, length=length, inputs=88)
    for microbatches in (1, 8, 32):
        yield _per_example(batch=256, microbatches=microbatches)
    for name in () if quick else UNDER_FSDP:
        yield fsdp(name, devices=8)


def behind(clipper: optax.GradientTransformation) -> optax.GradientTransformation:
    """Adam behind a clipper."""
    return optax.chain(clipper, optax.adam(1e-3))


def stepped(
    optimizer: optax.GradientTransformation,
    tree: Leaves,
    sharding: jax.sharding.Sharding | None = None,
    *,
    applied: bool = True,
    before: int = _WARM,
) -> Loop:
    """One step that overwrites parameters and state, behind all warm-ups.

    Args:
        optimizer: makes the step.
        tree: the parameters.
        sharding: where they lie.
        applied: whether the updates are added to the parameters.
        before: how many steps are made first.
    """
    gradient = jax.device_put(tree.normal(), sharding)
    sized = {size: jax.tree.map(lambda x, s=size: x * s, gradient) for size in set(_SIZES)}
    params = jax.tree.map(jnp.ones_like, gradient)

    def step(carry: Any, gradient: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates) if applied else updates), state

    compiled = jax.jit(step, donate_argnums=0, keep_unused=True)
    inputs = [sized[size] for size in _SIZES]
    return Loop(compiled, (params, optimizer.init(params)), inputs, before=before)


def _method(name: str, tree: Leaves) -> Case:
    goals: dict[str, float | None] = {
        "optax global": 1.05 if name in ONE_NORM else 1.15 if name in GROUPED else None
    }
    if "optax same" in contestants(name):
        goals["optax same"] = 1.05 if name == "value" else 1.15

    def make() -> Mapping[str, Measured]:
        clips = contestants(name).items()
        found = {who: stepped(behind(clip()), tree) for who, clip in clips}
        if clipax.metrics(found[OURS].carry[1]).get("clip_rate") == 0:
            raise RuntimeError(f"{name} clipped none of {_WARM} gradients")
        return found

    return Case("step", f"{name} and Adam, {tree}", goals, make)


def _wrapped(tree: Leaves) -> Iterator[Case]:
    inner = behind(clipax.global_norm(1.0))
    for applied, what in ((True, "a step"), (False, "the update alone")):

        def make(applied: bool = applied) -> Mapping[str, Measured]:
            return {
                OURS: stepped(clipax.skip_spikes(inner), tree, applied=applied),
                "without": stepped(inner, tree, applied=applied),
            }

        yield Case("step", f"skip_spikes around Adam, {tree}, {what}", {"without": None}, make)


def _monitored(tree: Leaves) -> Case:
    inner = behind(clipax.global_norm(1.0))

    def make() -> Mapping[str, Measured]:
        watched = optax.chain(clipax.monitor(), inner)
        return {OURS: stepped(watched, tree), "without": stepped(inner, tree)}

    return Case("step", f"monitor before Adam, {tree}", {"without": None}, make)


def _recurrent(runs: int, goal: float | None, **sizes: int) -> Case:
    def make() -> Mapping[str, Measured]:
        ours = of_devices(provenance.cores(), OURS)
        factory = "benchmarks.others:torch_recurrent"
        found = ours.make(OURS, "benchmarks.steps:recurrent", runs=runs, **sizes)
        return found | of_package("torch").make("torch", factory, **sizes)

    told = "{width} units, batch {batch}, length {length}".format(**sizes)
    many = f"one of {runs} runs at once" if runs > 1 else "one run by itself"
    return Case("recurrent", f"RNN and SGD, {told}, {many}", {"torch": goal}, make)


def recurrent(runs: int, width: int, batch: int, length: int, inputs: int) -> Measured:
    """A run's share of a step of so many at once: forward, backward, clipping, SGD.

    The runs are spread over the devices, as those of an experiment are.
    """
    optimizer = optax.chain(clipax.global_norm(1.0), optax.sgd(1e-3))
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.random.normal(keys[0], (length, batch, inputs))
    y = jax.random.randint(keys[1], (length, batch), 0, inputs)
    shapes = {"input": (inputs, width), "hidden": (width, width), "output": (width, inputs)}

    def init(key: jax.Array) -> Any:
        names = zip(shapes.items(), jax.random.split(key, len(shapes)), strict=True)
        params = {name: 0.1 * jax.random.normal(own, shape) for (name, shape), own in names}
        params |= {"bias": jnp.zeros(width), "last": jnp.zeros(inputs)}
        return params, optimizer.init(params)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        def cell(hidden: jax.Array, drive: jax.Array) -> tuple[jax.Array, jax.Array]:
            hidden = jnp.tanh(drive + hidden @ params["hidden"])
            return hidden, hidden

        first = jnp.zeros((batch, width))
        _, hidden = jax.lax.scan(cell, first, x @ params["input"] + params["bias"])
        logits = hidden @ params["output"] + params["last"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry: Any, batch: tuple[jax.Array, jax.Array]) -> Any:
        params, state = carry
        x, y = batch
        updates, state = optimizer.update(jax.grad(loss)(params, x, y), state)
        return optax.apply_updates(params, updates), state

    mesh = jax.make_mesh((math.gcd(runs, jax.device_count()),), ("runs",))
    spread = PartitionSpec("runs")
    over_runs = jax.shard_map(
        jax.vmap(step, in_axes=(0, None)),
        mesh=mesh,
        in_specs=(spread, PartitionSpec()),
        out_specs=spread,
        check_vma=False,
    )
    carry = jax.device_put(
        jax.vmap(init)(jax.random.split(keys[2], runs)), NamedSharding(mesh, spread)
    )
    together = Loop(jax.jit(over_runs, donate_argnums=0), carry, [(x, y)])
    return lambda: together() / runs


def _per_example(batch: int, microbatches: int) -> Case:
    def make() -> Mapping[str, Measured]:
        keys = jax.random.split(jax.random.key(0), 4)
        params = {
            "hidden": {"w": jax.random.normal(keys[0], (64, 256)), "b": jnp.zeros(256)},
            "out": {"w": jax.random.normal(keys[1], (256, 16)), "b": jnp.zeros(16)},
        }
        x, y = jax.random.normal(keys[2], (batch, 64)), jax.random.normal(keys[3], (batch, 16))
        size = None if microbatches == 1 else batch // microbatches
        ours = clipax.per_example(_loss, clipax.global_norm(1.0), microbatch=size)
        return {
            OURS: Call(jax.jit(ours), lambda: (params, x, y)),
            "optax": Call(jax.jit(_optax_per_example(size, batch)), lambda: (params, x, y)),
        }

    plural = "es" * (microbatches > 1)
    work = f"per_example, batch {batch}, {microbatches} microbatch{plural}"
    return Case("example", work, {"optax": None}, make)


def _loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return jnp.mean((hidden @ params["out"]["w"] + params["out"]["b"] - y) ** 2)


def _optax_per_example(microbatch: int | None, batch: int) -> Callable[..., Any]:
    def summed(params: Any, x: jax.Array, y: jax.Array) -> Any:
        losses, gradients = jax.vmap(jax.value_and_grad(_loss), (None, 0, 0))(params, x, y)
        total, _ = optax.per_example_global_norm_clip(gradients, 1.0)
        return jnp.sum(losses), total

    whole = optax.microbatch(summed, argnums=(1, 2), microbatch_size=microbatch)

    def mean(params: Any, x: jax.Array, y: jax.Array) -> Any:
        return jax.tree.map(lambda each: each / batch, whole(params, x, y))

    return mean


def fsdp(name: str, devices: int) -> Case:
    """A step whose leaves are spread over virtual devices, in a process that has them."""

    def make() -> Mapping[str, Measured]:
        found: dict[str, Measured] = {}
        for who in contestants(name):
            worker, factory = of_devices(devices, who), "benchmarks.steps:spread_step"
            found |= worker.make(who, factory, who=who, name=name)
        return found

    work = f"{name} and Adam, {SPREAD}, on {devices} devices"
    goals = dict.fromkeys(set(contestants(name)) - {OURS})
    return Case("devices", work, goals, make, rounds=20)


def spread_step(who: str, name: str) -> Measured:
    """A step under FSDP with a method of ours, or with what stands in its place."""
    mesh = jax.make_mesh((jax.device_count(),), ("devices",))
    sharding = NamedSharding(mesh, PartitionSpec("devices"))
    return stepped(behind(contestants(name)[who]()), SPREAD, sharding, before=len(_SIZES))
