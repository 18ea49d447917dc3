"""Runs read back, the statistics of the leaderboard and the judges of the claims."""

import math
import re
import time

import altair as alt
import made_up_runs as made_up
import numpy as np
import pytest
from rows import sampled

from experiments import claims, config, plan
from experiments.columns import COLUMNS
from experiments.errors import UserError
from experiments.pages import claims as page
from experiments.results import Runs, Square, title
from experiments.standings import Leaderboard, decades, difference, estimate, interquartile_mean

TANH, LSTM = "chorales/tanh", "chorales/lstm"


def _runs(rows):
    return Runs(made_up.table(rows))


# Runs


def test_runs_are_found_by_their_columns_in_the_order_of_the_table():
    rows = made_up.grid(TANH, "none", [[9, 10], 11, 12]) + made_up.grid(LSTM, "value", [9, 8, 7])
    runs = _runs([*rows[4:], *rows[:4]])
    assert len(runs) == 7 and runs.rates == [0.1, 1.0, 10.0]
    assert runs.places == [LSTM, TANH] and runs.distinct("method") == ["value", "none"]
    found = runs.where(task="chorales", variant="tanh", learning_rate=0.1)
    assert [run["test"] for run in found] == [9, 10]
    assert [run["row"] for run in runs.where(learning_rate=1.0)] == [1, 5]
    assert len(runs.where(method="adagc")) == 0 and len(runs.at(TANH)) == 4
    assert runs.distinct("variant", "seed") == [("lstm", 0), ("tanh", 0), ("tanh", 1)]
    assert runs.at(TANH).square(learning_rate=0.1).extent("test") == (9, 10)


def test_runs_keep_curves_and_what_the_table_says_of_itself():
    runs = Runs(made_up.table(made_up.grid(TANH, "value", [9, 8, 7]), command="made up"))
    last = list(runs)[-1]
    np.testing.assert_allclose(runs.curve(last, "loss")[[0, -1]], [12, 7])
    assert runs.curve(last, "clipped").dtype == float and "loss" not in last
    assert runs.about["command"] == "made up"
    assert title(last) == "value 1 (chorales/tanh, learning rate 10, seed 0)"
    assert title(made_up.row(TANH, "none", 9)).startswith("none (chorales/tanh")


def test_every_column_is_explained():
    assert set(COLUMNS) == set(made_up.example().column_names)


def test_what_is_not_finite_is_the_largest_of_a_square():
    square = Square(made_up.square(TANH, "none", [math.nan, 9, -math.inf, 8, 10]))
    assert square.median("test") == 10 and square.extent("test") == (8, math.inf)
    assert square.failures == 1 and not square.usable


@sampled("tasks", {"20_000_runs": 18, "4_000_runs": 4}, ["4_000_runs"])
def test_a_leaderboard_of_many_runs_takes_seconds(tasks):
    places = [f"task{i}/variant" for i in range(tasks)]
    scores = np.random.default_rng(0).normal(9, 0.1, len(made_up.HELD_OUT)).tolist()
    known = {place: {f"method{i}": scores for i in range(50)} for place in places}
    runs = Runs(made_up.table(made_up.leaderboard(known)))
    assert len(runs) > 1_050 * tasks
    begin = time.process_time()
    assert len(Leaderboard(runs).standings()) == 50
    assert time.process_time() - begin < 1.1 * tasks


# Statistics


def test_an_estimate_is_the_interquartile_mean_with_an_interval_around_it():
    scores = {"a": np.array([0.0, 1, 2, 3]), "b": np.array([4.0, 5, 6, 100])}
    assert interquartile_mean(list(scores.values())) == np.mean([2, 3, 4, 5])
    found = estimate(scores)
    assert found.value == 3.5 and found.low < 3.5 < found.high
    assert found == estimate(scores)


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(1)
    drawn = [{task: rng.normal(0.5, 0.1, 10) for task in "abc"} for _ in range(60)]
    found = [estimate(scores) for scores in drawn]
    assert sum(one.low <= 0.5 <= one.high for one in found) >= 51


def test_seeds_are_drawn_within_a_task():
    # Tasks of different levels without noise: what is drawn anew in each has no spread.
    assert estimate({"a": np.full(5, 0.1), "b": np.full(5, 0.9)}) == pytest.approx([0.5] * 3)


def test_one_seed_has_no_interval():
    found = estimate({"a": np.array([0.5])})
    assert found.value == 0.5 and math.isnan(found.low) and math.isnan(found.high)
    assert found.verdict == "no difference seen"


