"""The record format: the columns of a file of runs, whatever the task and the method."""

from typing import NamedTuple

import pyarrow as pa


class Column(NamedTuple):
    """A column: its type and what it holds."""

    type: pa.DataType
    about: str


def _text(about: str) -> Column:
    return Column(pa.string(), about)


def _number(about: str) -> Column:
    return Column(pa.float64(), about)


def _curve(about: str) -> Column:
    return Column(pa.list_(pa.float32()), about)


PART = {
    "part": _text("why the run was made: `study`, `leaderboard` or the name of a claim"),
    "study": _text("what was asked for in that part, as JSON"),
}
GROUP = {
    "task": _text("name of the task"),
    "variant": _text("how the task was posed"),
    "method": _text("name of the clipper"),
    "stage": _text(
        "`grid`: arguments and learning rates compared; `chosen`: further seeds at the best "
        "median validation score of the grid; `default`: the same with the default arguments"
    ),
    "arguments": _text("numbers the method was called with, as JSON"),
    "value": _number(
        "its main argument as tuned: a number, or a multiple of the task's usual gradient norm; "
        "NaN where it has none"
    ),
    "learning_rate": _number("peak of the schedule"),
    "seed": Column(pa.int64(), "fixes the initial parameters and all batches"),
    "valid": _number("validation score of the last parameters; lower is better"),
    "test": _number("test score of the last parameters; lower is better"),
    "train_loss": _number("mean loss of the last tenth of the updates"),
    "failed": Column(pa.bool_(), "a score that is not finite or above the task's floor"),
    "floor": _number("test score above which a run has failed"),
    "trivial": _number("test score of a model that has learnt nothing"),
    "clip_share": _number("share of the steps with a finite gradient that were clipped"),
    "spike_score": _number(
        "share of steps, from the 50th on, whose loss lies 10 standard deviations above the mean "
        "of up to 1,000 losses before it"
    ),
    "seconds": _number("wall-clock seconds a run, compilation included; differs from time to time"),
    "step_seconds": _number(
        "seconds an update of a run, without compilation; differs from time to time"
    ),
    "settings": _text("model, optimizer, schedule and updates, as JSON"),
    "versions": _text("packages, machine and source, as JSON"),
    "data_hash": _text("sha256 of the data"),
    "loss": _curve("training loss at each update"),
    "norm": _curve("L2 norm of the whole gradient at each update, before clipping"),
    "threshold": _curve("threshold at each update, as the clipper measures it"),
    "clipped": Column(pa.list_(pa.bool_()), "whether each update was clipped"),
}
COLUMNS = GROUP | PART


def schema(columns: dict[str, Column]) -> pa.Schema:
    """The types of columns, for a table."""
    return pa.schema([(name, column.type) for name, column in columns.items()])
