"""Time of one step under FSDP with each method, over that with optax's plain clip.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.fsdp_step [METHOD ...]

As `benchmarks.step_time`, on 64 leaves of 1M float32 whose rows are spread over all devices.
"""

import argparse

import jax
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from rich.table import Table

from benchmarks.step_time import METHODS, Run, add_names, behind, ratios

LEAVES, SIZE = 64, (1024, 1024)
USUAL = ("global_norm", "adaptive", "zclip", "per_leaf", "value")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_names(parser, "methods", METHODS)
    names = parser.parse_args().methods
    mesh = jax.make_mesh((jax.device_count(),), ("devices",))
    table = Table("method", f"ratio, {mesh.size} devices", "quartiles")
    spread = {"leaves": LEAVES, "size": SIZE, "sharding": NamedSharding(mesh, P("devices"))}
    theirs = Run(behind(optax.clip_by_global_norm(1.0)), **spread)
    for name in names or USUAL:
        ours = Run(behind(METHODS[name]()), **spread)
        low, middle, high = ratios(ours.seconds, theirs.seconds)
        table.add_row(name, f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
