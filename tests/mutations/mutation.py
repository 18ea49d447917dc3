"""What a mutation is."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """One piece of wrong code, such as an engineer might write.

    Attributes:
        name: what is wrong, as a sentence.
        file: where.
        old: the right text, which is in the file once.
        new: what stands in its place.
        tests: test files of the default tier of which one must fail.
        equivalent: why no test can fail, if none can.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    equivalent: str = ""
