"""Small benchmarks in the official formats whose images are coloured noise, and tiny checkpoints to ask them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.methods import tiny
from zscir.data.images.shards import write_shard
from zscir.evaluation.benchmark_images import BENCHMARK_IMAGES
from zscir.methods.build import new_method, origin_of
from zscir.methods.checkpoint import save_checkpoint
from zscir.methods.specs import ClipSpec, PliSpec, TscirMapSpec
from zscir.runtime.schemas import write_table
from zscir.store.artifacts import Artifact

WORDS = ("is red", "is blue and white", "a green picture", "is white")
MAPPING = TscirMapSpec(word_hidden=16, inject_width=16, inject_heads=2, sites=(0, 1))


def picture(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, 3) // 2 + rng.integers(0, 128, (24 + seed % 9, 40, 3))
    stream = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def benchmarks(folder: Path, seed: int = 0, loose: bool = False) -> Path:
    """All four benchmarks with 8 or 9 images each (FashionIQ: per category)."""
    _fashioniq(folder / "fashioniq", seed, loose)
    _cirr(folder / "cirr", seed, loose)
    _circo(folder / "circo", seed, loose)
    _genecis(folder / "genecis", seed, loose)
    return folder


def _fashioniq(root: Path, seed: int, loose: bool) -> None:
    images = {}
    for number, category in enumerate(("dress", "shirt", "toptee")):
        ids = [f"B{number}{i}" for i in range(8)]
        images |= {one: (f"{one}.png", picture(seed + 100 * number + i)) for i, one in enumerate(ids)}
        entries = [
            {"candidate": ids[i], "target": ids[i + 1], "captions": [WORDS[i], WORDS[(i + 1) % 4]]} for i in range(4)
        ]
        write_json(root / f"captions/cap.{category}.val.json", entries)
        write_json(root / f"image_splits/split.{category}.val.json", ids)
    write_images(root, images, loose)


def _cirr(root: Path, seed: int, loose: bool) -> None:
    ids = [f"dev-{i}" for i in range(9)]
    members = {"img_set": {"id": 1, "members": ids[:6]}}
    entries = [
        {"pairid": 10 + i, "reference": ids[i], "target_hard": ids[i + 1], "caption": WORDS[i], **members}
        for i in range(4)
    ]
    for split in ("val", "test1"):
        hidden = [{key: value for key, value in one.items() if key != "target_hard"} for one in entries]
        write_json(root / f"captions/cap.rc2.{split}.json", entries if split == "val" else hidden)
        write_json(root / f"image_splits/split.rc2.{split}.json", {one: f"./dev/{one}.png" for one in ids})
    write_images(root, {one: (f"{one}.png", picture(seed + 400 + i)) for i, one in enumerate(ids)}, loose)


def _circo(root: Path, seed: int, loose: bool) -> None:
    ids = [50 - i for i in range(9)]
    entries = [
        {
            "id": i, "reference_img_id": ids[i], "target_img_id": ids[i + 1], "gt_img_ids": ids[i + 1 : i + 3],
            "relative_caption": WORDS[i], "shared_concept": "a picture", "semantic_aspects": ["negation"],
        }
        for i in range(4)
    ]  # fmt: skip
    write_json(root / "annotations/val.json", entries)
    write_json(root / "annotations/test.json", [{k: v for k, v in one.items() if "gt" not in k} for one in entries])
    write_json(root / "image_info.json", {"images": [{"id": one, "file_name": f"{one:012d}.jpg"} for one in ids]})
    write_images(root, {str(one): (f"{one:012d}.png", picture(seed + 500 + i)) for i, one in enumerate(ids)}, loose)


def _genecis(root: Path, seed: int, loose: bool) -> None:
    regions = [{"image_id": str(i), "instance_bbox": [2 + i, 3, 9, 7]} for i in range(5)]
    whole = [{"val_image_id": i} for i in range(5)]  # the same numbers, other images
    for task in ("focus_attribute", "change_attribute", "focus_object", "change_object"):
        items = regions if "attribute" in task else whole
        entries = [
            {"condition": WORDS[i], "reference": items[i], "target": items[i + 1], "gallery": [items[4 - i], items[i]]}
            for i in range(3)
        ]
        write_json(root / f"{task}.json", entries)
    images = {f"vg/{i}.jpg": (f"vg/{i}.jpg", picture(seed + 600 + i)) for i in range(5)}
    images |= {f"coco/{i}.jpg": (f"coco/{i:012d}.jpg", picture(seed + 700 + i)) for i in range(5)}
    write_images(root, images, loose)


def write_images(root: Path, images: dict[str, tuple[str, bytes]], loose: bool) -> None:
    if loose:
        for member, data in images.values():
            (root / "images" / member).parent.mkdir(parents=True, exist_ok=True)
            (root / "images" / member).write_bytes(data)
        return
    spans = write_shard(root / "images.tar", images.values())
    rows = [
        {"image_id": Path(one).stem, "member": span.name, "offset": span.offset, "size": span.size}
        for one, span in zip(images, spans, strict=True)
    ]
    write_table(root / "images.parquet", BENCHMARK_IMAGES, rows)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def clip_checkpoint(folder: Path, seed: int = 0) -> Artifact:
    spec = ClipSpec(architecture=tiny.ARCHITECTURE, pixels=tiny.PIXELS)
    return _saved(
        folder, new_method(spec, seed, None, None, ["a photo of * that is red blue green white and picture ,"])
    )


def pli_checkpoint(folder: Path, backbone: Artifact) -> Artifact:
    return _saved(folder, new_method(PliSpec(), 0, backbone, None, []))


def mapping_checkpoint(folder: Path, backbone: Artifact) -> Artifact:
    method = new_method(MAPPING, 1, backbone, None, [])
    return _saved(folder, method, origin_of(MAPPING, backbone, None))


def _saved(folder: Path, method: Any, more: dict[str, Any] | None = None) -> Artifact:
    folder.mkdir(parents=True)
    save_checkpoint(method.eval(), folder, extra_config=more)
    return Artifact.of_folder(folder)
