"""The page of claims: what a paper says, what was run, and whether it holds here."""

from typing import NamedTuple

from experiments import claims, judges
from experiments.claims import Claim
from experiments.pages.content import Content
from experiments.pages.tables import Table, simple

_LOOKS = {judges.HOLDS: "better", judges.FAILS: "worse"}


class Shown(NamedTuple):
    """A claim with its answer, as the template shows it."""

    name: str
    says: str
    verdict: str
    look: str
    reason: str
    table: Table | None
    source: str
    differs: str
    command: str
    tasks: list[str]


def shown(content: Content) -> list[Shown]:
    """Claims for which there are runs."""
    parts = content.runs.distinct("part")
    return [_shown(content, claim) for claim in claims.ALL if claim.name in parts]


def _shown(content: Content, claim: Claim) -> Shown:
    answer = claim.answer(content.runs)
    verdict = answer.verdict if answer else "not decided"
    return Shown(
        name=claim.name,
        says=claim.says,
        verdict=verdict.capitalize(),
        look=_LOOKS.get(verdict, "same"),
        reason=answer.reason if answer else "Some of the runs that decide are missing.",
        table=simple(claim.says, answer.columns, answer.rows) if answer else None,
        source=claim.source,
        differs=claim.differs,
        command=content.facts["command"],
        tasks=content.runs.where(part=claim.name).distinct("task"),
    )