def test_differences_are_paired_by_seed():
    noise = np.random.default_rng(2).normal(0, 1, 5)
    ahead = difference({"a": noise + 0.01}, {"a": noise})
    assert ahead == pytest.approx([0.01] * 3) and ahead.verdict == "better"
    assert difference({"a": noise}, {"a": noise + 0.01}).verdict == "worse"
    assert difference({"a": noise}, {"a": noise}) == (0, 0, 0)


# The leaderboard


def test_standings_follow_the_numbers():
    board = Leaderboard(Runs(made_up.example()))
    lines = {line.method: line for line in board.standings()}
    assert list(lines) == ["global_norm", "none", "value", "zclip"]
    assert board.tasks == [TANH, "weather/lstm", "mnist/mlp"]
    assert lines["global_norm"].tuned.value == pytest.approx(1)
    assert lines["none"].tuned.value == pytest.approx((12 - 9) / (12 - 8))
    assert lines["none"].default.value == pytest.approx((12 - 9.1) / (12 - 8))
    assert {name: line.verdict for name, line in lines.items()} == {
        "global_norm": "better",
        "none": "not compared",
        "value": "no difference seen",
        "zclip": "worse",
    }
    assert [line.rank.value for line in lines.values()] == [1, 2.5, 2.5, 4]
    assert [lines[name].decades for name in ("none", "value", "global_norm")] == [0, 1, 2]
    assert lines["none"].failed == pytest.approx(2 / 3) and lines["global_norm"].failed == 0
    assert lines["value"].overhead == pytest.approx(1.1) and lines["none"].overhead == 1


def test_a_method_that_fails_everywhere_is_last_with_score_0():
    good, lost = [9.0, 9.1, 9.2], [math.nan, math.inf, 1e9]
    rows = made_up.leaderboard({TANH: {"value": lost, "none": good, "zclip": good}}, {"value": 0})
    lines = Leaderboard(_runs(rows)).standings()
    assert lines[-1].method == "value" and lines[-1].tuned == (0, 0, 0)
    assert (lines[-1].rank.value, lines[-1].failed, lines[-1].decades) == (3, 1, 0)
    assert lines[-1].verdict == "worse"
    assert (
        not Leaderboard(_runs(made_up.leaderboard({TANH: {"value": lost}})))
        .scores("value")[TANH]
        .any()
    )


def test_a_failed_run_scores_0_even_with_a_good_test_score():
    rows = made_up.leaderboard({TANH: {"none": [9.0, 9.0, 9.0]}})
    rows[-4]["failed"] = True
    assert rows[-4]["stage"] == "chosen"
    assert sorted(Leaderboard(_runs(rows)).scores("none")[TANH]) == [0, 1, 1]


def test_tasks_that_a_method_has_not_finished_are_left_out():
    good = [9.0, 9.1]
    known = {TANH: {"none": good, "value": good}, LSTM: {"none": good, "value": good[:1]}}
    board = Leaderboard(_runs(made_up.leaderboard(known)))
    assert board.tasks == [TANH] and board.methods == ["none", "value"]
    board = Leaderboard(_runs(made_up.leaderboard({LSTM: known[LSTM]})))
    assert board.tasks == [] and board.standings() == []


def test_without_none_nothing_is_compared():
    rows = made_up.leaderboard({TANH: {"value": [9.0, 9.1]}})
    [line] = Leaderboard(_runs(rows)).standings()
    assert line.verdict == "not compared" and math.isnan(line.overhead)


@pytest.mark.parametrize(
    ("by_rate", "width"),
    [
        ([9, 9, 9, 9], 3),
        ([9, 99, 9, 9], 1),
        ([99, 9, 9, 99], 1),
        ([9, 9, [9, 99], 9], 1),
        ([99, 9, 99, 99], 0),
        ([99, 99, 99, 99], 0),
    ],
)
def test_decades_are_those_of_the_longest_unbroken_range(by_rate, width):
    assert decades(_runs(made_up.grid(TANH, "none", by_rate, (0.1, 1, 10, 100)))) == width


def test_decades_are_those_of_the_chosen_argument():
    rows = made_up.leaderboard({TANH: {"value": [9.0, 9.1]}}, {"value": 3})
    for run in rows:
        run["failed"] |= run["stage"] == "grid" and run["value"] == 1.0
    assert Leaderboard(_runs(rows)).standings()[0].decades == 2


def test_profile_is_the_share_of_runs_above_each_score():
    rows = made_up.leaderboard({TANH: {"none": [8.0, 8.0, 10.0, 10.0, 13.0]}})
    profile = Leaderboard(_runs(rows)).profile("none")
    assert profile.share[0] == 0.8 and profile.share[profile.taus > 0.999][-1] == 0.4
    assert np.all(np.diff(profile.share) <= 0)
    assert np.all((profile.low <= profile.share) & (profile.share <= profile.high))


