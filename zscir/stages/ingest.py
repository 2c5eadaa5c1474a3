"""ingest: rows of URL lists become pairs of a URL and a text, and a reason for every row that is left out."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from zscir.data.readers.json_documents import TableJoin
from zscir.data.readers.pairs import (
    FILE_SCHEME,
    PairError,
    clean_string,
    clean_text,
    clean_url,
    escape_non_ascii,
    pair_digest,
)
from zscir.data.readers.parallel_files import FileRow, rows_by_line, rows_by_name
from zscir.data.readers.url_lists import ListLayout, ListRow, read_list_rows
from zscir.pipeline.stage import stage
from zscir.runtime.errors import RequestError
from zscir.runtime.progress import log_info, track
from zscir.runtime.schemas import PAIRS_SCHEMA, REJECTS_SCHEMA, checked_table, table_writer
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts, atomic_path

INGEST_BATCH_ROWS = 50_000


class JoinSpec(Spec):
    """In a JSON document: to each row that row of the list ``table`` whose ``key`` is what the row has in ``on``."""

    table: str
    on: str
    key: str


class IngestSpec(Spec):
    """Where the pairs stand in a URL list, and which of them are wanted."""

    source: str  # a short name of the list; it goes with every pair
    url_column: str = "url"
    text_column: str = "text"
    licence: str | None = None  # of all rows
    licence_column: str | None = None  # of each row, where the list has one
    columns: tuple[str, ...] | None = None  # of a CSV or TSV file without a header line
    quoted: bool | None = None  # whether "..." encloses a field; by default in CSV and not in TSV
    min_text_chars: Annotated[int, Field(ge=1)] = 1
    max_text_chars: Annotated[int, Field(ge=1)] = 2000
    limit: Annotated[int, Field(ge=1)] | None = None  # stop after so many pairs
    expected_rows: Annotated[int, Field(ge=1)] | None = None  # of the whole list; another number is only reported
    url_prefix: str | None = None  # put before the URL column: http://..., or file: for pictures in a folder
    rows: str | None = None  # the list of rows in a JSON document that holds several
    join: tuple[JoinSpec, ...] | None = None  # other lists of that document, joined to each row one after another
    lines: dict[str, str] | None = None  # column -> name of a text file: the n-th lines of all are the n-th row
    text_suffix: str | None = None  # pictures with a text file beside each: NAME.jpg and NAME + this

    @model_validator(mode="after")
    def _bounds(self) -> "IngestSpec":
        if self.max_text_chars < self.min_text_chars:
            raise ValueError(
                f"max_text_chars = {self.max_text_chars}, less than min_text_chars = {self.min_text_chars}"
            )
        if self.url_prefix is not None and not self.url_prefix.startswith(("http://", "https://", FILE_SCHEME)):
            raise ValueError(f"url_prefix = {self.url_prefix!r} begins with none of http://, https:// and file:")
        if self.join and self.rows is None:
            raise ValueError("join needs rows = NAME: the list of the document whose rows are joined")
        is_local = (self.url_prefix or "").startswith(FILE_SCHEME)
        if self.text_suffix is not None and (self.lines or self.licence_column or not is_local):
            raise ValueError(
                'text_suffix needs url_prefix = "file:...", and goes with neither lines nor licence_column'
            )
        return self

    def layout(self) -> ListLayout:
        """The part of this spec that says how the files look."""
        joins = tuple(TableJoin(join.table, join.on, join.key) for join in self.join or ())
        return ListLayout(
            self.url_column, self.text_column, self.licence_column, self.columns, self.quoted, self.rows, joins
        )


@stage(version=1)
def ingest(spec: IngestSpec, urls: Artifact, out: Path) -> Facts:
    """Read every file of ``urls`` in the order of their names; write pairs.parquet and rejects.parquet.

    A pair is known by its URL and text together: the same URL with another text is another pair. Of equal pairs the
    first is kept; about 100 bytes of memory per pair are needed to know them again. A list of another length than
    ``expected_rows`` is reported in the facts and the log: it may be a part on purpose, or an older edition.
    """
    reasons: Counter[str] = Counter()
    with (
        atomic_path(out / "pairs.parquet") as pairs,
        atomic_path(out / "rejects.parquet") as rejects,
        table_writer(pairs, PAIRS_SCHEMA) as good,
        table_writer(rejects, REJECTS_SCHEMA) as bad,
    ):
        for kept, left_out in _batches(spec, urls):
            good.write_table(checked_table(kept, PAIRS_SCHEMA))
            bad.write_table(checked_table(left_out, REJECTS_SCHEMA))
            reasons.update(row["reason"] for row in left_out)
            reasons["kept"] += len(kept)
    kept_rows = reasons.pop("kept", 0)
    if not kept_rows:
        raise RequestError(
            f"{spec.source}: no usable pair in {urls.files()[:5]}; left out: {dict(reasons) or 'no row'}"
        )
    return {
        "rows": kept_rows,
        "rejects": reasons.total(),
        "files": len(urls.files()),
        "rejects_by_reason": dict(sorted(reasons.items())),
        **_expected_rows_facts(spec, kept_rows + reasons.total()),
    }


def _expected_rows_facts(spec: IngestSpec, rows: int) -> Facts:
    """How far the list is from what its source says; nothing where that is unknown or only a part was read."""
    if spec.expected_rows is None or spec.limit is not None:
        return {}
    if rows == spec.expected_rows:
        return {"expected_rows": rows}
    log_info(
        f"ingest: {spec.source}: the list has {rows:,} rows, its source says {spec.expected_rows:,}: "
        "an incomplete file, a part of it, or another edition? (expected_rows)"
    )
    return {"expected_rows": spec.expected_rows, "rows_off": rows - spec.expected_rows}


def _batches(spec: IngestSpec, urls: Artifact) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """(pairs, rejects) of a bounded number of rows at a time."""
    seen: set[bytes] = set()
    kept: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    for source_row, (file, row) in enumerate(track(_file_rows(spec, urls), None, "ingest (rows)")):
        try:
            kept.append(_pair(spec, source_row, row, seen))
        except PairError as bad:
            place = f"{file}#{row.number}"
            left_out.append({"stage": "ingest", "id": place, "reason": bad.reason, "detail": bad.detail})
        if len(kept) + len(left_out) >= INGEST_BATCH_ROWS:
            yield kept, left_out
            kept, left_out = [], []
        if len(seen) == spec.limit:
            break
    yield kept, left_out


def _file_rows(spec: IngestSpec, urls: Artifact) -> Iterator[FileRow]:
    layout = spec.layout()
    if spec.lines is not None:
        yield from rows_by_line(urls.files(), urls.path, spec.lines, layout.wanted())
    elif spec.text_suffix is not None:
        yield from rows_by_name(urls.files(), urls.path, spec.text_suffix)
    else:
        for name in urls.files():
            yield from (FileRow(name, row) for row in read_list_rows(urls.path(name), name, layout))


def _pair(spec: IngestSpec, source_row: int, row: ListRow, seen: set[bytes]) -> dict[str, Any]:
    """The pairs row of a list row, the ``source_row``-th of all files (from 0). Raises PairError."""
    if row.problem is not None:
        raise PairError("malformed", escape_non_ascii(row.problem))
    url = clean_url(row.url, spec.url_prefix or "")
    text = clean_text(row.text, spec.min_text_chars, spec.max_text_chars)
    digest = pair_digest(url, text)
    if digest in seen:
        raise PairError("duplicate", url)
    seen.add(digest)
    licence = clean_string(row.licence, "licence") if row.licence is not None else spec.licence
    return {
        "pair_id": digest.hex(),
        "url": url,
        "text": text,
        "source": spec.source,
        "licence": licence or None,
        "source_row": source_row,
    }
