"""Reject instructions by length, markup and leaks of the prompt, and count what was kept and what was not."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Any

QUOTA_GRACE_COUNT = 20  # so few are kept before a share means anything
_SPACES = re.compile(r"\s+")
# A modification text speaks to a user who sees one image: "the second image" or "the caption" leak the prompt.
_LEAKS = re.compile(
    r"\bcaptions?\b|\b(?:image|picture|photo) ?[12ab]\b"
    r"|\b(?:first|second|reference|target|source|original|other) (?:image|picture|photo)\b",
    re.IGNORECASE,
)
# The name of an edit type as a heading; a plain sentence may well begin with "Compare" or "Addition".
_ASPECT = re.compile(
    r"^(?:(?:cardinality|addition|negation|direct addressing|compare (?:&|and) change|comparative(?: language)?"
    r"|conjunction|spatial(?: relations)?(?: (?:&|and) background)?|viewpoint|edit type)\s*[.:;,\u2013\u2014-]"
    r"|use comparative|negate\b)",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"[<>{}\[\]\\`|]|https?://|\bwww\.")


def normalise_instruction(text: str) -> str:
    """``text`` in NFC with single spaces, without the quotes that models like to put around it."""
    flat = _SPACES.sub(" ", unicodedata.normalize("NFC", text)).strip()
    return flat[1:-1].strip() if len(flat) > 1 and flat[0] == flat[-1] and flat[0] in "\"'" else flat


def instruction_reject_reason(text: str, min_words: int, max_words: int) -> str:
    """Why a normalised instruction is rejected (a short class), or "" where it is good."""
    if not all(character.isprintable() for character in text):
        return "unprintable"
    if not min_words <= len(text.split()) <= max_words:
        return "length"
    if _MARKUP.search(text):
        return "markup"
    if _LEAKS.search(text):
        return "leak"
    if _ASPECT.search(text):
        return "aspect_name"
    return ""


class ParseTally:
    """Counts of one parse: kept texts, reasons, kinds of edit, first words, refusals by image similarity."""

    def __init__(self) -> None:
        self._texts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._types: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._words = 0

    def count_similarity(self, similarity: float | None, refused: bool) -> None:
        """Count one response in the tenth of image similarity that its pair lies in."""
        # ``similarity != similarity`` is true of NaN alone.
        tenth = (
            "unknown" if similarity is None or similarity != similarity else f"{int(max(similarity, 0) * 10) / 10:.1f}"
        )
        self._answered[tenth] += 1
        self._refused[tenth] += refused

    def uses(self, text: str) -> int:
        """How many kept triplets have this text, whatever its case."""
        return self._texts[text.lower()]

    def exceeds_type_share(self, edit_type: str, share: float) -> bool:
        """Whether one more of this kind would be more than ``share`` of what is kept; the first few are free."""
        kept = self._types.total()
        return kept >= QUOTA_GRACE_COUNT and self._types[edit_type] + 1 > share * (kept + 1)

    def keep(self, text: str, edit_type: str) -> None:
        """Count a kept instruction."""
        self._texts[text.lower()] += 1
        self._types[edit_type] += 1
        self._words += len(text.split())

    def reject(self, reason: str) -> None:
        """Count a reject."""
        self._reasons[reason] += 1

    def facts(self) -> dict[str, Any]:
        """The counts, as a manifest holds them."""
        kept = self._texts.total()
        first_words = Counter(text.split()[0] for text in self._texts.elements())
        return {
            "rows": kept,
            "rejects": self._reasons.total(),
            "rejects_by_reason": dict(sorted(self._reasons.items())),
            "distinct_texts": len(self._texts),
            "mean_words": round(self._words / kept, 2) if kept else 0.0,
            "edit_types": dict(sorted(self._types.items())),
            "first_words": dict(sorted(first_words.items(), key=lambda item: (-item[1], item[0]))[:10]),
            "refused_of_asked": {
                tenth: [self._refused[tenth], self._answered[tenth]] for tenth in sorted(self._answered)
            },
        }
