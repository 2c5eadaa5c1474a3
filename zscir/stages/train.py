"""train: a pack of triplets, a spec and its starting points become a checkpoint and its training curve."""

from pathlib import Path

from zscir.pipeline.stage import stage
from zscir.store.artifacts import Artifact, Facts
from zscir.training.specs import TrainSpec


@stage(version=1)
def train(
    spec: TrainSpec, data: Artifact, out: Path, backbone: Artifact | None = None, init: Artifact | None = None
) -> Facts:
    """Write ``model.safetensors``, ``config.json``, ``curve.parquet`` (and ``vocab.json`` of a compact tokenizer).

    ``data`` is a pack: masked or plain pairs for clip, pli and tscir_map, triplets for tscir_compose. ``backbone`` is
    the clip checkpoint to start from or to keep frozen; ``init`` the mapping that tscir_compose continues.
    """
    from zscir.training.job import TrainJob
    from zscir.training.launch import resolve_rank_count, train_on_ranks

    job = TrainJob(spec, out, data, backbone, init)
    # From ZSCIR_RANKS, not from the spec: the machine decides it, and it enters no key.
    count = resolve_rank_count(spec.batch_size)
    return job.run() if count == 1 else train_on_ranks(count, job)