# Claims


def _descents(plain, clipped, norms=(10, 1000)):
    rows = []
    for start, norm in enumerate(norms):
        for method, counts in (("none", plain), ("global_norm", clipped)):
            best = math.log10(1 + counts[start])
            by_rate = [best + 1, best, math.nan]
            tried = made_up.grid(f"clipped_gd/start {start}", method, by_rate)
            rows += [run | {"norm": np.full(5000, float(norm))} for run in tried]
    return rows


def _lengths(plain, clipped):
    rows = []
    for length, *counts in zip((20, 30, 50), plain, clipped, strict=True):
        for method, learnt in zip(("none", "global_norm"), counts, strict=True):
            by_rate = [[99] * 5, [1] * learnt + [99] * (5 - learnt), [99] * 5]
            rows += made_up.grid(f"temporal_order/length {length}", method, by_rate)
    return rows


def _percentiles(tanh, lstm):
    return [
        run
        for place, medians in ((TANH, tanh), ("characters/lstm", lstm))
        for percentile, median in zip((0, 1, 10, 50, 100), medians, strict=True)
        for run in made_up.grid(
            place,
            "autoclip",
            [[99] * 5, [median + 0.01 * seed for seed in range(5)], [99] * 5],
            value=float(percentile),
        )
    ]


def _rates(place, **by_method):
    return [
        run
        for method, rates in by_method.items()
        for run in made_up.grid(place, method, [[score] * 5 for score in rates])
    ]


def _spikes(**by_method):
    place = "characters/transformer, bad batches"
    return [
        made_up.row(place, method, 9, seed=seed, spike_score=score)
        for method, scores in by_method.items()
        for seed, score in enumerate(scores)
    ]


def _ranges(tanh, lstm):
    return [
        run
        for place, usable in ((TANH, tanh), (LSTM, lstm))
        for method, value, count in zip(
            ("none", "global_norm", "global_norm"), (math.nan, 1.0, 0.1), usable, strict=True
        )
        for run in made_up.grid(place, method, [9] * count + [99] * (3 - count), value=value)
    ]


def _nats(**by_cell):
    return [
        run
        for cell, score in by_cell.items()
        for run in made_up.square(f"chorales/reference {cell}", "global_norm", [score] * 5)
    ]


