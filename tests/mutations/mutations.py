"""The mutations: wrong code that the default tier of the tests must find."""

from of_clippers import OF_CLIPPERS
from of_core import OF_THE_CORE
from of_measures import OF_MEASURES
from of_norms import OF_NORMS_AND_RULES
from of_thresholds import OF_THRESHOLDS
from of_wrappers import OF_WRAPPERS

MUTATIONS = [
    *OF_NORMS_AND_RULES,
    *OF_MEASURES,
    *OF_THRESHOLDS,
    *OF_THE_CORE,
    *OF_CLIPPERS,
    *OF_WRAPPERS,
]
