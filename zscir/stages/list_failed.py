"""list_failed: what chunks recorded becomes lists of the URLs that failed and may pass when they are asked again."""

from pathlib import Path

from zscir.artifacts import Artifact
from zscir.fetch.assembly import Records, list_again
from zscir.fetch.chunks import write_chunks
from zscir.fetch.failures import transient_classes
from zscir.fetch.specs import CutSpec
from zscir.stage import Facts, stage


@stage(version=1)
def list_failed(spec: CutSpec, chunks: list[Artifact], out: Path) -> Facts:
    """Write ``NNNNN.parquet`` (image_key, url, text), one per chunk; none where nothing is worth asking again."""
    records = Records(tuple(one.path("record.parquet") for one in chunks))
    count, urls = write_chunks(list_again(records, transient_classes(), out), out, spec.chunk_rows)
    return {"rows": urls, "chunks": count}
