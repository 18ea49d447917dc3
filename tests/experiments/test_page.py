"""What the pages say, and the summary for the terminal, on runs made up so that it is known."""

import io
import itertools
import json
import math
import re

import altair as alt
import made_up_runs as made_up
import numpy as np
import pyarrow.parquet as pq
import pytest
import vl_convert
from pyarrow import csv
from rich.console import Console

from experiments import charts, clippers, digest, report, suggest
from experiments.columns import COLUMNS
from experiments.errors import UserError
from experiments.pages import (
    board,
    claims,
    content,
    methods,
    rates,
    tables,
    tasks,
    thresholds,
    traces,
)
from experiments.pages.content import Content
from experiments.results import Runs

PLACE = "chorales/tanh"
COMMAND = "python -m experiments leaderboard --out '<b>'"


def example():
    """A leaderboard, the runs of one claim, and some of those of another."""
    rows = made_up.example().to_pylist()
    for value, usable in ((math.nan, 1), (0.1, 2)):
        method = "none" if math.isnan(value) else "global_norm"
        scores = [9.0] * usable + [99.0] * (3 - usable)
        for place in (PLACE, "chorales/lstm"):
            rows += made_up.grid(place, method, scores, part="range", value=value)
    rows += made_up.grid("characters/transformer", "none", [9.0] * 3, part="zclip")
    return made_up.table(rows, command=COMMAND)


def study():
    """A small table without a leaderboard: one task, defaults only."""
    rows = made_up.grid(PLACE, "none", [[9, 9], [9, 13], [math.nan] * 2], part="study")
    rows += made_up.grid(PLACE, "zclip", [[9, 9], [8, 8], [math.inf, 13]], part="study", value=2.5)
    return made_up.table(rows, command="python -m experiments run chorales")


