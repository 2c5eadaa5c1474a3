"""download: the URLs of pairs become JPEGs in byte-stable WebDataset shards, and one row per pair says what happened.

Each chunk of URLs is an artifact of its own (fetch_chunk), made by any worker; this one shares its tar, uncopied.
"""

from pathlib import Path

from zscir.data.download.merge_chunks import (
    ChunkRecords,
    download_facts,
    merge_records,
    write_download_rejects,
    write_host_counts,
)
from zscir.data.download.specs import ChunkingSpec, DownloadSpec
from zscir.pipeline.stage import Chunk, ChunkRounds, stage, stage_named
from zscir.runtime.errors import GateError
from zscir.store.artifacts import Artifact, Facts


def split_into_chunks(spec: DownloadSpec, pairs: Artifact) -> ChunkRounds:
    """The plan, a chunk per list of URLs, then ``patch_rounds`` times chunks that retry what failed and may pass."""
    lists = ChunkingSpec(chunk_rows=spec.chunk_rows)
    [plan] = yield [Chunk("plan", stage_named("plan_download"), lists, {"pairs": pairs})]
    chunks = yield _chunks(spec, plan, None)
    # Rounds come one after another: what is worth a retry is known when the round before has ended.
    for patch_round in range(1, (spec.patch_rounds or 0) + 1):
        [failed] = yield [Chunk(f"patch {patch_round}", stage_named("list_failed"), lists, {"chunks": chunks})]
        chunks = [*chunks, *(yield _chunks(spec, failed, patch_round))]
    return chunks


def _chunks(spec: DownloadSpec, lists: Artifact, patch_round: int | None) -> list[Chunk]:
    fetch, chunk_spec = stage_named("fetch_chunk"), spec.chunk_spec(patch_round)
    names = {name: name.removesuffix(".parquet") for name in lists.files(".parquet")}
    # Names must differ within a round only; the prefix shows a reader of the record which round a chunk belongs to.
    before = "" if patch_round is None else f"patch {patch_round} "
    return [
        Chunk(f"{before}{short}", fetch, chunk_spec, {"urls": lists.single_file(name, "urls.parquet")})
        for name, short in names.items()
    ]


@stage(
    version=1,
    split=split_into_chunks,
    chunk_stages=("plan_download", "fetch_chunk", "list_failed"),
    shared_suffix=".tar",
)
def download(spec: DownloadSpec, pairs: Artifact, chunks: list[Artifact], out: Path) -> Facts:
    """Join the chunks: images.parquet, rejects.parquet, hosts.parquet. Raises GateError below ``min_success_rate``."""
    merge_records(
        pairs.path("pairs.parquet"),
        ChunkRecords(tuple(chunk.path("record.parquet") for chunk in chunks)),
        out / "images.parquet",
    )
    write_download_rejects(out / "images.parquet", out / "rejects.parquet")
    write_host_counts(out / "images.parquet", out / "hosts.parquet")
    facts = download_facts(out / "images.parquet") | {"chunks": len(chunks)}
    rate = facts["success_rate"]
    # Here and not only as a gate of the step: below this rate there is no artifact that a later run could reuse.
    if spec.min_success_rate is not None and (rate is None or rate < spec.min_success_rate):
        raise GateError(_gate_message(spec.min_success_rate, facts))
    return facts


def _gate_message(min_rate: float, facts: Facts) -> str:
    worst = sorted(facts["failed_by_class"].items(), key=lambda item: (-item[1], item[0]))[:5]
    classes = ", ".join(f"{name} {count:,}" for name, count in worst) or "none"
    return (
        f"{facts['ok']:,} of {facts['rows']:,} URLs gave an image: a rate of {facts['success_rate'] or 0:.4f}, below "
        f"min_success_rate = {min_rate:g}; what failed: {classes}. Every chunk is kept: retry what failed with "
        f"a higher download.patch_rounds, or accept the rate with a lower download.min_success_rate"
    )
