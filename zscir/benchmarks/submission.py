"""Write the JSON files that the CIRR and CIRCO servers take; they are checked first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zscir.benchmarks.files import coco_id, shortened
from zscir.benchmarks.query import Query
from zscir.runtime.errors import RequestError

MAX_SUBMISSION_BYTES = 5_000_000  # CIRR's server; CIRCO's files are far smaller
CIRR_LENGTHS = {"recall": 50, "recall_subset": 3}
CIRCO_LENGTH = 50
RankedLists = Sequence[Sequence[str]]


def cirr_files(
    split: str, queries: Sequence[Query], gallery: Sequence[str], recall: RankedLists, subset: RankedLists
) -> dict[str, dict[str, Any]]:
    """The two files of the CIRR server: 50 names per query from the whole gallery, 3 from the query's image set."""
    files = {}
    for metric, lists in (("recall", recall), ("recall_subset", subset)):
        ranked = {query.query_id: list(names) for query, names in zip(queries, lists, strict=True)}
        content = {"version": "rc2", "metric": metric, **ranked}
        check_cirr(content, queries, gallery)
        files[f"cirr_{split}_{metric}.json"] = content
    return files


def circo_files(
    split: str, queries: Sequence[Query], gallery: Sequence[str], lists: RankedLists
) -> dict[str, dict[str, Any]]:
    """The one file of the CIRCO server: 50 image ids per query, as integers."""
    content = {query.query_id: [int(name) for name in names] for query, names in zip(queries, lists, strict=True)}
    check_circo(content, queries, gallery)
    return {f"circo_{split}.json": content}


def check_cirr(content: Mapping[str, Any], queries: Sequence[Query], gallery: Sequence[str]) -> None:
    """RequestError unless the CIRR server would accept it: header, all pair ids, distinct names, no reference."""
    metric = content.get("metric")
    if content.get("version") != "rc2" or metric not in CIRR_LENGTHS:
        raise RequestError(
            f"CIRR submission: version {content.get('version')!r} and metric {metric!r} are not rc2 and recall*"
        )
    where = f"CIRR submission ({metric})"
    lists = {key: value for key, value in content.items() if key not in ("version", "metric")}
    named = check_keys(lists, [query.query_id for query in queries], where, _name)
    for query in queries:
        allowed = set(query.subset) if metric == "recall_subset" else set(gallery) - {query.reference}
        length = min(CIRR_LENGTHS[metric], len(allowed))
        _check_list(named[query.query_id], allowed, length, f"{where}: query {query.query_id}")
    check_size(content, where)


def check_circo(content: Mapping[str, Any], queries: Sequence[Query], gallery: Sequence[str]) -> None:
    """RequestError unless the CIRCO server would take ``content``: all query ids, 50 distinct gallery ids each.

    The server ranks the whole gallery, so a reference may be listed, unless our own protocol takes it out.
    """
    where = "CIRCO submission"
    named = check_keys(content, [query.query_id for query in queries], where, coco_id)
    known = set(gallery)
    for query in queries:
        allowed = known - set(query.exclude) if query.exclude else known
        _check_list(named[query.query_id], allowed, min(CIRCO_LENGTH, len(allowed)), f"{where}: query {query.query_id}")
    check_size(content, where)


def check_keys(
    lists: Mapping[Any, Sequence[Any]], query_ids: Sequence[str], where: str, as_id: Callable[[Any], str]
) -> dict[str, list[str]]:
    """The lists by query id, their items as ids; RequestError unless every query has one list of distinct images."""
    named = {}
    for key, value in lists.items():
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise RequestError(f"{where}: what stands for query {key} is {value!r:.60}, expected a list of images")
        try:
            named[str(key)] = [as_id(item) for item in value]
        except RequestError as error:
            raise RequestError(f"{where}: the list of query {key}: {error}") from None
    missing = [query_id for query_id in query_ids if query_id not in named]
    unknown = sorted(named.keys() - set(query_ids))
    if missing or unknown or len(named) != len(lists):
        raise RequestError(
            f"{where}: {len(missing)} queries have no list ({shortened(missing)}), "
            f"{len(unknown)} lists have no query ({shortened(unknown)}); expected one for each of {len(query_ids)}"
        )
    for query_id, items in named.items():
        if len(set(items)) != len(items):
            twice = sorted({item for item in items if items.count(item) > 1})
            raise RequestError(f"{where}: the list of query {query_id} names images twice: {shortened(twice)}")
    return named


def check_size(content: Mapping[str, Any], where: str) -> None:
    """RequestError when the file would be larger than the server takes."""
    size = len(submission_text(content).encode())
    if size >= MAX_SUBMISSION_BYTES:
        raise RequestError(f"{where}: {size:,} bytes; the server takes less than {MAX_SUBMISSION_BYTES:,}")


def submission_text(content: Mapping[str, Any]) -> str:
    """The bytes-stable text of a submission file (keys sorted, as the public code dumps it)."""
    return json.dumps(content, sort_keys=True)


def write_submission(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Write checked submission files into ``folder`` and return their paths: all of them, or none."""
    for name, content in files.items():
        check_size(content, name)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        part = folder / f"{name}.part"
        part.write_text(submission_text(content), encoding="utf-8")
        part.replace(folder / name)
    return [folder / name for name in files]


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{value!r:.60} is not an image's name")
    return value


def _check_list(items: Sequence[str], allowed: set[str], length: int, where: str) -> None:
    not_allowed = [item for item in items if item not in allowed]
    if not_allowed:
        raise RequestError(f"{where}: names that may not stand there: {shortened(not_allowed)} (unknown, or reference)")
    if len(items) != length:
        raise RequestError(f"{where}: {len(items)} names, expected {length}")
