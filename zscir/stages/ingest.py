"""ingest: rows of URL lists become pairs of a URL and a text, and a reason for every row that is left out."""

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from zscir.artifacts import Artifact, finished
from zscir.errors import RequestError
from zscir.fetch.lists import Layout, Row, rows_of
from zscir.progress import track
from zscir.records import PAIRS, REJECTS, table_of, table_writer
from zscir.specs import Spec
from zscir.stage import Facts, stage

BATCH_ROWS = 50_000
MAX_URL_CHARS = 8192
DETAIL_CHARS = 200


class IngestSpec(Spec):
    """Where the pairs stand in a URL list, and which of them are wanted."""

    source: str  # a short name of the list; it goes with every pair
    url_column: str = "url"
    text_column: str = "text"
    licence: str | None = None  # of all rows
    licence_column: str | None = None  # of each row, where the list has one
    columns: tuple[str, ...] | None = None  # names of the columns of a CSV or TSV file without a header line
    quoted: bool | None = None  # whether "..." encloses a field; by default in CSV and not in TSV
    min_text_chars: Annotated[int, Field(ge=1)] = 1
    max_text_chars: Annotated[int, Field(ge=1)] = 2000
    limit: Annotated[int, Field(ge=1)] | None = None  # stop after so many pairs

    @model_validator(mode="after")
    def _bounds(self) -> "IngestSpec":
        if self.max_text_chars < self.min_text_chars:
            raise ValueError(
                f"max_text_chars = {self.max_text_chars}, less than min_text_chars = {self.min_text_chars}"
            )
        return self

    def layout(self) -> Layout:
        """The part of this spec that says how the files look."""
        return Layout(self.url_column, self.text_column, self.licence_column, self.columns, self.quoted)


class _Bad(Exception):
    """A row that becomes no pair: a short reason and the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail[:DETAIL_CHARS]


class _Numbered(NamedTuple):
    file: str
    source_row: int  # over all files, from 0
    row: Row


@stage(version=1)
def ingest(spec: IngestSpec, urls: Artifact, out: Path) -> Facts:
    """Read every file of ``urls`` in the order of their names; write pairs.parquet and rejects.parquet.

    A pair is known by its URL and text together: the same URL with another text is another pair. Of equal pairs the
    first is kept; about 100 bytes of memory per pair are needed to know them again.
    """
    reasons: Counter[str] = Counter()
    with (
        finished(out / "pairs.parquet") as pairs,
        finished(out / "rejects.parquet") as rejects,
        table_writer(pairs, PAIRS) as good,
        table_writer(rejects, REJECTS) as bad,
    ):
        for kept, left_out in _batches(spec, urls):
            good.write_table(table_of(kept, PAIRS))
            bad.write_table(table_of(left_out, REJECTS))
            reasons.update(row["reason"] for row in left_out)
            reasons["kept"] += len(kept)
    kept_rows = reasons.pop("kept", 0)
    if not kept_rows:
        raise RequestError(
            f"{spec.source}: no usable pair in {urls.files()[:5]}; left out: {dict(reasons) or 'no row'}"
        )
    return {
        "rows": kept_rows, "rejects": reasons.total(), "files": len(urls.files()),
        "rejects_by_reason": dict(sorted(reasons.items())),
    }  # fmt: skip


def _batches(spec: IngestSpec, urls: Artifact) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """(pairs, rejects) of a bounded number of rows at a time."""
    seen: set[bytes] = set()
    kept: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    for one in track(_rows(spec, urls), None, "ingest (rows)"):
        try:
            kept.append(_pair(spec, one, seen))
        except _Bad as bad:
            place = f"{one.file}#{one.row.number}"
            left_out.append({"stage": "ingest", "id": place, "reason": bad.reason, "detail": bad.detail})
        if len(kept) + len(left_out) >= BATCH_ROWS:
            yield kept, left_out
            kept, left_out = [], []
        if len(seen) == spec.limit:
            break
    yield kept, left_out


def _rows(spec: IngestSpec, urls: Artifact) -> Iterator[_Numbered]:
    source_row = 0
    for name in urls.files():
        for row in rows_of(urls.path(name), name, spec.layout()):
            yield _Numbered(name, source_row, row)
            source_row += 1


def _pair(spec: IngestSpec, one: _Numbered, seen: set[bytes]) -> dict[str, Any]:
    row = one.row
    if row.problem is not None:
        raise _Bad("malformed", _printable(row.problem))
    url, text = _url(row.url), _text(row.text, spec)
    digest = sha256(f"{url}\n{text}".encode()).digest()[:16]
    if digest in seen:
        raise _Bad("duplicate", url)
    seen.add(digest)
    licence = _string(row.licence, "licence") if row.licence is not None else spec.licence
    return {
        "pair_id": digest.hex(), "url": url, "text": text, "source": spec.source,
        "licence": licence or None, "source_row": one.source_row,
    }  # fmt: skip


def _url(value: Any) -> str:
    """The URL without the blanks around it. Raises _Bad: no_url, bad_url."""
    url = _string(value, "URL")
    if not url:
        raise _Bad("no_url", "the field is empty")
    if len(url) > MAX_URL_CHARS or not url.isprintable():
        raise _Bad("bad_url", "too long" if len(url) > MAX_URL_CHARS else f"control characters in {_printable(url)}")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _Bad("bad_url", f"{error}: {url}") from None
    if parts.scheme not in ("http", "https"):
        raise _Bad("not_http", url)
    if not host:
        raise _Bad("bad_url", f"no host: {url}")
    return url


def _text(value: Any, spec: IngestSpec) -> str:
    """The text without the blanks around it. Raises _Bad: no_text, short_text, long_text."""
    text = _string(value, "text")
    if not text:
        raise _Bad("no_text", "the field is empty")
    if len(text) < spec.min_text_chars:
        raise _Bad("short_text", f"{len(text)} of at least {spec.min_text_chars} characters: {text}")
    if len(text) > spec.max_text_chars:
        raise _Bad("long_text", f"{len(text)} of at most {spec.max_text_chars} characters: {text}")
    return text


def _string(value: Any, what: str) -> str:
    """Plain text of a field. Raises _Bad: bad_encoding, malformed."""
    if value is None:
        return ""
    try:
        if isinstance(value, bytes):
            return value.decode().strip()
        if isinstance(value, str):
            value.encode()
            return value.strip()
    except UnicodeError:
        raise _Bad("bad_encoding", f"the {what} is not UTF-8") from None
    raise _Bad("malformed", f"the {what} is a {type(value).__name__}, not text")


def _printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
