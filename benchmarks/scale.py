"""How the costs of a clipper grow with the parameters, the devices and the leaves.

    pip install -e ".[test]" "jax[tpu]"
    python -m benchmarks.scale state|devices|leaves [CLIPPER ...]

The models are shapes only: blocks of a transformer, six leaves each, or the same stacked along
their first axis, as `scan` keeps them, where clippers that take `stacked=` are told so.

* *state*: the bytes of a clipper's state, for models of 1e6 to 1e12 parameters.
* *devices*: one step of `chain(clipper, adam)` under FSDP, compiled for TPUs of 8 to 4,096 chips,
  none of which needs to be there; the larger the TPU, the larger the model. Read from the program
  of one chip, as `benchmarks.tpu_aot` does: bytes moved over those with optax's plain clip, number
  of all-reduces (those of the fallback after a plus), the bytes that the usual ones reduce, other
  collectives, and seconds to trace and compile over those with optax's clip.
* *leaves*: the same on 8 chips, for models of 12 to 1,002 leaves and one of six stacks of 500.
"""

import argparse
import functools
import inspect
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from benchmarks import tpu_aot
from benchmarks.programs import COLLECTIVES, spread
from benchmarks.tpu_aot import CLIPPERS, Counts, add_names
from benchmarks.trees import described


class Model(NamedTuple):
    """Blocks of a transformer.

    Attributes:
        blocks: how many.
        width: of the residual stream; a block has about 12 width^2 parameters.
        stacked: whether the blocks share six leaves.
    """

    blocks: int
    width: int
    stacked: bool = False

    @property
    def params(self) -> Any:
        d = self.width
        block = {
            "attention": {"qkv": (d, 3 * d), "out": (d, d)},
            "mlp": {"up": (d, 4 * d), "down": (4 * d, d)},
            "norm": {"scale": (d,), "bias": (d,)},
        }
        if self.stacked:
            return {"blocks": described(block, before=(self.blocks,))}
        return {f"block{i}": described(block) for i in range(self.blocks)}

    def on(self, mesh: Mesh) -> Any:
        return spread(self.params, mesh, axis=int(self.stacked))

    def __str__(self) -> str:
        leaves = jax.tree.leaves(self.params)
        entries = sum(float(np.prod(x.shape)) for x in leaves)
        return f"{entries:.0e}, {len(leaves)} leaves".replace("e+0", "e").replace("e+", "e")


MODELS = (Model(5, 128), Model(20, 2048), Model(138, 24576))
ON_DEVICES = (
    ("v5e:2x4", Model(5, 128)),
    ("v5e:8x8", Model(20, 2048)),
    ("v5e:16x16", Model(50, 4096)),
    ("v5p:16x16x16", Model(138, 24576)),
    ("v5p:16x16x16", Model(138, 24576, stacked=True)),
)
OF_LEAVES = tuple(
    ("v5e:2x4", model)
    for model in (Model(2, 256), Model(17, 256), Model(167, 256), Model(500, 256, stacked=True))
)

USUAL = ("global_norm", "adaptive", "per_layer", "adagc", "agc", "value")
OPTAX = functools.partial(optax.clip_by_global_norm, 1.0)


def state_bytes(clipper: optax.GradientTransformation, model: Model) -> int:
    leaves = jax.tree.leaves(jax.eval_shape(clipper.init, model.params))
    return sum(int(np.prod(x.shape, dtype=np.int64)) * x.dtype.itemsize for x in leaves)


def of_state(names: Iterable[str]) -> Table:
    table = Table("clipper", *map(str, MODELS), title="bytes of state")
    for name in names:
        clipper = CLIPPERS[name]()
        table.add_row(name, *(f"{state_bytes(clipper, model):,}" for model in MODELS))
    return table


def of_programs(names: Iterable[str], where: Iterable[tuple[str, Model]]) -> Iterator[Table]:
    for topology, model in where:
        mesh = tpu_aot.mesh_of(topology)
        params = model.on(mesh)
        tpu_aot.measured(OPTAX(), Model(1, mesh.size).on(mesh))  # starts the compiler
        theirs = tpu_aot.measured(OPTAX(), params)
        kind = "stacked, " if model.stacked else ""
        title = f"{model}, {kind}{topology}, {mesh.size} chips; optax: {theirs.seconds:.0f} s"
        columns = ("clipper", "bytes moved", "all-reduces", "bytes reduced", "other", "seconds")
        table = Table(*columns, title=title)
        for name in names:
            told = model.stacked and "stacked" in inspect.signature(CLIPPERS[name]).parameters
            clipper = CLIPPERS[name](stacked={"blocks": True}) if told else CLIPPERS[name]()
            shown = f"{name}, stacked" if told else name
            table.add_row(shown, *cells(tpu_aot.measured(clipper, params), theirs))
        yield table


def cells(ours: Counts, theirs: Counts) -> Iterator[str]:
    yield f"{ours.usual['bytes'] / theirs.usual['bytes']:.3f}"
    yield tpu_aot.numbers(ours, COLLECTIVES[:1])
    yield f"{ours.usual['collective bytes']:,}"
    yield tpu_aot.numbers(ours, COLLECTIVES[1:])
    yield f"{ours.seconds / theirs.seconds:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("state", "devices", "leaves"))
    add_names(parser, "clippers", CLIPPERS)
    arguments = parser.parse_args()
    console = Console(width=110)
    if arguments.what == "state":
        console.print(of_state(arguments.clippers or CLIPPERS))
        return
    where = ON_DEVICES if arguments.what == "devices" else OF_LEAVES
    for table in of_programs(arguments.clippers or USUAL, where):
        console.print(table)


if __name__ == "__main__":
    main()
