"""One entry of a benchmark's annotation file becomes a Query."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Query:
    """One question: the reference image and what should change in it.

    ``targets`` are the right answers (the first is the annotated one), empty where only a server knows them.
    ``exclude`` are gallery ids that the protocol takes out of this query's ranking.
    ``subset`` are the ids that the CIRR subset metric ranks, the reference not among them.
    """

    query_id: str
    reference: str
    captions: tuple[str, ...]
    targets: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()
    soft: tuple[tuple[str, float], ...] = ()  # CIRR: graded answers, image id -> label
    aspects: tuple[str, ...] = ()  # CIRCO: what kind of change this is
    shared_concept: str = ""  # CIRCO: what reference and targets have in common

    def without(self, absent: Collection[str]) -> Query:
        """The query where ``absent`` images are no answers and no members any more."""
        return replace(
            self,
            targets=tuple(one for one in self.targets if one not in absent),
            subset=tuple(one for one in self.subset if one not in absent),
            soft=tuple(pair for pair in self.soft if pair[0] not in absent),
        )
