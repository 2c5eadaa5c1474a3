"""fetch_chunk: a list of URLs becomes JPEGs in a byte-stable tar, and one row per URL says what happened.

img2dataset does the work, in processes of its own. It sees only a gateway on loopback, which fetches and validates each
URL within its bounds (zscir/data/download). What img2dataset writes is repacked, read back and checked.
"""

import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from zscir.data.download.chunks import ChunkUrl, read_chunk
from zscir.data.download.merge_chunks import RECORD_SCHEMA
from zscir.data.download.specs import ChunkSpec
from zscir.pipeline.stage import stage
from zscir.runtime.errors import StageError
from zscir.runtime.progress import log_info
from zscir.runtime.schemas import read_table
from zscir.store.artifacts import Artifact, Facts, atomic_path

# aiohttp and OpenCV are imported where a chunk is fetched: to reuse one takes this module's version only.
if TYPE_CHECKING:
    from zscir.data.download.gateway import Gateway

SCRATCH_FOLDER = ".scratch"
IMG2DATASET_ATTEMPTS = 3
STALL_S = 90.0  # without progress, beyond a URL's deadline: img2dataset may need a minute to start on a busy machine


@stage(version=1)
def fetch_chunk(spec: ChunkSpec, urls: Artifact, out: Path) -> Facts:
    """Write images.tar (none when no image came) and record.parquet. Raises StageError when img2dataset fails."""
    from zscir.data.download.shared_gateway import shared_gateway

    targets = read_chunk(urls.path("urls.parquet"))
    try:
        with shared_gateway(spec) as gateway:
            _fetch(spec, targets, gateway, out)
    finally:
        shutil.rmtree(out / SCRATCH_FOLDER, ignore_errors=True)
    classes = Counter(read_table(out / "record.parquet", RECORD_SCHEMA).column("error_class").to_pylist())
    ok = classes.pop(None, 0)
    return {"rows": len(targets), "ok": ok, "failed_by_class": dict(sorted(classes.items()))}


def _fetch(spec: ChunkSpec, targets: tuple[ChunkUrl, ...], gateway: "Gateway", out: Path) -> None:
    problem = ""
    for attempt in range(1, IMG2DATASET_ATTEMPTS + 1):
        problem = _attempt(spec, targets, gateway, out)
        if not problem:
            return
        # One of these images may have crashed it: from now on each is decoded in a sandbox first.
        gateway.distrust(target.url for target in targets)
        log_info(f"fetch_chunk: attempt {attempt} of {IMG2DATASET_ATTEMPTS}: {problem}")
    raise StageError(
        f"img2dataset could not finish these {len(targets)} URLs in {IMG2DATASET_ATTEMPTS} attempts: {problem}"
    )


def _attempt(spec: ChunkSpec, targets: tuple[ChunkUrl, ...], gateway: "Gateway", out: Path) -> str:
    """Run img2dataset once; why that failed, or nothing."""
    from zscir.data.download.img2dataset_job import Img2datasetJob, download_raw_shards
    from zscir.data.download.repack import repack
    from zscir.data.images.shards import BadShard

    scratch = out / SCRATCH_FOLDER
    shutil.rmtree(scratch, ignore_errors=True)
    keys = [target.image_key for target in targets]
    # img2dataset cannot number the images of shards of one row.
    job = Img2datasetJob(scratch / "urls.parquet", scratch / "raw", max(2, len(targets)), 1, spec.img2dataset_options())
    gateway.expect({target.image_key: target.url for target in targets})
    try:
        with atomic_path(job.urls) as part:
            pq.write_table(pa.table({"url": [f"http://127.0.0.1:{gateway.port}/{key}" for key in keys]}), part)
        for _ in download_raw_shards(job, lambda: gateway.last_progress_at, STALL_S + spec.deadline_s):
            repack(job.folder / "00000.tar", targets, gateway.outcome, out)
            return ""
    except BadShard as error:
        return str(error)
    finally:
        gateway.forget(keys)
    return "it ended without a result"
