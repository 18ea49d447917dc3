"""Groups sent to a Dask cluster: laboratories reach one over Slurm, Kubernetes or SSH.

The store stays with the process that sends: a worker computes, and a group that a lost worker had
in hand is sent to another one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments import config, runner
from experiments.config import Group
from experiments.devices import use_cores
from experiments.errors import UserError
from experiments.progress import Progress
from experiments.provenance import cores
from experiments.store import Store

_LOCAL = "local:"


def run(
    plan: Sequence[Group], store: Store, folder: Path | None, progress: Progress, address: str
) -> Iterator[tuple[Group, pa.Table]]:
    """As `runner.run`, with the groups that the store lacks computed by workers, as they finish.

    Args:
        plan: the groups.
        store: where finished groups are kept.
        folder: folder of parsed data, on each worker.
        progress: is told of each finished group.
        address: that of a Dask scheduler, or `local:N` for N processes here.

    Raises:
        UserError: Dask is not installed, the address leads nowhere, or a group fails for good.
    """
    missing = []
    for group in plan:
        found = runner.reused(group, store, folder, progress)
        if found is None:
            missing.append(group)
        else:
            yield group, found
    if missing:
        with _client(address) as (client, devices):
            for group, table in _computed(client, missing, folder, devices):
                yield group, runner.keep(group, table, store, folder, progress)


def _computed(
    client: Any, plan: Sequence[Group], folder: Path | None, devices: int
) -> Iterator[tuple[Group, pa.Table]]:
    from distributed import as_completed

    futures = {}
    for group in plan:
        # Named by what it computes: a cluster never computes a group twice at a time.
        name = f"clipax-{config.fingerprint(config.to_json(group))}"
        futures[client.submit(_compute, group, folder, devices, key=name, retries=2)] = group
    for future in as_completed(futures):
        group = futures[future]
        try:
            yield group, future.result()
        except Exception as error:
            raise UserError(f"{group.name} failed on the cluster: {error}") from error
        future.release()


def _compute(group: Group, folder: Path | None, devices: int) -> pa.Table:
    use_cores(devices)
    return runner.compute(group, folder)


@contextmanager
def _client(address: str) -> Iterator[tuple[Any, int]]:
    """A client of the cluster, and how many devices a worker lays its runs over."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError('`--scheduler` needs Dask; run: pip install "clipax[cluster]"') from error
    if not address.startswith(_LOCAL):
        with _reached(Client, address) as client:
            yield client, 0
        return
    workers = _count(address)
    settings = {"threads_per_worker": 1, "dashboard_address": None, "protocol": "tcp"}
    with LocalCluster(n_workers=workers, **settings) as local, Client(local) as client:
        yield client, max(cores() // workers, 1)


def _reached(client: Any, address: str) -> Any:
    try:
        return client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise UserError(f"no Dask scheduler answers at {address}: {error}") from error


def _count(address: str) -> int:
    count = address.removeprefix(_LOCAL)
    if not count.isdigit() or int(count) < 1:
        raise UserError(f"`--scheduler` must be an address or local:N, N at least 1, not {address}")
    return int(count)
