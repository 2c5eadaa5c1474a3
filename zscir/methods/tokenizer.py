"""Tokenizers: CLIP's own BPE, or a compact renumbering of its ids for small models.

open_clip's package brings the BPE vocabulary, so no download is needed.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from zscir.runtime import torchvision_guard
from zscir.runtime.errors import RequestError

STAR = "*"
# Words that a compact vocabulary always knows by themselves, so that a modification text is never a row of buckets.
PROMPT_WORDS = """
a an the photo picture image of * that , . and or but is are was has have with without no not instead rather than
replace replaced remove removed add added another one two three four more less fewer same different other change
changed make made turn turned into become becomes now to from in on at bigger smaller larger left right top bottom
corner up down both all only still move moved show shows there it they them its their this these those gone any each
every thing things object
"""
UNKNOWN_TOKEN_BUCKETS = 64  # unknown words share embeddings, but not all of them the same one


class Tokenizer(Protocol):
    """Maps texts to ids. A row is start, tokens, end, zeros; the end id is the largest, as CLIP's pooling expects."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def end_id(self) -> int:
        """The id that closes a row."""
        ...

    @property
    def star_id(self) -> int:
        """The id of ``*``."""
        ...

    def __call__(self, texts: Sequence[str], context_length: int) -> Tensor:
        """[len(texts), L] ids, truncated to ``context_length`` (the end id stays), L = the longest row's length."""
        ...


@lru_cache(maxsize=1)
def _bpe() -> Any:
    torchvision_guard.install_torchvision_guard()
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@lru_cache(maxsize=65536)  # the texts of a pack recur in every epoch
def bpe_ids(text: str) -> tuple[int, ...]:
    """CLIP's BPE ids of ``text`` (cleaned and lower-cased), without start and end."""
    return tuple(_bpe().encode(text))


def _pad_ids(rows: list[list[int]], context_length: int, end_id: int) -> Tensor:
    truncated = [row if len(row) <= context_length else [*row[: context_length - 1], end_id] for row in rows]
    ids = torch.zeros(len(truncated), max((len(row) for row in truncated), default=0), dtype=torch.long)
    for row, tokens in zip(ids, truncated, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return ids


class ClipTokenizer:
    """CLIP's 49,408 ids."""

    vocab_size = 49408  # 2 x 256 bytes, 48,894 merges, start and end
    start_id = 49406
    end_id = 49407

    def __init__(self) -> None:
        (self.star_id,) = bpe_ids(STAR)

    def __call__(self, texts: Sequence[str], context_length: int) -> Tensor:
        return _pad_ids([[self.start_id, *bpe_ids(text), self.end_id] for text in texts], context_length, self.end_id)


@dataclass(frozen=True)
class CompactTokenizer:
    """The BPE ids of one corpus renumbered 1..n, then buckets for all other ids (id modulo), then start and end."""

    known: tuple[int, ...]
    buckets: int = UNKNOWN_TOKEN_BUCKETS

    @classmethod
    def of_corpus(cls, texts: Iterable[str]) -> "CompactTokenizer":
        """The tokenizer that knows every id in ``texts`` and in the prompts."""
        known = set(bpe_ids(PROMPT_WORDS))
        for text in texts:
            known.update(bpe_ids(text))
        return cls(tuple(sorted(known)))  # sorted: the vocabulary does not depend on the order of the texts

    @classmethod
    def load(cls, path: Path) -> "CompactTokenizer":
        """From a checkpoint's ``vocab.json``; RequestError if it is damaged."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(tuple(int(bpe_id) for bpe_id in stored["known"]), int(stored["buckets"]))
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{path}: not a compact vocabulary ({error}); take the checkpoint's own file") from None

    def save(self, path: Path) -> None:
        """Write ``vocab.json``."""
        path.write_text(json.dumps({"known": list(self.known), "buckets": self.buckets}) + "\n", encoding="utf-8")

    @property
    def start_id(self) -> int:
        return 1 + len(self.known) + self.buckets

    @property
    def end_id(self) -> int:
        return self.start_id + 1

    @property
    def vocab_size(self) -> int:
        return self.start_id + 2

    @property
    def star_id(self) -> int:
        return self.compact_id(bpe_ids(STAR)[0])

    def compact_id(self, bpe_id: int) -> int:
        """The compact id of a BPE id: its own, or its bucket's."""
        # Modulo rather than one bucket for all: two unknown words seldom look the same.
        return _compact_ids(self.known).get(bpe_id, 1 + len(self.known) + bpe_id % self.buckets)

    def __call__(self, texts: Sequence[str], context_length: int) -> Tensor:
        rows = [[self.start_id, *map(self.compact_id, bpe_ids(text)), self.end_id] for text in texts]
        return _pad_ids(rows, context_length, self.end_id)


@lru_cache(maxsize=8)
def _compact_ids(known: tuple[int, ...]) -> dict[int, int]:
    return {bpe_id: number for number, bpe_id in enumerate(known, start=1)}
