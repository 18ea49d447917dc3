"""The list of mutations itself: each can be made, and names what must find it.

Whether the tests do find them: `python tests/mutations`.
"""

import pytest
from mutations import MUTATIONS
from paths import ROOT

PACKAGE = ROOT / "clipax"
WITHOUT_CODE = {
    "clipax/_clippers/__init__.py": "a docstring",
    "clipax/thresholds/__init__.py": "a docstring, and names of other modules",
}
every = pytest.mark.parametrize("mutation", MUTATIONS, ids=[each.name for each in MUTATIONS])


@every
def test_mutation_can_be_made_in_one_place_and_compiles(mutation):
    right = (ROOT / mutation.file).read_text()
    assert right.count(mutation.old) == 1
    wrong = right.replace(mutation.old, mutation.new)
    assert wrong != right
    compile(wrong, mutation.file, "exec")


def test_mutations_name_their_tests_or_why_there_are_none():
    assert [each.name for each in MUTATIONS if bool(each.tests) == bool(each.equivalent)] == []
    tests = {test for each in MUTATIONS for test in each.tests}
    assert [test for test in sorted(tests) if not (ROOT / test).is_file()] == []


def test_mutations_have_names_of_their_own():
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names) >= 60


def test_every_module_with_code_has_a_mutation():
    modules = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    assert modules - {mutation.file for mutation in MUTATIONS} == WITHOUT_CODE.keys()
