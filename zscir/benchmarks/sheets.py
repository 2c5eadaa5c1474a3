"""Sheets: what decides whether two numbers may stand in one column; a score row's protocol becomes its sheet.

A score's protocol is ``ranking/texts/preprocessing``. Ranking decides what is comparable. Texts and preprocessing
belong to the method, except texts that give more away than the modification (CIRCO's shared concept): those are
another protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EASIER_TEXTS = ("shared_concept",)


@dataclass(frozen=True)
class Sheet:
    """One benchmark, split and protocol. Numbers in it may be compared."""

    benchmark: str
    split: str
    protocol: str

    @property
    def title(self) -> str:
        """``cirr val (official)``."""
        return f"{self.benchmark} {self.split} ({self.protocol})"


def split_protocol(protocol: str) -> tuple[str, str, str]:
    """(ranking, texts, preprocessing) of a score's protocol; what is not named is empty."""
    ranking, texts, preprocessing = [*protocol.split("/"), "", ""][:3]
    return ranking, texts, preprocessing


def ranked_by(ranking: str, texts: str | None) -> str:
    """The protocol that heads a column."""
    return f"{ranking}, {texts}" if texts in EASIER_TEXTS else ranking


def sheet_of(row: Mapping[str, Any]) -> Sheet:
    """Where a row of the SCORES table belongs."""
    ranking, texts, _ = split_protocol(row["protocol"])
    return Sheet(row["benchmark"], row["split"], ranked_by(ranking, texts))


def markdown_row(cells: list[str]) -> str:
    """One line of a Markdown table, its cells already plain."""
    return "| " + " | ".join(cells) + " |"


def plain(text: str) -> str:
    """Text that cannot break out of a Markdown cell or become HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
