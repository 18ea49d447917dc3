"""What becomes of metrics in the files of those who log them: TensorBoard, Weights & Biases."""

import json
import struct
import time

import jax
import jax.numpy as jnp
import optax
import peers
import pytest
import tensorboardX
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from updates import series, steps

import clipax

OPTIMIZER = optax.chain(clipax.adaptive(window=4, warmup=2, initial=1.0), optax.sgd(1e-3))
STEPS = 12


@pytest.fixture(scope="module")
def expected():
    """The metrics of each step, read on the host."""
    return [
        {key: float(value) for key, value in clipax.metrics(steps(OPTIMIZER, seen)[1]).items()}
        for seen in (series(STEPS)[: step + 1] for step in range(STEPS))
    ]


def logged(write, *, every):
    """Writes the metrics of every so many steps of a compiled loop, while it runs."""

    def step(state, given):
        i, gradient = given
        _, state = OPTIMIZER.update(gradient, state)
        metrics = clipax.metrics(state)
        jax.lax.cond(
            i % every == 0,
            lambda: jax.debug.callback(
                lambda i, found: write(int(i), {key: float(x) for key, x in found.items()}),
                i, metrics, ordered=True,
            ),
            lambda: None,
        )  # fmt: skip
        return state, None

    gradients = jax.tree.map(lambda *xs: jnp.stack(xs), *series(STEPS))
    loop = jax.jit(lambda state: jax.lax.scan(step, state, (jnp.arange(STEPS), gradients)))
    jax.block_until_ready(loop(OPTIMIZER.init(series(1)[0])))
    jax.effects_barrier()


def test_host_is_told_at_the_chosen_steps_only(expected):
    seen = {}
    logged(seen.__setitem__, every=5)
    assert list(seen) == [0, 5, 10]
    for step, found in seen.items():
        assert found == pytest.approx(expected[step], rel=1e-6)


def test_event_file_of_tensorboard_has_every_metric(expected, tmp_path):
    with tensorboardX.SummaryWriter(str(tmp_path)) as writer:

        def write(step, metrics):
            for key, value in metrics.items():
                writer.add_scalar(f"clipping/{key}", value, step)

        logged(write, every=3)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {f"clipping/{key}" for key in expected[0]}
    for key in expected[0]:
        found = {event.step: event.value for event in events.Scalars(f"clipping/{key}")}
        assert found == pytest.approx({i: expected[i][key] for i in range(0, STEPS, 3)}, rel=1e-6)


@pytest.mark.parity
def test_offline_run_of_weights_and_biases_has_every_metric(expected, tmp_path, monkeypatch):
    wandb = peers.package("wandb")
    records = peers.package("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=tmp_path) as run:

        def write(step, metrics):
            run.log({f"clipping/{key}": value for key, value in metrics.items()}, step=step)

        logged(write, every=3)
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")

    def written():
        return [records.Record.FromString(data) for data in _log_records(path.read_bytes())]

    deadline = time.monotonic() + 60  # another process writes; the run may end before the file does
    while not any(r.HasField("exit") for r in written()) and time.monotonic() < deadline:
        time.sleep(0.1)
    rows = {}
    for record in written():
        if items := record.history.item:
            row = {(x.key or x.nested_key[0]): json.loads(x.value_json) for x in items}
            rows[row["_step"]] = {f"clipping/{key}": row[f"clipping/{key}"] for key in expected[0]}
    assert list(rows) == list(range(0, STEPS, 3))
    for step, row in rows.items():
        assert list(row.values()) == pytest.approx(list(expected[step].values()), rel=1e-6)


def _log_records(content):
    """The records of a LevelDB log: blocks of 32 KiB, each record in parts of one block."""
    place, record, last = 7, b"", {1, 4}  # behind the header of the file; types of a last part
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # no room for the header of a part: padding
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in last:
            yield record
            record = b""
