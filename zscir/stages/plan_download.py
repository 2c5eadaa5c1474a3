"""plan_download: pairs become lists of distinct URLs, one per chunk, split so that a changed row moves one chunk."""

from pathlib import Path

from zscir.data.download.chunks import distinct_urls, write_chunks
from zscir.data.download.specs import ChunkingSpec
from zscir.pipeline.stage import stage
from zscir.store.artifacts import Artifact, Facts


@stage(version=1)
def plan_download(spec: ChunkingSpec, pairs: Artifact, out: Path) -> Facts:
    """Write ``NNNNN.parquet`` (image_key, url, text), one per chunk."""
    chunks, urls = write_chunks(distinct_urls(pairs.path("pairs.parquet"), out), out, spec.chunk_rows)
    return {"rows": urls, "chunks": chunks}
