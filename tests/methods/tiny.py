"""Tiny models and packs for tests: the real classes at a size that trains in milliseconds."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from zscir.data.images.shards import write_shard
from zscir.methods.protocol import Batch
from zscir.methods.specs import ArchitectureSpec, ModelPixelSpec, TextSpec, VisionSpec
from zscir.methods.tokenizer import CompactTokenizer
from zscir.methods.towers import Towers, open_clip_config
from zscir.store.artifacts import Artifact

PIXELS = ModelPixelSpec(size_px=16, fit="warp")
ARCHITECTURE = ArchitectureSpec(
    embed_dim=16,
    vision=VisionSpec(patch_px=4, width=16, layers=2, head_width=8),
    text=TextSpec(context_length=24, width=16, heads=2, layers=3),
    tokenizer="compact",
)
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 200), "white": (240, 240, 240)}


def towers(seed: int = 0) -> Towers:
    torch.manual_seed(seed)
    tokenizer = CompactTokenizer.of_corpus(["a red blue green white picture"])
    return Towers(open_clip_config(ARCHITECTURE, PIXELS, tokenizer.vocab_size), PIXELS, tokenizer).eval()


@contextmanager
def little_memory(rows: int) -> Iterator[set[type[nn.Module]]]:
    """Within it no tower has room for more than ``rows`` at once; yields the kinds of layer that had to refuse some."""
    refused: set[type[nn.Module]] = set()

    def refuse(module: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d | nn.Embedding) and len(given[0]) > rows:  # the first layers of both towers
            refused.add(type(module))
            raise torch.OutOfMemoryError(f"no room for {len(given[0])}")

    hook = nn.modules.module.register_module_forward_pre_hook(refuse)
    try:
        yield refused
    finally:
        hook.remove()


def pixels(count: int, seed: int = 0, size: int = 16) -> Tensor:
    made = np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    return torch.from_numpy(made)


def batch(count: int = 6, ratio: float = 0.5, epoch: int = 0) -> Batch:
    names = [f"image{number}" for number in range(count)]
    colours = [list(COLOURS)[number % len(COLOURS)] for number in range(count)]
    return Batch(
        seed=3,
        epoch=epoch,
        triplet_ids=names,
        reference_keys=names,
        target_keys=names,
        reference_pixels=pixels(count, 1),
        target_pixels=pixels(count, 2),
        texts=[f"is {colour} number {number}" for number, colour in enumerate(colours)],
        captions=[f"a {colour} picture" for colour in colours],
        mask_seeds=[7] * count,
        mask_ratio=ratio,
    )


def jpeg(colour: str, number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 40, (20, 24, 3))
    stream = io.BytesIO()
    Image.fromarray(np.clip(noise + np.array(COLOURS[colour]) - 20, 0, 255).astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def pack(folder: Path, count: int = 12, ratio: float | None = 0.5, triplets: bool = False) -> Artifact:
    """A pack of pairs (no target of their own) or of triplets, as the stage pack lays it out."""
    folder.mkdir(parents=True)
    members, rows = [], []
    for number in range(count):
        name, before = f"t{number:03d}", list(COLOURS)[number % 4]
        after = list(COLOURS)[(number + 1) % 4]
        members.append((f"{name}.reference.jpg", jpeg(before, number)))
        if triplets:
            members.append((f"{name}.target.jpg", jpeg(after, number + 100)))
        rows.append({
            "triplet_id": name, "shard": "00000.tar", "source": "llm" if triplets else "masked",
            "reference_key": f"r{number}", "target_key": f"g{number}" if triplets else f"r{number}",
            "text": f"is {after}" if triplets else f"a {before} picture",
            "reference_caption": f"a {before} picture" if triplets else None, "target_caption": None,
            "mask_seed": None if triplets else 7, "mask_ratio": None if triplets else ratio,
        })  # fmt: skip
    spans = {span.name: span for span in write_shard(folder / "00000.tar", members)}
    pq.write_table(
        pa.Table.from_pylist([_spanned(row, spans) for row in rows], schema=SCHEMA), folder / "index.parquet"
    )
    return Artifact.of_folder(folder)


def _spanned(row: dict[str, Any], spans: dict[str, Any]) -> dict[str, Any]:
    found = {role: spans.get(f"{row['triplet_id']}.{role}.jpg") for role in ("reference", "target")}
    for role, span in found.items():
        row |= {f"{role}_offset": span.offset if span else None, f"{role}_size": span.size if span else None}
    return row


_STRINGS = (
    "triplet_id",
    "shard",
    "source",
    "reference_key",
    "target_key",
    "text",
    "reference_caption",
    "target_caption",
)
_NUMBERS = ("reference_offset", "reference_size", "target_offset", "target_size", "mask_seed")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _STRINGS),
        *((name, pa.int64()) for name in _NUMBERS),
        ("mask_ratio", pa.float64()),
    ]
)
