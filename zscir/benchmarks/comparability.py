"""Comparison groups: which scores may stand in one column, by benchmark, split and protocol.

A score's protocol is ``ranking/texts/preprocessing``. Scores of another ranking or preprocessing stand in another
column. So do those whose texts give more away than the modification (CIRCO's shared concept). The templates around the
modification ("a photo of * that") belong to the method, as its backbone does: each row names its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zscir.benchmarks.registry import info_of_label, whole_benchmark_order

EASIER_TEXTS = ("shared_concept",)
NO_TEXTS = "none"  # queries of the image alone: comparable under every text protocol


@dataclass(frozen=True)
class ComparisonGroup:
    """One benchmark, split and protocol. Numbers in it may be compared; ``texts`` is empty unless they are easier.

    ``preprocessing`` is empty where it is not known, as for published numbers.
    """

    benchmark: str
    split: str
    ranking: str
    texts: str = ""
    preprocessing: str = ""

    @property
    def protocol(self) -> str:
        """``official, shared_concept, targetpad``: what heads a column."""
        return ", ".join(part for part in (self.ranking, self.texts, self.preprocessing) if part)

    @property
    def title(self) -> str:
        """``cirr val (official, clip)``."""
        return f"{self.benchmark} {self.split} ({self.protocol})"

    @property
    def order(self) -> tuple[int, str]:
        """Sorts whole benchmarks first, in the literature's order, then categories and tasks."""
        return whole_benchmark_order(self.benchmark), self.title


def split_protocol(protocol: str) -> tuple[str, str, str]:
    """(ranking, texts, preprocessing) of a score's protocol; what is not named is empty."""
    # Features made elsewhere name no preprocessing, and perhaps no texts.
    ranking, texts, preprocessing = [*protocol.split("/"), "", ""][:3]
    return ranking, texts, preprocessing


def easier_text_protocol(texts: str | None) -> str:
    """The text protocol where it needs a column of its own; empty for all others."""
    return texts if texts in EASIER_TEXTS else ""


def comparison_group_of(row: Mapping[str, Any]) -> ComparisonGroup:
    """The group of a row of the SCORES table."""
    ranking, texts, preprocessing = split_protocol(row["protocol"])
    return ComparisonGroup(row["benchmark"], row["split"], ranking, easier_text_protocol(texts), preprocessing)


def literature_metrics(benchmark: str) -> tuple[str, ...]:
    """The metrics that the literature prints of a benchmark, or of one of its categories or tasks."""
    info = info_of_label(benchmark)
    return () if info is None else info.literature_metrics


def control_from_label(method: str) -> str | None:
    """``image``, ``text`` or ``sum`` from an untrained control's label, for rows without the column ``control``."""
    if method.startswith("sum, lambda "):
        return "sum"
    return {"image only": "image", "text only": "text"}.get(method)


def markdown_row(cells: list[str]) -> str:
    """One line of a Markdown table, its cells already plain."""
    return "| " + " | ".join(cells) + " |"


def escape_markdown(text: str) -> str:
    """Text that cannot end a Markdown cell or become HTML: method names come from specs and from the store."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
