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
import functools
import json
import os
import pathlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.progress import track
from rich.table import Table

import clipax
from benchmarks.step_time import METHODS, add_names, behind


class Leaves(NamedTuple):
    """The parameters: how many arrays, of which shape."""

    count: int
    shape: tuple[int, ...]

    def on(self, mesh: Mesh) -> Any:
        leaf = jax.ShapeDtypeStruct(self.shape, jnp.float32)
        return spread({f"layer{i}": {"w": leaf} for i in range(self.count)}, mesh)


def spread(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Arrays that are only described, each spread over all devices along one of its axes."""
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, "devices"))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


MANY, FEW = Leaves(16, (4096, 1024)), Leaves(2, (128, 128))
TOPOLOGIES = ("v5e:2x2", "v5e:4x4")
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")

CLIPPERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    **METHODS,
    "per_layer": functools.partial(clipax.per_layer, 1.0),
    "per_group": lambda: clipax.per_group(1.0, lambda path: path.split("/")[0]),
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_names(parser, "clippers", CLIPPERS)
    parser.add_argument("--topology", choices=TOPOLOGIES, default=TOPOLOGIES[0])
    parser.add_argument("--leaves", type=int, default=MANY.count)
    parser.add_argument("--out", type=pathlib.Path, help="where to write the counts, as JSON")
    arguments = parser.parse_args()
    mesh = mesh_of(arguments.topology)
    many = MANY._replace(count=arguments.leaves)
    plain = optax.clip_by_global_norm(1.0)
    measured(plain, FEW.on(mesh))  # starts the compiler
    theirs = {leaves: measured(plain, leaves.on(mesh)) for leaves in (many, FEW)}
    pairs = {"optax": (theirs[many], theirs[many])}
    for name in track(arguments.clippers or list(CLIPPERS), "compiling"):
        leaves = FEW if name == "spectral" else many
        pairs[name] = measured(CLIPPERS[name](), leaves.on(mesh)), theirs[leaves]
    Console(width=110).print(table(pairs, arguments.topology))
    if arguments.out:
        arguments.out.write_text(json.dumps(record(pairs, arguments.topology), indent=1) + "\n")


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
    usual, fallback = costs(program.as_text())
    flops = analysis["flops"] - fallback["flops"]
    return Counts(dict(usual), dict(fallback), flops, analysis["bytes accessed"], seconds)


def compiled_step(optimizer: optax.GradientTransformation, params: Any) -> jax.stages.Compiled:
    """The state lies where the parameters of the same shape do, and all else on every device."""
    shardings = {x.shape: x.sharding for x in jax.tree.leaves(params)}
    everywhere = NamedSharding(next(iter(shardings.values())).mesh, PartitionSpec())

    def placed(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = shardings.get(x.shape, everywhere)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    state = jax.tree.map(placed, jax.eval_shape(optimizer.init, params))

    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    stepped = jax.jit(step, donate_argnums=(0, 1), keep_unused=True)
    return stepped.lower(params, state, params).compile()


# Reading a compiled program.


class Instruction(NamedTuple):
    """One line of a program: `%name = shape operation(%operands), attributes`."""

    name: str
    shape: str
    operation: str
    operands: list[str]
    attributes: str

    def called(self, *attributes: str) -> list[str]:
        """The computations that stand after some attributes."""
        found = re.findall(rf"\b(?:{'|'.join(attributes)})=(\{{[^}}]*\}}|%\S+)", self.attributes)
        return [name for text in found for name in re.findall(r"%([\w.\-]+)", text)]


_HEAD = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)(.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\](\{[^}]*\})?")

_NO_ACCESS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"}
_ONE_EACH = {
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "negate", "abs", "sign"),
    *("compare", "select", "and", "or", "xor", "not", "is-finite", "clamp", "convert"),
    *("bitcast-convert", "shift-left", "shift-right-arithmetic", "shift-right-logical"),
}


def costs(text: str) -> tuple[Counter, Counter]:
    """The usual costs of a compiled program, and those of the fallback, by kind."""
    computations: dict[str, list[Instruction]] = {}
    entry, body = "", []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            body = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif found := _LINE.match(line):
            name, shape, operation, operands, attributes = found.groups()
            body.append(
                Instruction(
                    name, shape, operation, re.findall(r"%([\w.\-]+)", operands), attributes
                )
            )

    @functools.cache
    def of(name: str) -> tuple[Counter, Counter]:
        usual, fallback = Counter(), Counter()
        known = {each.name: each for each in computations[name]}
        for each in computations[name]:
            if each.operation == "conditional":
                branches = [of(branch) for branch in each.called("branch_computations")]
                if "_jitted_norms" in each.attributes:
                    common, rare = branches
                    fallback += rare[0] + rare[1]
                    branches = [common]
                once, rarely = max(branches, key=lambda pair: pair[0]["bytes"])
                usual, fallback = usual + once, fallback + rarely
                continue
            usual["bytes"] += accessed(each, known)
            usual["flops"] += flops(each, known)
            kind = each.operation.removesuffix("-start")
            usual[kind] += 1
            if kind in COLLECTIVES:
                usual["collective bytes"] += sum(size(known[name].shape) for name in each.operands)
            for inner in each.called("calls", "body", "condition"):
                once, rarely = of(inner)
                if each.operation == "fusion":  # its inner arrays lie nowhere
                    once = Counter(once)
                    once["bytes"] = 0
                usual, fallback = usual + once, fallback + rarely
        return usual, fallback

    kept = ("bytes", "flops", "collective bytes", *COLLECTIVES)
    usual, fallback = of(entry)
    return tuple(Counter({k: c[k] for k in kept}) for c in (usual, fallback))


def accessed(each: Instruction, known: dict[str, Instruction]) -> int:
    """The bytes in main memory that an instruction reads and writes, those of a copy at its end."""
    if each.operation in _NO_ACCESS or each.operation.endswith("-start"):
        return 0
    if "ConcatBitcast" in each.attributes or each.called("body"):
        return 0
    operands = each.operands
    if each.operation.endswith("-done"):
        operands = known[operands[0]].operands
    read = sum(in_main_memory(known[name].shape) for name in operands)
    if each.operation == "slice-done":
        read = min(read, size(each.shape))
    return read + in_main_memory(each.shape)


def flops(each: Instruction, known: dict[str, Instruction]) -> int:
    if each.operation in _ONE_EACH:
        return entries(each.shape)
    if each.operation == "reduce":
        return entries(known[each.operands[0]].shape) - entries(each.shape)
    return 0


def in_main_memory(shape: str) -> int:
    """The bytes of the arrays in a shape whose layout names no other memory."""
    return sum(size(x[0]) for x in _ARRAY.finditer(shape) if "S(" not in (x[3] or ""))


def size(shape: str) -> int:
    return sum(entries(x[0]) * width(x[1]) for x in _ARRAY.finditer(shape))


def entries(shape: str) -> int:
    return sum(int(np.prod([int(n) for n in x[2].split(",") if n])) for x in _ARRAY.finditer(shape))


def width(dtype: str) -> int:
    bits = re.search(r"\d+", dtype)
    return max(int(bits[0]) // 8, 1) if bits else 1


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
