"""The thresholds that were best on the tasks of the leaderboard."""

import json
import pathlib
from statistics import median

import pyarrow.parquet as pq
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from experiments import board, task
from experiments.pages.tables import share
from experiments.results import Run, Runs

_RUNS = pathlib.Path(__file__).parents[1] / "leaderboard/runs.parquet"
_HEAD = ("task", "usual norm", "best of four multiples", "threshold", "learning rate", "clipped")


class Table(SphinxDirective):
    """`{threshold-table}`: one line a task."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        text = ["| " + " | ".join(_HEAD) + " |", "|---" + "|--:" * (len(_HEAD) - 1) + "|"]
        text += ["| " + " | ".join(row) + " |" for row in rows()]
        self.env.note_dependency(str(_RUNS))
        return self.parse_text_to_nodes("\n".join(text))


def rows() -> list[tuple[str, ...]]:
    """Tasks with the chosen arguments of `global_norm`."""
    wanted = {"part": board.LEADERBOARD, "method": "global_norm", "stage": "chosen"}
    runs = Runs(pq.read_table(_RUNS)).where(**wanted)
    return [_row(place, list(runs.at(place))) for place in runs.places]


def _row(place: str, runs: list[Run]) -> tuple[str, ...]:
    name, _, variant = place.partition("/")
    threshold = json.loads(runs[0]["arguments"])["max_norm"]
    return (
        place,
        f"{task.find(name).variants[variant].scale:.3g}",
        f"{runs[0]['value']:g}",
        f"{threshold:.2g}",
        f"{runs[0]['learning_rate']:g}",
        share(median(run["clip_share"] for run in runs)),
    )
