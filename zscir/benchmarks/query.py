"""Query: one entry of a benchmark's annotation file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Query:
    """The reference image and what should change in it.

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

    def without_images(self, absent: Collection[str]) -> Query:
        """The query with ``absent`` images taken out of its answers and of its image set."""
        return replace(
            self,
            targets=tuple(image_id for image_id in self.targets if image_id not in absent),
            subset=tuple(image_id for image_id in self.subset if image_id not in absent),
            soft=tuple(pair for pair in self.soft if pair[0] not in absent),
        )
