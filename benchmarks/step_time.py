"""Time of one optimizer step with each method, over that with optax's plain clip.

    python -m benchmarks.step_time [METHOD ...]

One step of `chain(method, adam)` on 16 leaves of 128k float32, with donated state and parameters,
against `chain(optax.clip_by_global_norm, adam)`; of a wrapper of `chain(global_norm, adam)` against
that chain alone, also without the addition of the updates to the parameters, into which a compiler
can put the last part of an optimizer but not of one inside a `lax.cond`; of `monitor` before that
chain, on 300 leaves of 8k, against the chain. The two run in turns; what is printed is the median
of the ratios, and their quartiles.
"""

import argparse
import functools
import time
from collections.abc import Callable, Collection, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import clipax
from clipax import measures

LEAVES, SIZE = 16, (256, 512)
MANY, SMALLER = 300, (64, 128)
ROUNDS = 40

METHODS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "global_norm": functools.partial(clipax.global_norm, 1.0),
    "adaptive": clipax.adaptive,
    "autoclip": clipax.autoclip,
    "autoclip, window": functools.partial(clipax.autoclip, window=1000),
    "decaying": functools.partial(clipax.decaying, 10.0),
    "history_sigma": clipax.history_sigma,
    "median": clipax.median,
    "moving_average": clipax.moving_average,
    "quantile": clipax.quantile,
    "zclip": clipax.zclip,
    "normalize": clipax.normalize,
    "smooth": clipax.smooth,
    "delta_clip": clipax.delta_clip,
    "auto_s": clipax.auto_s,
    "per_leaf": functools.partial(clipax.per_leaf, 1.0),
    "moving_average, per leaf": lambda: clipax.moving_average(measure=measures.per_leaf()),
    "adagc": clipax.adagc,
    "olmo": clipax.olmo,
    "block_rms": clipax.block_rms,
    "agc": clipax.agc,
    "zclip, per unit": lambda: clipax.zclip(measure=measures.per_unit()),
    "value": functools.partial(clipax.value, 0.01),
    "clippy": clipax.clippy,
    "spam": clipax.spam,
    "stable_spam": clipax.stable_spam,
}

WRAPPERS: dict[str, Callable[[optax.GradientTransformation], optax.GradientTransformation]] = {
    "skip_spikes": clipax.skip_spikes,
}


def add_names(parser: argparse.ArgumentParser, what: str, known: Collection[str]) -> None:
    """Adds an argument for any number of these names; `choices` refuses none before Python 3.12."""

    def checked(name: str) -> str:
        if name not in known:
            raise argparse.ArgumentTypeError(f"unknown {name!r}; known are {', '.join(known)}")
        return name

    parser.add_argument(what, nargs="*", type=checked, metavar=what.upper().removesuffix("S"))


class Run:
    """An optimizer with its donated state, one step at a time."""

    def __init__(
        self,
        optimizer: optax.GradientTransformation,
        *,
        applied: bool = True,
        leaves: int = LEAVES,
        size: tuple[int, ...] = SIZE,
        sharding: jax.sharding.Sharding | None = None,
    ):
        rng = np.random.default_rng(0)
        self.gradient = {
            f"layer{i}": {"w": jax.device_put(rng.normal(size=size).astype(np.float32), sharding)}
            for i in range(leaves)
        }
        self.params = jax.tree.map(jnp.ones_like, self.gradient)
        self.state = optimizer.init(self.params)

        def step(params, state, gradient):
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates) if applied else updates, state

        self._step = jax.jit(step, donate_argnums=(0, 1), keep_unused=True)
        for _ in range(3):
            self.seconds()

    def seconds(self) -> float:
        start = time.perf_counter()
        self.params, self.state = self._step(self.params, self.state, self.gradient)
        jax.block_until_ready((self.params, self.state))
        return time.perf_counter() - start


def behind(clipper: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(clipper, optax.adam(1e-3))


def ratios(ours: Callable[[], float], theirs: Callable[[], float]) -> np.ndarray:
    """Quartiles of the seconds of one over those of the other in the same round."""
    found = []
    for i in range(ROUNDS):
        first, second = (ours, theirs) if i % 2 else (theirs, ours)
        times = {first: first(), second: second()}
        found.append(times[ours] / times[theirs])
    return np.quantile(found, [0.25, 0.5, 0.75])


def main() -> None:
    known = (*METHODS, *WRAPPERS, "monitor")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_names(parser, "methods", known)
    table = Table("method", "ratio", "quartiles")
    for name in parser.parse_args().methods or known:
        for label, ours, theirs in pairs(name):
            low, middle, high = ratios(ours.seconds, theirs.seconds)
            table.add_row(label, f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
    Console().print(table)


def pairs(name: str) -> Iterator[tuple[str, Run, Run]]:
    """What is timed, and against what."""
    if name in METHODS:
        optax_clip = optax.clip_by_global_norm(1.0)
        yield name, Run(behind(METHODS[name]())), Run(behind(optax_clip))
        return
    inner = behind(clipax.global_norm(1.0))
    if name == "monitor":
        watched = optax.chain(clipax.monitor(), inner)
        many = {"leaves": MANY, "size": SMALLER}
        yield f"monitor, {MANY} leaves", Run(watched, **many), Run(inner, **many)
        return
    for label, applied in ((name, True), (f"{name}, the update alone", False)):
        wrapped = WRAPPERS[name](inner)
        yield label, Run(wrapped, applied=applied), Run(inner, applied=applied)


if __name__ == "__main__":
    main()