@pytest.fixture(scope="module", autouse=True)
def short_bundle():
    """Making the bundle takes seconds, and what these tests look at does not depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_bundle", lambda: "// the charts' scripts")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return report.write(example(), tmp_path_factory.mktemp("page")).parent


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return report.write(study(), tmp_path_factory.mktemp("small")).parent


# Files


def test_all_pages_are_files_and_one_file_holds_them_all(folder):
    names = {path.name for path in (folder / "site").iterdir()}
    single = ("index", "tasks", "methods", "claims", "reading", "record")
    pages = {f"{name}.html" for name in single}
    pages |= {f"task-{name}.html" for name in ("characters", "chorales", "mnist", "weather")}
    pages |= {f"method-{name}.html" for name in ("none", "global_norm", "value", "zclip")}
    assert names == pages | {"charts.js", "page.js", "style.css"}
    text = (folder / "report.html").read_text()
    assert len(re.findall("<article ", text)) == len(pages)
    for page in pages - {"index.html"}:
        assert f'<article id="{page[:-5]}"' in text


def test_a_page_that_is_no_longer_there_is_removed(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/method-gone.html").touch()
    report.write(study(), tmp_path)
    assert not (tmp_path / "site/method-gone.html").exists()


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(folder, small):
    for out in (folder, small):
        for path in [out / "report.html", *(out / "site").glob("*.html")]:
            text = path.read_text()
            loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]*)"', text)
            assert set(loaded) <= {"data:,", "style.css", "charts.js", "page.js"}
            assert "@import" not in text and "url(" not in text
            identifiers = re.findall(r'\bid="([^"]*)"', text)
            assert len(identifiers) == len(set(identifiers))
            for link in re.findall(r'<a [^>]*href="([^"]*)"', text):
                assert _leads(link, path, identifiers), (path.name, link)


def _leads(link, path, identifiers):
    if link.startswith("#"):
        return link[1:] in identifiers
    return link.startswith("https://") or link.startswith("http://www.fit.vutbr.cz") or (
        link.endswith("runs.parquet") or (path.parent / link).exists()
    )  # fmt: skip


def test_headings_are_in_order(folder):
    for path in (folder / "site").glob("*.html"):
        levels = [int(level) for level in re.findall(r"<h(\d)", path.read_text())]
        assert levels[0] == 1 and levels.count(1) == 1, path.name
        assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), path.name


def test_what_comes_from_outside_is_escaped(folder):
    for path in [folder / "report.html", folder / "site/index.html"]:
        text = path.read_text()
        assert "<b>'" not in text and "&lt;b&gt;" in text


# Contents


def test_leaderboard_says_who_is_better(folder):
    text = (folder / "site/index.html").read_text()
    assert "global_norm scores highest: 1.000 of 1" in text
    assert "Better than no clipping: global_norm. Worse than that: zclip." in text
    assert "Neither, as far as is seen: value." in text
    assert "4 methods on 3 tasks" in text


def test_many_methods_are_counted_not_named():
    names = [name for name in clippers.NAMES if name != "none"][:7]
    known = {"none": [11.0] * 5} | dict.fromkeys(names, [9.0] * 5)
    found = Content(made_up.table(made_up.leaderboard({PLACE: known})))
    assert "Better than no clipping: 7 methods." in board.lead(found, found.board)


def test_methods_with_the_same_scores_are_named():
    known = {"none": [11.0] * 5, "delta_clip": [9.0] * 5, "global_norm": [9.0] * 5}
    found = Content(made_up.table(made_up.leaderboard({PLACE: known})))
    said = board.lead(found, found.board)
    assert said.endswith("delta_clip and global_norm have the same scores, run for run.")
    assert said.count("run for run") == 1


def test_threshold_is_shown_where_the_method_clips():
    rows = made_up.grid("characters/lstm", "zclip", [9.0] * 3, part="study", clip_share=0.0)
    rows += made_up.grid(PLACE, "zclip", [9.0] * 3, part="study")
    assert methods.typical(methods.tried(Content(made_up.table(rows)), "zclip")) == PLACE
    assert methods.typical(methods.tried(Content(made_up.table(rows[:3])), "zclip")) == (
        "characters/lstm"
    )


def test_record_has_all_that_may_change_a_number(folder):
    text = (folder / "site/record.html").read_text()
    for wanted in ("a machine", "d" * 64, "jax 1", "1970-01-01", "runs.parquet", *COLUMNS):
        assert wanted in text, wanted


def test_task_has_its_squares(folder):
    text = (folder / "site/task-chorales.html").read_text()
    for wanted in (
        "independent keys",
        "not finite",
        "2 of 2 failed",
        "clipped 5.0 %",
        "nats a step",
    ):
        assert wanted in text, wanted
    assert "An exploding run" in text and "A calm run" in text


def test_method_has_its_call_its_source_and_its_tasks(folder):
    text = (folder / "site/method-zclip.html").read_text()
    for wanted in (
        "Clip norms that stand out by their z-score.", "arxiv.org/abs/2504.02507", "4 of 4",
        "mean rank 4.0 of 4", "clipax.zclip(", "Values tried", "Its threshold on chorales/tanh",
        "against no clipping: worse",
    ):  # fmt: skip
        assert wanted in text, wanted
    first = (folder / "site/method-global_norm.html").read_text()
    assert f"First on {PLACE}, weather/lstm, mnist/mlp." in first


def test_claims_are_answered(folder):
    text = (folder / "site/claims.html").read_text()
    assert "Clipping widens the range of learning rates" in text and "1211.5063" in text
    assert "Holds" in text and "1.0 decades gained" in text
    assert "ZClip trains over a wider range" in text and "Not decided" in text


def test_a_study_of_one_task_has_grid_results_only(small):
    names = {path.name for path in (small / "site").iterdir()}
    assert "claims.html" not in names and "tasks.html" not in names
    assert "<h1>Tasks</h1>" in (small / "site/index.html").read_text()
    text = (small / "site/method-zclip.html").read_text()
    assert "validation" in text and "rank" not in text and "Score against" not in text
    assert "Default arguments." in (small / "site/task-chorales.html").read_text()


def test_leaderboard_waits_for_a_task_that_is_finished():
    rows = [run for run in made_up.example().to_pylist() if run["stage"] == "grid"]
    found = Content(made_up.table(rows))
    assert found.board is None and found.standings == []


def test_a_task_and_a_method_that_are_gone_are_shown_all_the_same(tmp_path):
    rows = made_up.grid("lost/old", "forgotten", [9, 9, 9], part="study")
    text = report.write(made_up.table(rows), tmp_path).read_text()
    assert 'id="task-lost"' in text and 'id="method-forgotten"' in text


def test_every_figure_has_a_command_that_makes_it():
    found = Content(study())
    assert found.command([PLACE], ["zclip"]) == (
        "python -m experiments run chorales/tanh --methods zclip --seeds 2"
    )
    said = json.dumps({"seeds": 3, "tune": True, "values": [1.0, 2.0], "text": "my text"})
    rows = made_up.grid("chorales/a b", "none", [9, 9, 9], study=said)
    found = Content(made_up.table(rows, command="python -m experiments run chorales --smoke"))
    assert found.command(["chorales/a b"], ["none"]) == (
        "python -m experiments run 'chorales/a b' --methods none --smoke --tune "
        "--values 1.0 2.0 --text 'my text'"
    )


# Figures


def _figures(found):
    made = board.figures(found, found.board) if found.board else []
    for posed in tasks.variants(found, "chorales"):
        made += [posed.rates, *posed.traces]
    made += [each.figure for each in claims.shown(found) if each.figure]
    return made + thresholds.figures(found, "zclip")


@pytest.mark.parametrize("table", [example, study])
def test_figures_are_valid_and_described(table):
    for figure in _figures(Content(table())):
        kind = alt.FacetChart if "facet" in figure.spec else alt.LayerChart
        kind = alt.VConcatChart if "vconcat" in figure.spec else kind
        kind.from_dict(figure.spec, validate=True)
        vl_convert.vegalite_to_vega(figure.spec)
        assert figure.described and figure.caption and figure.command.startswith("python -m")


def test_numbers_that_are_not_there_are_left_out_of_a_figure():
    data = charts.rows({"step": range(3), "norm": [1.0, math.nan, 12345.678]}).to_dict()
    assert data["values"] == "step,norm\n0,1\n1,\n2,1.235e+04\n"
    assert data["format"]["parse"] == {"step": "number", "norm": "number"}


def test_curves_show_an_exploding_and_a_calm_run_of_the_same_start():
    chosen = traces.choose(Content(example()).places[PLACE].where(stage="grid"))
    assert chosen["exploding"]["method"] == "none" and not chosen["calm"]["failed"]
    assert len({(run["seed"], run["learning_rate"]) for run in chosen.values()}) == 1


def test_curves_that_are_long_keep_their_spikes():
    norm = np.ones(5000)
    norm[1234] = 50
    curves = {"loss": norm, "norm": norm, "threshold": norm, "clipped": norm > 2}
    rows = [made_up.row(PLACE, "zclip", 9.0, **curves)]
    kept = traces._kept(Runs(made_up.table(rows)), {"row": 0})
    assert len(kept["norm"]) <= 400 and 1234 in kept["step"]


# Tables


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.5, "9.50"), (0.1234, "0.123"), (0, "0"), (12345, "1e4"), (2e-5, "2e-5"), (1e30, "1e30"),
     (math.inf, "not finite"), (math.nan, "not finite")],
)  # fmt: skip
def test_scores_take_few_signs(value, text):
    assert tables.score(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 %"), (1e-6, "< 0.01 %"), (0.0036, "0.36 %"), (0.051, "5.1 %"), (0.146, "15 %")],
)
def test_shares_take_few_signs(value, text):
    assert tables.share(value) == text


def test_squares_mark_what_validation_chose():
    found = rates.squares(Content(study()), PLACE)
    marked = [cell.text for row in found.rows for cell in row if "best" in cell.look]
    assert marked == ["9.00", "8.00"]
    lost = [cell for row in found.rows for cell in row if "failed" in cell.look]
    assert len(lost) == 3 and "1 of 2 failed" in lost[0].note


def test_values_of_an_argument_are_side_by_side():
    found = methods.by_value(Content(example()), "global_norm")
    assert [column.title for column in found.columns] == ["task", "0.1", "0.25", "1"]
    assert methods.by_value(Content(example()), "none") is None


def test_docstrings_are_told_by_their_parts():
    said = content.told("chorales")
    assert said.title and said.question and {"Claim", "Protocol"} <= set(said.parts)
    assert content.told("lost").title == "lost"


# The digest


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return digest.write(example(), tmp_path_factory.mktemp("digest")).parent


def test_digest_tells_what_the_page_tells_and_its_pictures_are_there(kept):
    text = (kept / "README.md").read_text()
    for wanted in (
        "global_norm scores highest: 1.000 of 1", "| zclip | 4.0 (4.0 to 4.0) | 0.375 ",
        "**Holds.** chorales/tanh: 1.0 decades gained.", "**Not decided.**", COMMAND, "a machine",
    ):  # fmt: skip
        assert wanted in text, wanted
    named = set(re.findall(r'(?:src|srcset)="([^"]+)"|\]\(([^)]+)\)', text))
    files = {name for pair in named for name in pair if name}
    assert files | {"README.md"} == {path.name for path in kept.iterdir()}
    assert all("<svg" in path.read_text() for path in kept.glob("*.svg"))


def test_digest_keeps_numbers_that_the_leaderboard_can_be_made_from_again(kept):
    standings = csv.read_csv(kept / "standings.csv").to_pylist()
    found = Content(pq.read_table(kept / "runs.parquet")).standings
    assert [line["method"] for line in standings] == [line.method for line in found]
    for line, again in zip(standings, found, strict=True):
        assert line["tuned"] == again.tuned.value and line["rank_low"] == again.rank.low
    scores = csv.read_csv(kept / "scores.csv").to_pylist()
    chosen = {(row["task"], row["method"]): row for row in scores if row["stage"] == "chosen"}
    assert len(scores) == 2 * len(chosen) == 24
    assert chosen[PLACE, "zclip"]["test_median"] == 10.5
    assert chosen[PLACE, "zclip"]["seeds"] == 5


def test_runs_without_a_leaderboard_have_no_digest(tmp_path):
    with pytest.raises(UserError, match="there is no leaderboard in these runs"):
        digest.write(study(), tmp_path)


# The terminal


def test_summary_has_the_best_square_of_each_method():
    console = Console(file=io.StringIO(), width=120)
    console.print(report.summary(study()))
    lines = [line.split("│") for line in console.file.getvalue().splitlines() if "zclip" in line]
    assert [part.strip() for part in lines[0][1:-1]] == [
        PLACE, "zclip", "z 2.5", "1", "8.00", "8.00", "5.0 %", "2 of 6",
    ]  # fmt: skip


def test_suggestion_is_drawn(tmp_path):
    norms = np.ones(120)
    norms[60:] = 30.0
    norms[[20, 90]] = 400.0
    np.save(tmp_path / "norms.npy", norms * np.linspace(1, 1.1, 120))
    title, found, picture = suggest.write(str(tmp_path / "norms.npy"), tmp_path)
    drawn = picture.read_text()
    assert title == "norms.npy" and found.spikes and found.changes
    for word in ("gradient norm", "threshold", "spikes", "change of the level", "norms.npy"):
        assert word in drawn, word
