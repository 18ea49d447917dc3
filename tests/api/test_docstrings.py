"""The docstrings of the public names."""

import inspect
import re
from typing import Any

import pytest
from contract import CLASSES, CLIPPERS, POLICIES, PUBLIC, RULES, each_function
from wrong_arguments import BAD
from wrong_arguments_methods import BAD_METHODS

import clipax
from clipax import rules, thresholds

SECTIONS = ["Parts", "State", "Args", "Returns", "Raises", "Example", "References", "Deviations"]


def sections(item) -> dict[str, str]:
    """The parts of a docstring by their headings, the text before the first as ""."""
    found = re.split(r"^(\w+):", inspect.getdoc(item) or "", flags=re.MULTILINE)
    pairs = zip(["", *found[1::2]], found[0::2], strict=True)
    return {heading: text.strip() for heading, text in pairs}


def entries(section: str) -> list[str]:
    """The names that a section `Args` or `Attributes` describes."""
    return re.findall(r"^(?: {4})?(\w+): \S", section, flags=re.MULTILINE)


@pytest.mark.parametrize("item", [pytest.param(v, id=k) for k, v in PUBLIC.items()])
def test_docstring_starts_with_one_sentence(item):
    first, *rest = (inspect.getdoc(item) or "").splitlines()
    assert re.fullmatch(r"[A-Z].*[.?]", first), first
    assert not rest or rest[0] == ""


@each_function
def test_docstring_sections_stand_in_one_order(function):
    headings = [h for h in sections(function) if h]
    assert set(headings) <= set(SECTIONS)
    # A section may start in the middle of a paragraph, as `State:` does after `Parts:`.
    assert headings == sorted(headings, key=SECTIONS.index)
    assert {"Args", "Returns", "Example"} <= set(headings)


@each_function
def test_docstring_describes_every_argument_in_order(function):
    described = entries(sections(function)["Args"])
    assert described == list(inspect.signature(function).parameters)


@pytest.mark.parametrize("item", CLASSES)
def test_docstring_of_a_class_describes_every_field(item):
    assert entries(sections(item).get("Attributes", "")) == list(item._fields)


@each_function
def test_docstring_has_a_short_doctest_with_a_result(function):
    example = sections(function)["Example"].splitlines()
    source = [line.strip() for line in example if re.match(r"\s*(>>>|\.\.\.)", line)]
    assert source and source[0].startswith(">>>")
    assert len(source) <= 6
    assert len(source) < len(example)


EQUATIONS = {clipax: CLIPPERS, thresholds: POLICIES, rules: RULES}


@pytest.mark.parametrize(
    ("item", "symbol"),
    [
        pytest.param(getattr(module, name), symbol, id=f"{module.__name__}.{name}")
        for (module, table), symbol in zip(EQUATIONS.items(), ("<-", "tau", "phi"), strict=True)
        for name in table
    ],
)
def test_docstring_has_the_equation(item, symbol):
    body = sections(item)[""].split("\n", 1)[1]
    assert any(symbol in code for code in re.findall(r"`([^`]+)`", body)), body


@pytest.mark.parametrize("name", CLIPPERS)
def test_docstring_of_a_clipper_names_parts_and_state(name):
    doc = inspect.getdoc(getattr(clipax, name)) or ""
    assert re.search(r"^Parts: per_\w+.* -> .* -> ", doc, flags=re.MULTILINE)
    assert "State: " in doc


@pytest.mark.parametrize("name", POLICIES)
def test_docstring_of_a_policy_names_its_state(name):
    assert "State" in sections(getattr(thresholds, name))


EVERY_BAD = BAD + BAD_METHODS


@pytest.mark.parametrize("function", list(dict.fromkeys(row.values[0] for row in EVERY_BAD)))
def test_docstring_names_the_errors(function):
    told = sections(function).get("Raises", "")
    errors: list[Any] = [row.values[3] for row in EVERY_BAD if row.values[0] is function]
    raised = {error.__name__ for error in errors}
    assert {name for name in raised if f"{name}: " in told} == raised
