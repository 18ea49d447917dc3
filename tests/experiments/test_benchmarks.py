"""The benchmarks: turns are fair, ratios right, what is missing is left out, exact goals fail."""

import io
import json
import time

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from peers import package
from rich.console import Console
from rows import sampled

from benchmarks import __main__ as command
from benchmarks import clips, costs, others, programs, report, steps, workers
from benchmarks.cases import OURS, Case, Row, measure
from benchmarks.timing import Call, Loop, Ratio, in_turns, ratio
from benchmarks.trees import Leaves
from benchmarks.workers import Worker

GOALS = {"peer": 1.0, "absent": 2.0, "other": None}


def case(**changes):
    contestants = {OURS: lambda: 2.0, "peer": lambda: 4.0, "other": lambda: 1.0}
    return Case("suite", "some work", GOALS, lambda: contestants, **changes)


def rows(**changes):
    return list(measure(case(**changes), most=3))


# Timing


def test_order_is_drawn_anew_and_reversed_and_all_take_part():
    order = []

    def contestant(name):
        return lambda: order.append(name) or float(len(order))

    found = in_turns({name: contestant(name) for name in "abc"}, rounds=20)
    rounds = ["".join(order[i : i + 3]) for i in range(0, 60, 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"} and len(set(rounds)) == 6
    assert rounds[1::2] == [each[::-1] for each in rounds[::2]]
    assert all(len(costs) == 20 for costs in found.values())
    assert found["a"][0] == rounds[0].index("a") + 1


def test_ratio_is_that_of_costs_of_one_round():
    ours, theirs = np.array([1.0, 20.0, 3.0]), np.array([2.0, 10.0, 3.0])
    assert ratio(ours, theirs) == Ratio(0.75, 1.0, 1.5)


def test_call_gives_the_time_of_one_call_and_leaves_out_its_arguments():
    def make():
        time.sleep(0.3)
        return (jnp.ones(1),)

    calls = []
    timed = Call(lambda x: calls.append(1) or x, make, least=1.0, most=3)
    calls.clear()
    assert timed() < 0.3 and len(calls) == 3


def test_loop_hands_its_carry_on_and_goes_round_its_inputs():
    seen = []
    timed = Loop(lambda carry, x: seen.append((carry, x)) or carry + x, 0, [1, 2])
    timed()
    assert seen == [(0, 1), (1, 2), (3, 1), (4, 2)] and timed.carry == 6


# Rows


def test_peers_that_are_missing_are_left_out():
    assert [row.against for row in rows()] == ["peer", "other"]


def test_goal_is_reached_by_the_median_and_only_seconds_are_repeated():
    peer, other = rows()
    assert peer.ratio == Ratio(0.5, 0.5, 0.5) and peer.goal == 1.0 and peer.reached
    assert other.ratio.middle == 2.0 and other.goal is None and other.reached
    calls = []
    once = {OURS: lambda: calls.append(1) or 2.0, "peer": lambda: 1.0}
    [row] = measure(case(unit="bytes")._replace(make=lambda: once), most=3)
    assert len(calls) == 1 and not row.reached


@pytest.mark.exhaustive
def test_recurrent_step_is_timed():
    assert 0 < steps.recurrent(runs=2, width=4, batch=2, length=3, inputs=5)() < 60


@pytest.mark.parametrize(
    ("tree", "name"), [(Leaves(16, 2**20), "16 x 1M"), (Leaves(1000, 1024), "1,000 x 1k")]
)
def test_trees_are_called_by_their_sizes(tree, name):
    assert str(tree) == name


def test_leaves_have_the_shape_they_are_described_by():
    leaves = Leaves(3, 64, columns=16).normal(jnp.bfloat16)
    assert [x["w"].shape for x in leaves.values()] == [(4, 16)] * 3
    assert all(x["w"].dtype == jnp.bfloat16 for x in leaves.values())


# Other processes


def test_worker_without_its_package_says_so_and_gives_nothing(capsys):
    worker = Worker("no_such_package", {})
    assert worker.make("peer", "no_such_package.part:anything") == {}
    assert "no_such_package is left out" in capsys.readouterr().out
    assert worker.make("peer", "benchmarks.trees:Leaves", count=1, size=1) == {}


def test_worker_does_not_take_a_mistake_for_a_missing_package():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        Worker("torch", {}).make("peer", "benchmarks.no_such_module:anything")


def test_worker_times_what_it_made_and_raises_its_mistakes():
    worker = Worker("own", {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"})
    timed = worker.make("ours", "benchmarks.timing:Call", function=time.process_time)["ours"]
    assert 0 < timed() < 60
    with pytest.raises(TypeError, match="function"):
        worker.make("ours", "benchmarks.timing:Call")
    worker.forget()
    with pytest.raises(KeyError, match="ours") as raised:
        timed()
    assert "in _answered" in raised.value.__notes__[0]  # where, in the other process
    worker.close()
    with pytest.raises(RuntimeError, match="the process of own ended with -15 at ours"):
        timed()


def test_processes_of_devices_end_with_their_case():
    worker = workers.of_devices(2, "ours")
    found = worker.make("ours", "benchmarks.timing:Call", function=time.process_time)
    assert workers.pause() > 0
    workers.forget()
    assert workers.pause() == 0
    with pytest.raises(RuntimeError, match="2 devices"):
        found["ours"]()


# Programs


def test_costs_are_those_of_a_program_that_is_split_over_threads():
    tree = Leaves(4, 2**19).described()
    usual, _ = programs.costs(clips.compiled(optax.scale(2.0)).lower(tree, ()).compile())
    assert usual["flops"] == 4 * 2**19 and 0.99 < usual["bytes"] / (8 * 4 * 2**19) < 1.01


def test_branches_of_a_truth_value_are_those_of_an_index():
    attributes = ", true_computation=%yes, false_computation=%no"
    each = programs.Instruction("c", "f32[]", "conditional", [], attributes)
    assert each.called("false_computation") + each.called("true_computation") == ["no", "yes"]


@pytest.mark.parametrize(
    ("shape", "size"),
    [("f32[2,3]{1,0}", 24), ("f8e4m3fn[5]{0}", 5), ("(bf16[4], pred[3])", 11), ("f32[]", 4)],
)
def test_bytes_of_a_shape(shape, size):
    assert programs.size(shape) == size


def test_operation_that_is_not_known_is_not_passed_over():
    each = programs.Instruction("x", "f32[9]", "fast-fourier", [], "")
    with pytest.raises(ValueError, match="`fast-fourier` is not known"):
        programs.flops(each, {})


OTHERS = {
    "torch_clip": {"count": 3, "size": 64, "max_norm": 1.0, "dtype": "bfloat16", "foreach": False},
    "tensorflow_clip": {"count": 3, "size": 64, "max_norm": 1.0},
    "torch_recurrent": {"width": 4, "batch": 2, "length": 3, "inputs": 5},
    "zclip_step": {"count": 3, "size": 64},
    "autoclip_step": {"count": 3, "size": 64, "window": 10},
}


@pytest.mark.parity
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("factory", OTHERS)
def test_other_packages_are_timed(factory):
    package(factory.partition("_")[0])
    assert 0 < getattr(others, factory)(**OTHERS[factory])() < 60


# The command


@sampled("kind", {"one device": False, "eight devices": True}, [])
def test_exact_costs_reach_their_goals(kind):
    asked = [each for each in costs.cases(quick=True) if ("on 8 devices" in each.work) == kind]
    found = [row for each in asked for row in measure(each, most=1)]
    assert len(found) >= (1 if kind else 7)
    assert not any(row.case.timed for row in found)
    assert [row.case.work for row in found if not row.reached] == []


def test_every_work_has_a_name_of_its_own():
    for quick in (False, True):
        names = [(each.suite, each.work) for each in command.cases(quick=quick)]
        assert len(names) == len(set(names))
        assert {suite for suite, _ in names} - {"growth"} <= set(report.ABOUT)


def test_works_are_chosen_by_suite_and_by_words():
    options = command.Options(only=("vmap", "import clipax"))
    assert [each.suite for each in command.chosen(options)] == ["vmap", "import"]
    assert list(command.chosen(command.Options(only=("no such work",)))) == []
    assert {each.suite for each in command.chosen(command.Options(only=("clip",)))} == {"clip"}


def test_page_marks_what_is_missed_and_numbers_are_those_of_the_file(tmp_path):
    aimed = Case("clip", "slow work", {"optax": 1.1}, dict)
    slow = Row(aimed, "optax", Ratio(1.0, 1.5, 2.0), 3e-3, 2e-3)
    fast = Row(aimed._replace(work="fast work"), "optax", Ratio(0.4, 0.5, 0.6), 1e-3, 2e-3)
    point = aimed._replace(curve="window of it", goals={"optax": None})
    curve = [fast._replace(case=point._replace(size=10.0**i)) for i in range(3)]
    about = report.facts("a command") | {"complete": False}
    report.write([slow, fast, *curve], about, tmp_path)
    text = (tmp_path / report.PAGE).read_text()
    assert "The run was broken off" in text
    assert "1 of 2 goals are reached; the others are marked" in text and "a command" in text
    assert "| slow work | optax | **1.500** | 1.000 to 2.000 | 1.1 missed | 3 ms | 2 ms |" in text
    assert "| fast work | optax | 0.500 | 0.400 to 0.600 | 1.1 | 1 ms | 2 ms |" in text
    record = json.loads((tmp_path / report.NUMBERS).read_text())
    assert [row["reached"] for row in record["rows"]] == [False, True, True, True, True]
    for theme in ("light", "dark"):
        assert "<svg" in (tmp_path / report.picture("window of it", theme)).read_text()


def test_rows_are_written_though_a_later_work_fails(tmp_path):
    def broken():
        raise RuntimeError("broken")

    works = [case(), case()._replace(make=broken)]
    options = command.Options(out=tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        command.measured(works, options, Console(file=io.StringIO()))
    record = json.loads((tmp_path / report.NUMBERS).read_text())
    assert [row["against"] for row in record["rows"]] == ["peer", "other"]
    assert record["complete"] is False
    command.measured(works[:1], options, Console(file=io.StringIO()))
    assert json.loads((tmp_path / report.NUMBERS).read_text())["complete"] is True


def test_table_names_the_work_and_its_ratio():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(command.table(rows()))
    shown = console.export_text()
    assert "some work" in shown and "0.500" in shown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1.5, "s", "1.5 s"), (2.5e-3, "s", "2.5 ms"), (3e-6, "s", "3 µs"), (4e-9, "s", "4 ns"),
     (9.996e-4, "s", "1 ms"),
     (1368, "bytes", "1,368 bytes"), (3.2e-6, "of tau", "3.2e-06 of tau")],
)  # fmt: skip
def test_amounts_have_units(value, unit, text):
    assert report.amount(value, unit) == text
