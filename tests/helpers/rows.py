"""Which rows of the catalogue a law runs for, in the default tier and in the exhaustive one.

What a law depends on is how gradients are grouped, the norm, the rule and the kind of
transformation. `STRUCTURES` has each grouping and each update of its own once, `CORE` also what
combines them in code of its own. Norms, rules and threshold policies have laws of their own in
`numerics` and `thresholds`. The rows that are left out run with `pytest --exhaustive`.
"""

import pytest
from catalogue import CATALOGUE

STRUCTURES = (
    "global_norm",
    "per_group_dict",
    "adaptive_per_layer",
    "moving_average_per_leaf",
    "unit_mean",
    "element_mean",
    "value",
    "normalize",
    "agc",
    "clippy",
    "spam",
    "stable_spam",
    "spectral",
)
CORE = (
    *STRUCTURES,
    "global_norm_l3",
    "global_norm_max",
    "per_layer",
    "skip",
)


def sampled(argument, values, default):
    """Parametrizes by all `values`, a dict by name; those not named in `default` are exhaustive."""
    assert set(default) <= values.keys(), set(default) - values.keys()
    return pytest.mark.parametrize(
        argument,
        [
            pytest.param(
                *(value if isinstance(argument, tuple) else (value,)),
                id=name,
                marks=[pytest.mark.exhaustive] * (name not in default),
            )
            for name, value in values.items()
        ],
    )


def rows(*rules, fixed=None, default=CORE):
    """The rows with one of these rules, and with (or without) one fixed threshold."""
    found = {
        row.name: row
        for row in CATALOGUE
        if row.rule in (rules or (row.rule,)) and fixed in (None, row.fixed is not None)
    }
    return sampled("row", found, [name for name in default if name in found])


every = rows()
each_structure = rows(default=STRUCTURES)
