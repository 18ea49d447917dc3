"""The laws of threshold policies for every one of them."""

import functools

import policy_laws as laws
from policies import EVERY, VARIANTS
from rows import sampled

from clipax import thresholds

every = sampled("told", EVERY | VARIANTS, EVERY)


def test_every_policy_is_under_these_laws():
    functions = {name for name in thresholds.__all__ if name.islower()} - {"as_policy"}
    assert {told.make.__name__ for told in EVERY.values()} == functions


@every
def test_state_is_laid_out_as_the_norms(told):
    shapes = ((), (3,), (2, 3), (0,))
    for shape in ((laws.GROUPS,),) if told.make is thresholds.by_group else shapes:
        laws.state_is_laid_out_as_the_norms(told.policy, shape)


@functools.cache
def rough():
    return laws.rough()


@every
def test_threshold_and_state_are_never_nan(told):
    laws.threshold_and_state_are_never_nan(told.policy, rough())


@every
def test_nonfinite_norm_leaves_its_group_as_it_was(told):
    laws.nonfinite_norm_leaves_its_group_as_it_was(told.policy, told.by_step)


@every
def test_groups_do_not_see_each_other(told):
    laws.groups_do_not_see_each_other(told.policy)


@every
def test_resumed_equals_uninterrupted_to_the_bit(told):
    laws.resumed_equals_uninterrupted(told.policy, rough())


@every
def test_clipping_comes_back_to_life_after_any_history(told):
    exceptions = told.stuck_above, told.stuck_below, told.least
    laws.clipping_comes_back_to_life(told.policy, *exceptions)
