"""Look up a run, an artifact, a triplet or an image by its id or the beginning of it."""

import json
from collections.abc import Callable
from typing import Any

from zscir.lineage.deletions import deleted_manifest, last_deletion
from zscir.lineage.heartbeats import run_status
from zscir.lineage.sql_views import query_store_rows
from zscir.runtime.errors import RequestError
from zscir.store.store import NO_ARTIFACT, Store

LookupRows = list[dict[str, Any]]
RefDetails = tuple[str, dict[str, Any], dict[str, LookupRows]]
MIN_PREFIX_CHARS = 6  # characters of a prefix
MAX_CANDIDATES = 20  # rows of a table that are shown


def describe_ref(store: Store, ref: str) -> RefDetails:
    """Title, named values and tables about ``ref``: a run's id, prefix or ``latest``, an artifact's key, a triplet's id
    or an image's key (or a prefix of one, from 6 characters). RequestError when nothing or more than one thing fits.
    """
    if ref == "latest":
        newest = query_store_rows(store, "SELECT run_id FROM run ORDER BY started_at DESC, run_id DESC LIMIT 1")
        if not newest:
            raise RequestError(f"store {store.uri}: no runs yet")
        return _run_details(store, newest[0]["run_id"])
    found = matching_refs(store, ref)
    # A whole id may be the beginning of others.
    exact = [(kind, name) for kind, name in found if name == ref]
    found = exact if len(exact) == 1 else found
    if len(found) == 1:
        kind, name = found[0]
        return DETAILS_BY_KIND[kind](store, name)
    if not found:
        short = f" (give at least {MIN_PREFIX_CHARS} characters)" if len(ref) < MIN_PREFIX_CHARS else ""
        raise RequestError(
            f"store {store.uri}: no run, artifact, triplet or image is called '{ref}'{short}; see `zscir runs`"
        )
    listed = "\n".join(f"  {kind} {name}" for kind, name in found[:10])
    raise RequestError(f"store {store.uri}: '{ref}' may be any of these; give more characters:\n{listed}")


def matching_refs(store: Store, ref: str) -> list[tuple[str, str]]:
    """(kind, full name) of everything whose name is or starts with ``ref``, the first few of each kind."""
    found = [("run", row["name"]) for row in _rows_with_prefix(store, "run", "run_id", ref)] if ref else []
    if len(ref) < MIN_PREFIX_CHARS:
        return found
    keys = {row["name"] for row in _rows_with_prefix(store, "artifacts", "key", ref)}
    keys |= {row["name"] for row in _rows_with_prefix(store, "removed", "key", ref)}
    # Artifacts that no run of this store made, copied here for example, are in no lineage table.
    keys |= {key for _, key in store.list_keys() if key.startswith(ref)}
    found += [("artifact", key) for key in sorted(keys)]
    found += [("triplet", row["name"]) for row in _rows_with_prefix(store, "triplets", "triplet_id", ref)]
    return found + [("image", row["name"]) for row in _rows_with_prefix(store, "images", "image_key", ref)]


def _rows_with_prefix(store: Store, table: str, column: str, ref: str) -> LookupRows:
    query = f"SELECT DISTINCT {column} AS name FROM {table} WHERE starts_with({column}, $1) ORDER BY 1 LIMIT 5"  # noqa: S608 - our own names
    return query_store_rows(store, query, [ref])


def _run_details(store: Store, run_id: str) -> RefDetails:
    values = query_store_rows(store, "SELECT * EXCLUDE (packages) FROM run WHERE run_id = $1", [run_id])[0]
    values["status"] = run_status(store, values)
    query = """
        SELECT step, stages.stage, outcome, reason, stages.key, wall_s, peak_rss_bytes, rows, bytes, error
        FROM stages LEFT JOIN artifacts USING (key) WHERE run_id = $1 ORDER BY started_at
    """
    return f"run {run_id}", values, {"steps": query_store_rows(store, query, [run_id])}


