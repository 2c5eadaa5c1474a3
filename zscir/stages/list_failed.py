"""list_failed: the records of chunks become lists of the URLs that failed and may pass when they are retried."""

from pathlib import Path

from zscir.data.download.chunks import write_chunks
from zscir.data.download.failures import transient_error_classes
from zscir.data.download.merge_chunks import ChunkRecords, read_retriable_urls
from zscir.data.download.specs import ChunkingSpec
from zscir.pipeline.stage import stage
from zscir.store.artifacts import Artifact, Facts


@stage(version=1)
def list_failed(spec: ChunkingSpec, chunks: list[Artifact], out: Path) -> Facts:
    """Write ``NNNNN.parquet`` (image_key, url, text), one per chunk; none where nothing is worth a retry."""
    records = ChunkRecords(tuple(chunk.path("record.parquet") for chunk in chunks))
    count, urls = write_chunks(read_retriable_urls(records, transient_error_classes(), out), out, spec.chunk_rows)
    return {"rows": urls, "chunks": count}