GPT = "characters/transformer"
_SELDOM = [0, 0.01, 0.02, 0.03]
_OFTEN = {"global_norm": [0.1, 0.2, 0.3, 0.4], "value": [0.1, 0.2, 0.3, 0.4]}
HOLDS, PARTLY, FAILS = "holds", "holds in part", "does not hold"
JUDGED = [
    ("clipped_gd", HOLDS, _descents((20, 2000), (10, 11)), "0.02 with it"),
    ("clipped_gd", PARTLY, _descents((20, 2000), (10, 60)), "power 1.00"),
    ("clipped_gd", FAILS, _descents((20, 2000), (20, 2000)), "1.00 without"),
    ("clipped_gd", FAILS, _descents((20, 20), (20, 20)), "0.00 without"),
    ("clipped_gd", FAILS, _descents((20, 2000), (10, 1e12)), "does not arrive"),
    ("memory", HOLDS, _lengths((5, 1, 0), (5, 4, 5)), "length 50, 5 of 5 and 0 of 5 (p = 0.031)"),
    ("memory", PARTLY, _lengths((5, 1, 0), (4, 4, 5)), "length 20, 4 of 5 and 5 of 5 (p = 1)"),
    ("memory", PARTLY, _lengths((0, 1, 0), (5, 4, 4)), "length 50, 4 of 5 and 0 of 5 (p = 0.062)"),
    ("memory", FAILS, _lengths((5, 4, 3), (5, 5, 4)), "p = 0.5"),
    ("memory", FAILS, _lengths((5, 4, 0), (5, 4, 0)), "p = 1)"),
    ("autoclip", HOLDS, _percentiles((9, 8, 9, 9, 10), (9, 9, 8, 9, 10)), "10 is better than 100"),
    ("autoclip", PARTLY, _percentiles((9, 8, 9, 9, 10), (9, 9, 9, 8, 10)), "50 is the best"),
    ("autoclip", FAILS, _percentiles((10, 9, 9, 8, 9), (10, 9, 9, 8, 9)), "0 the worst"),
    (
        "autoclip",
        FAILS,
        _percentiles((9, 8.99, 9, 9, 9.01), (9, 9, 8.99, 9, 9.01)),
        "1 is not surely better",
    ),
    (
        "zclip",
        HOLDS,
        _rates(GPT, none=[9, 99, 99], global_norm=[9, 9, 99], zclip=[9, 8, 9]),
        "2.0 decades with zclip, 1.0 with global_norm and 0.0 without",
    ),
    (
        "zclip",
        PARTLY,
        _rates(GPT, none=[9, 9, 9], global_norm=[9, 9, 9], autoclip=[9, 9, 99], zclip=[9, 9, 8]),
        "at 10, the highest",
    ),
    (
        "zclip",
        FAILS,
        _rates(GPT, none=[9, 99, 99], global_norm=[9, 9, 99], zclip=[9, 9, 99]),
        "not surely better",
    ),
    (
        "zclip",
        "not decided",
        _rates(GPT, none=[9, 9, 9], global_norm=[9, 9, 9], zclip=[9, 9, 9]),
        "no range was tried out",
    ),
    (
        "adagc",
        HOLDS,
        _spikes(**_OFTEN, zclip=[0.05, 0.06, 0.07, 0.08], adagc=_SELDOM),
        "1.500% with adagc",
    ),
    (
        "adagc",
        PARTLY,
        _spikes(**_OFTEN, zclip=_SELDOM, adagc=_SELDOM),
        "2 of the 3 others",
    ),
    (
        "adagc",
        FAILS,
        _spikes(global_norm=_SELDOM, value=_SELDOM, zclip=_SELDOM, adagc=[0.1, 0.2, 0.3, 0.4]),
        "0 of the 3 others",
    ),
    (
        "adagc",
        "not decided",
        _spikes(global_norm=[0, 0], value=[0, 0], zclip=[0, 0], adagc=[0, 0]),
        "0.000% with adagc",
    ),
    (
        "adagc",
        "not decided",
        _spikes(global_norm=_SELDOM, value=_SELDOM, zclip=_SELDOM, adagc=_SELDOM),
        "No method changes when the loss jumps",
    ),
    ("range", HOLDS, _ranges((1, 1, 2), (2, 3, 2)), "1.0 decades gained. chorales/lstm: 1.0"),
    ("range", PARTLY, _ranges((1, 1, 2), (2, 2, 2)), "chorales/lstm: 0.0 decades gained"),
    ("range", FAILS, _ranges((2, 1, 1), (2, 2, 2)), "chorales/tanh: 1.0 decades lost"),
    ("likelihood", HOLDS, _nats(tanh=9, gru=8, lstm=8.2), "tanh +1.0%, gru -5.1%"),
    ("likelihood", PARTLY, _nats(tanh=8.4, gru=8.6, lstm=8.3), "lstm -1.8%"),
    ("likelihood", FAILS, _nats(tanh=8.4, gru=8.4, lstm=math.nan), "lstm +inf%"),
]


@pytest.mark.parametrize(("name", "verdict", "rows", "reason"), JUDGED)
def test_claims_are_judged_by_their_runs(name, verdict, rows, reason):
    answer = claims.find(name).judge(_runs(rows))
    assert answer.verdict == verdict
    assert reason in answer.reason
    assert answer.rows and all(len(row) == len(answer.columns) for row in answer.rows)
    drawn = page.chart(answer.picture)
    kind = alt.FacetChart if "facet" in drawn else alt.LayerChart
    kind.from_dict(drawn, validate=True)


@pytest.mark.parametrize("claim", claims.ALL, ids=lambda claim: claim.name)
def test_claims_are_complete(claim):
    assert claims.find(claim.name) is claim
    assert re.search(
        r"\b(19|20)\d\d\b.*https://arxiv\.org/abs/\d{4}\.\d{5}|1211\.5063", claim.source
    )
    assert claim.says.endswith(".") and claim.differs.endswith(".")
    assert isinstance(claim.study, config.Study)
    judged = {verdict for name, verdict, *_ in JUDGED if name == claim.name}
    assert judged >= {HOLDS, PARTLY, FAILS}


@pytest.mark.parametrize("claim", claims.ALL, ids=lambda claim: claim.name)
def test_claims_without_their_runs_have_no_answer(claim):
    rows = [run | {"part": "leaderboard"} for run in made_up.grid(TANH, "none", [9, 9, 9])]
    assert claim.answer(_runs(rows)) is None
    asked = [(f"{group.task}/{group.variant}", group.method) for group in plan.groups(claim.study)]
    whole = [made_up.row(*each, 9.0, part=claim.name) for each in asked]
    assert claim.answer(_runs(whole[:-1])) is None


def test_an_unknown_claim_is_named():
    with pytest.raises(UserError, match="unknown claim other; there are clipped_gd, memory"):
        claims.find("other")