def _artifact_details(store: Store, key: str) -> RefDetails:
    known = query_store_rows(store, "SELECT * FROM artifacts WHERE key = $1 ORDER BY created_at DESC LIMIT 1", [key])
    removal = last_deletion(store, key)
    values = known[0] if known else {"key": key, "stage": _stage_of(store, key, removal)}
    values["facts"] = json.loads(values.get("facts") or "{}")
    found = store.lookup(str(values["stage"]), key)
    values["state"] = "whole" if found.artifact else found.problem
    manifest = found.artifact.manifest if found.artifact is not None else None
    if removal is not None and found.problem == NO_ARTIFACT:
        values["state"] = (
            f"removed {removal['removed_at']:%Y-%m-%d %H:%M:%S} UTC by {removal['removed_by']}: {removal['why']}"
        )
        manifest = deleted_manifest(removal)
    tables: dict[str, LookupRows] = {}
    if manifest is not None:
        values |= {"digest": manifest.digest, "facts": manifest.facts, "spec": manifest.spec}
        tables["inputs"] = [
            {"role": role, "stage": entry.stage, "key": entry.key} for role, entry in manifest.inputs.items()
        ]
        tables["files"] = [
            {"file": entry.path, "bytes": entry.size, "sha256": entry.sha256}
            for entry in manifest.files[:MAX_CANDIDATES]
        ]
    readers = "SELECT stage, child_key AS key, role FROM edges JOIN artifacts ON key = child_key WHERE parent_key = $1"
    tables["read by"] = query_store_rows(store, f"{readers} ORDER BY ALL", [key])
    tables["runs"] = query_store_rows(
        store, "SELECT run_id, step, outcome FROM stages WHERE key = $1 ORDER BY started_at", [key]
    )
    return f"artifact {values['stage']}/{key}", values, tables


def _stage_of(store: Store, key: str, removal: dict[str, Any] | None) -> str:
    stages = [stage for stage, found in store.list_keys() if found == key]
    return stages[0] if stages or removal is None else str(removal["stage"])


def _triplet_details(store: Store, triplet_id: str) -> RefDetails:
    found = query_store_rows(store, "SELECT * FROM triplets WHERE triplet_id = $1", [triplet_id])
    values = {name: value for name, value in found[0].items() if name != "artifact_key"}
    query = """
        SELECT DISTINCT image_key, url, text, status, width, height, shard
        FROM images WHERE image_key = $1 ORDER BY ALL LIMIT 5
    """
    images = [
        {"role": role, **row}
        for role in ("reference", "target")
        for row in query_store_rows(store, query, [values[f"{role}_key"]])
    ]
    tables = {"images": images, "artifacts": [{"key": key} for key in sorted({row["artifact_key"] for row in found})]}
    if values["response_id"] is not None:
        query = "SELECT DISTINCT * EXCLUDE (artifact_key) FROM responses WHERE response_id = $1"
        tables["response"] = query_store_rows(store, query, [values["response_id"]])
    return f"triplet {triplet_id}", values, tables


def _image_details(store: Store, image_key: str) -> RefDetails:
    found = query_store_rows(store, "SELECT * FROM images WHERE image_key = $1 ORDER BY ALL", [image_key])
    own = ("pair_id", "text", "artifact_key")
    values = {name: value for name, value in found[0].items() if name not in own}
    pairs = [{column: row[column] for column in own} for row in found[:MAX_CANDIDATES]]
    query = """
        SELECT DISTINCT triplet_id, source, reference_key = $1 AS reference, target_key = $1 AS target, text
        FROM triplets WHERE reference_key = $1 OR target_key = $1 ORDER BY ALL LIMIT $2
    """
    return (
        f"image {image_key}",
        values,
        {"pairs": pairs, "triplets": query_store_rows(store, query, [image_key, MAX_CANDIDATES])},
    )


DETAILS_BY_KIND: dict[str, Callable[[Store, str], RefDetails]] = {
    "run": _run_details,
    "artifact": _artifact_details,
    "triplet": _triplet_details,
    "image": _image_details,
}
