"""The numbers in `docs/benchmarks`."""

import json

from paths import ROOT

from benchmarks import __main__ as command

RESULTS = json.loads((ROOT / "docs/benchmarks/results.json").read_text())


def test_command_is_the_one_that_the_page_names():
    assert RESULTS["command"] == "python -m benchmarks --out docs/benchmarks"
    assert f"&& {RESULTS['command']}\n" in (ROOT / "docs/speed.md").read_text()


def test_every_work_was_measured_beside_every_peer():
    measured = {(row["suite"], row["work"], row["against"]) for row in RESULTS["rows"]}
    wanted = {
        (case.suite, case.work, peer) for case in command.cases(quick=False) for peer in case.goals
    }
    assert RESULTS["complete"] and wanted <= measured


def test_goals_are_those_of_the_code():
    goals = {
        (case.suite, case.work, peer): goal
        for case in command.cases(quick=False)
        for peer, goal in case.goals.items()
    }
    for row in RESULTS["rows"]:
        if row["suite"] != "costs":  # what may be asked of a program depends on its compiler
            assert row["goal"] == goals[row["suite"], row["work"], row["against"]]


def test_what_costs_is_as_it_should_be():
    assert [
        row["work"] for row in RESULTS["rows"] if row["suite"] == "costs" and not row["reached"]
    ] == []
