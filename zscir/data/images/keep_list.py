"""Keep-lists of filters: read which images an earlier filter kept, and write which of them the next one keeps.

A filter copies no image: it writes ``keep.parquet``, the keys of the images that stay, and ``rejects.parquet``, the
reason for each that does not. Stages that take images take such a list as their input ``keep``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import (
    IMAGES_SCHEMA,
    KEEP_SCHEMA,
    REJECTS_SCHEMA,
    checked_table,
    read_table,
    table_batches,
    table_writer,
)
from zscir.store.artifacts import Artifact, Facts, atomic_path

KEEP_BATCH_ROWS = 20_000
MAX_REASON_CHARS = 200  # of a detail, which may quote a caption of any length
ImageRow = dict[str, Any]


class FilterReject(NamedTuple):
    """Why a filter leaves an image out."""

    reason: str
    detail: str


class KeepList:
    """The images that ``keep`` names, about 100 bytes of memory each; without ``keep``, every image."""

    def __init__(self, keep: Artifact | None) -> None:
        self._keep = keep
        self._kept = {_key_bytes(key) for key in _kept_keys(keep)} if keep is not None else set()
        self._unseen = set(self._kept)

    def contains(self, key: str) -> bool:
        """Whether this image is kept; ``check_all_seen`` counts it as seen."""
        if self._keep is None:
            return True
        mark = _key_bytes(key)
        self._unseen.discard(mark)
        return mark in self._kept

    def check_all_seen(self, stage: str) -> None:
        """RequestError when kept images were not seen by ``contains``: they are from another download."""
        if self._keep is not None and self._unseen:
            example = next(key for key in _kept_keys(self._keep) if _key_bytes(key) in self._unseen)
            raise RequestError(
                f"{stage}: {len(self._unseen)} images of 'keep' were not downloaded in 'images', such as {example}; "
                "give the download that the filter looked at"
            )


def kept_image_rows(
    stage: str, images: Artifact, keep: Artifact | None, columns: tuple[str, ...]
) -> Iterator[ImageRow]:
    """The rows (``image_key`` and ``columns``) of downloaded images that ``keep`` holds, in order.

    An image with several captions has several rows. RequestError when ``keep`` is of another download.
    """
    keep_list = KeepList(keep)
    wanted = ["image_key", "status", *columns]
    for batch in table_batches(images.path("images.parquet"), IMAGES_SCHEMA, KEEP_BATCH_ROWS, wanted):
        yield from (row for row in batch.to_pylist() if row["status"] == "ok" and keep_list.contains(row["image_key"]))
    keep_list.check_all_seen(stage)


def first_row_per_image(rows: Iterable[ImageRow]) -> Iterator[ImageRow]:
    """Of each image the first row."""
    seen: set[bytes] = set()
    for row in rows:
        mark = _key_bytes(row["image_key"])
        if mark not in seen:
            seen.add(mark)
            yield row


def write_keep_list(
    stage: str, rows: Iterable[ImageRow], find_reject: Callable[[ImageRow], FilterReject | None], out: Path
) -> Facts:
    """Write ``keep.parquet`` and ``rejects.parquet``, in order; ``find_reject`` gives why an image goes, None keeps it.

    The facts count ``images`` (looked at), ``rows`` (kept) and ``rejects``, the last by reason too.
    """
    kept, waiting = 0, iter(rows)
    reasons: Counter[str] = Counter()
    with (
        atomic_path(out / "keep.parquet") as keep,
        atomic_path(out / "rejects.parquet") as rejects,
        table_writer(keep, KEEP_SCHEMA) as good,
        table_writer(rejects, REJECTS_SCHEMA) as bad,
    ):
        while results := [(row["image_key"], find_reject(row)) for row in islice(waiting, KEEP_BATCH_ROWS)]:
            stay = [{"image_key": key} for key, reject in results if reject is None]
            good.write_table(checked_table(stay, KEEP_SCHEMA))
            left_out = [
                {"stage": stage, "id": key, "reason": reject.reason, "detail": reject.detail[:MAX_REASON_CHARS]}
                for key, reject in results
                if reject is not None
            ]
            bad.write_table(checked_table(left_out, REJECTS_SCHEMA))
            kept += len(stay)
            reasons.update(row["reason"] for row in left_out)
    return {
        "rows": kept,
        "images": kept + reasons.total(),
        "rejects": reasons.total(),
        "rejects_by_reason": dict(sorted(reasons.items())),
    }


def _kept_keys(keep: Artifact) -> list[str]:
    keys: list[str] = read_table(keep.path("keep.parquet"), KEEP_SCHEMA).column("image_key").to_pylist()
    return keys


def _key_bytes(key: str) -> bytes:
    return sha256(key.encode()).digest()[:16]  # a key as text would take 113 bytes, this takes 49
