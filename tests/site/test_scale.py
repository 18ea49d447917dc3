"""What `docs/scale.md` says of the bytes of state."""

import re

import pytest
from paths import ROOT
from rows import sampled

from benchmarks.scale import CLIPPERS, MODELS, state_bytes

TEXT = (ROOT / "docs/scale.md").read_text()
STATE = re.search(r"^\| clipper \| state grows.*\n\|[-:| ]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
assert STATE is not None
ROWS = [row.strip("| ").split(" | ") for row in STATE[1].splitlines()]
BYTES = {name: cells for names, *cells in ROWS for name in re.findall("`([^`]+)`", names)}


def test_page_has_every_clipper_once():
    assert sorted(re.findall("`([^`]+)`", " ".join(row[0] for row in ROWS))) == sorted(CLIPPERS)


@sampled("model", {f"{i}": i for i in range(len(MODELS))}, ["0", "1"])
@pytest.mark.parametrize("name", CLIPPERS)
def test_state_is_as_large_as_the_page_says(name, model):
    _, *told = BYTES[name]
    assert len(told) == len(MODELS)
    assert told[model] == f"{state_bytes(CLIPPERS[name](), MODELS[model]):,}"


# The last model has a trillion parameters, more than fit into an int32.
@pytest.mark.parametrize("name", ["global_norm", "spam"])
def test_state_for_the_largest_model_is_as_large_as_the_page_says(name):
    assert BYTES[name][-1] == f"{state_bytes(CLIPPERS[name](), MODELS[-1]):,}"
