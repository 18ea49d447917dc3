"""Counts what a TPU would do in a step with each clipper, over a step with optax's plain clip.

    pip install -e ".[test]" "jax[tpu]"
    python -m benchmarks.tpu_aot [CLIPPER ...] [--topology v5e:4x4] [--leaves N] [--out FILE]

No TPU is needed: the compiler in libtpu is given the topology of one (v5e). Compiled is one step of
`chain(clipper, adam)` on 16 leaves of 4M float32 that are sharded over all devices, with donated
state and parameters, for `spectral`, which compiles slowly, on 2 of 16k; what is printed is its
costs on one device over those of `chain(optax.clip_by_global_norm, adam)` on the same leaves, all
read from the program that the compiler made:

* *bytes* to and from the main memory (HBM): the operands and results of every instruction that lie
  there. Arrays that the compiler holds in the vector memory of the chip count where they are copied
  from or to main memory; with few leaves, one more or less that it holds there between the norm and
  Adam is some percent. A fusion counts all of an array of which it may read a part.
* *XLA's count* of bytes, which knows no memory spaces, counts a copy between them on top of the use
  of the copy, and includes the fallback.
* *flops* as XLA counts them.
* *all-reduce* and *other* collectives, those of the fallback after a plus.

`benchmarks.scale` does the same for larger models and for more devices.

The norm is computed a second time, of rescaled entries, where its sum of squares left the range of
the dtype. That is one branch of a `conditional` that the program names after `_jitted_norms`. What
stands in that branch is counted apart, as the *fallback*; bytes, flops and collectives are those of
all else, so also of what the compiler has moved out of the branch. Of the branches of any other
`conditional` the one with the most bytes is counted, and the body of a loop once.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Collection, Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import track
from rich.table import Table

import clipax
from benchmarks.methods import METHODS
from benchmarks.programs import COLLECTIVES, compiled_step, costs, spread
from benchmarks.steps import behind
from benchmarks.trees import Leaves

MANY, FEW = Leaves(16, 2**22, columns=1024), Leaves(2, 2**14, columns=128)
TOPOLOGIES = ("v5e:2x2", "v5e:4x4")

CLIPPERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    **METHODS,
    # By itself it would choose the method for the CPU of this process.
    "spectral": functools.partial(clipax.spectral, 1.0, method="newton_schulz"),
}

# What libtpu else asks of the machine that a TPU is in, and waits for, and its lock on the TPU.
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_names(parser, "clippers", CLIPPERS)
    parser.add_argument("--topology", choices=TOPOLOGIES, default=TOPOLOGIES[0])
    parser.add_argument("--leaves", type=int, default=MANY.count)
    parser.add_argument("--out", type=pathlib.Path, help="where to write the counts, as JSON")
    arguments = parser.parse_args()
    mesh = mesh_of(arguments.topology)
    many = dataclasses.replace(MANY, count=arguments.leaves)
    plain = optax.clip_by_global_norm(1.0)
    measured(plain, spread(FEW.described(), mesh))  # starts the compiler
    theirs = {leaves: measured(plain, spread(leaves.described(), mesh)) for leaves in (many, FEW)}
    pairs = {"optax": (theirs[many], theirs[many])}
    for name in track(arguments.clippers or list(CLIPPERS), "compiling"):
        leaves = FEW if name == "spectral" else many
        pairs[name] = measured(CLIPPERS[name](), spread(leaves.described(), mesh)), theirs[leaves]
    Console(width=110).print(table(pairs, arguments.topology))
    if arguments.out:
        arguments.out.write_text(json.dumps(record(pairs, arguments.topology), indent=1) + "\n")


def add_names(parser: argparse.ArgumentParser, what: str, known: Collection[str]) -> None:
    """Adds an argument for any number of these names; `choices` refuses none before Python 3.12."""

    def checked(name: str) -> str:
        if name not in known:
            raise argparse.ArgumentTypeError(f"unknown {name!r}; known are {', '.join(known)}")
        return name

    parser.add_argument(what, nargs="*", type=checked, metavar=what.upper().removesuffix("S"))


def mesh_of(topology: str) -> Mesh:
    """The devices of a TPU, which need not be there, on one axis.

    It leaves this process on its CPU, for the few arrays that are made, and without the cache of
    compiled programs.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    return Mesh(np.array(described.devices), ("devices",))


class Counts(NamedTuple):
    """What one step costs on one device.

    Attributes:
        usual: bytes to and from main memory, flops but those of products of matrices,
            collectives by kind, and the bytes that a device puts into them, as read from the
            program, without the fallback.
        fallback: the same for the fallback alone.
        flops: as XLA counts them, less those of the fallback.
        xla_bytes: as XLA counts them, with the fallback.
        seconds: how long it was compiled.
    """

    usual: dict[str, int]
    fallback: dict[str, int]
    flops: float
    xla_bytes: float
    seconds: float


def measured(clipper: optax.GradientTransformation, params: Any) -> Counts:
    """The costs of a step with parameters that are described together with where they lie."""
    start = time.perf_counter()
    program = compiled_step(behind(clipper), params)
    seconds = time.perf_counter() - start
    analysis: Any = program.cost_analysis()
    usual, fallback = costs(program)
    flops = analysis["flops"] - fallback["flops"]
    return Counts(dict(usual), dict(fallback), flops, analysis["bytes accessed"], seconds)


# What is printed and written.


def record(pairs: dict[str, tuple[Counts, Counts]], topology: str) -> dict[str, Any]:
    versions = {name: version(name) for name in ("jax", "jaxlib", "libtpu", "optax")}
    counts = {
        name: {"ours": ours._asdict(), "optax": theirs._asdict()}
        for name, (ours, theirs) in pairs.items()
    }
    return {"versions": versions, "topology": topology, "counts": counts}


def table(pairs: dict[str, tuple[Counts, Counts]], topology: str) -> Table:
    made = Table(title=f"{topology}, over optax.clip_by_global_norm")
    made.add_column("clipper", no_wrap=True)
    for column in ("bytes", "flops", "fallback: bytes", "flops", "XLA's bytes"):
        made.add_column(column, justify="right")
    for column in ("all-reduce", "other", "seconds"):
        made.add_column(column, justify="right")
    for name, (ours, theirs) in pairs.items():
        made.add_row(name, *cells(ours, theirs))
    return made


def cells(ours: Counts, theirs: Counts) -> Iterator[str]:
    moved = theirs.usual["bytes"]
    yield f"{ours.usual['bytes'] / moved:.3f}"
    yield f"{ours.flops / theirs.flops:.3f}"
    yield f"{ours.fallback['bytes'] / moved:.3f}"
    yield f"{ours.fallback['flops'] / theirs.flops:.3f}"
    yield f"{ours.xla_bytes / theirs.xla_bytes:.3f}"
    yield numbers(ours, COLLECTIVES[:1])
    yield numbers(ours, COLLECTIVES[1:])
    yield f"{ours.seconds:.1f}"


def numbers(counts: Counts, kinds: tuple[str, ...]) -> str:
    """How many instructions of these kinds there are, those of the fallback after a plus."""
    usual, fallback = (sum(c[k] for k in kinds) for c in (counts.usual, counts.fallback))
    return f"{usual} + {fallback}" if fallback else f"{usual}"


if __name__ == "__main__":
    main()
