"""Masked triplets: rows with a seed and a ratio become cards of the patches that the model is given to see."""

import json
from typing import Any

import pyarrow.compute as pc

from zscir.data.images.decode import BadImage
from zscir.methods.specs import PixelSpec
from zscir.report.artifact_reader import spread_rows
from zscir.report.contact_sheet import Card, Framed, Sheet, shared
from zscir.report.formatting import cut
from zscir.report.run_data import RunRecord
from zscir.report.thumbnails import Patches, enlarged, masked, missing, squared
from zscir.report.triplet_examples import images_above
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact

MAX_MASKED = 8
EPOCHS = 2
FALLBACK = Patches(PixelSpec(), 32)
HAS_MASK = pc.is_valid(pc.field("mask_seed")) & pc.is_valid(pc.field("mask_ratio"))


def masked_sheets(record: RunRecord) -> list[Sheet]:
    """For each ``mask_triplets`` of the run: the patches that training keeps in two epochs, and the whole image."""
    made = record.made_by("mask_triplets")
    patches, origin = patches_of(record) if made else (FALLBACK, "")
    sheets = []
    for (step, artifact), count in shared(made, MAX_MASKED):
        rows = spread_rows(artifact, "triplets.parquet", count, HAS_MASK)
        images = images_above(record, artifact, rows)
        cards = tuple(_card(images.data(row["reference_key"]), row, patches) for row in rows)
        ratios = ", ".join(f"{ratio:.0%}" for ratio in sorted({row["mask_ratio"] for row in rows}))
        sheets.append(Sheet("masked", f"Masked triplets ({step.name})", _about(patches, origin, ratios), cards))
    return sheets


def _about(patches: Patches, origin: str, ratios: str) -> str:
    return (
        f"{origin}: {patches.grid} x {patches.grid} patches of {patches.patch_px} px, {ratios} of them dropped "
        "(striped) and drawn anew in each epoch. The model learns to find the whole image "
        "from what is left and the caption."
    )


def patches_of(record: RunRecord) -> tuple[Patches, str]:
    """How the masked-tuned model of this run (else any model of it) cuts images up, and words for which it is."""
    found = [(step.name, *_read_patches(artifact)) for step, artifact in record.made_by("train")]
    readable = [(method != "pli", name, patches) for name, method, patches in found if patches is not None]
    if not readable:
        return FALLBACK, "No training of this run has read them yet; on the grid of a ViT-B/32"
    _, name, patches = min(readable, key=lambda one: one[0])
    return patches, f"As step {name} sees them"


def _read_patches(checkpoint: Artifact) -> tuple[str, Patches | None]:
    """The method of a checkpoint and how it cuts images up; None when it does not say so as this version would."""
    try:
        config = json.loads(checkpoint.path("config.json").read_text(encoding="utf-8"))
        pixels = PixelSpec.parse(config["pixels"], "config.json")
        patch_px = int(config["architecture"]["vision_cfg"]["patch_size"])
        fits = patch_px > 0 and pixels.size_px % patch_px == 0
        return str(config["method"]["name"]), Patches(pixels, patch_px) if fits else None
    except (RequestError, ValueError, KeyError, TypeError):
        return "", None


def _card(data: bytes | None, row: dict[str, Any], patches: Patches) -> Card:
    text = cut(row["text"])
    try:
        if data is None:
            raise BadImage("not in the store", row["reference_key"])
        whole = squared(data, patches.pixels)
    except BadImage as error:
        return Card((Framed(missing(text, error.reason)),), text)
    shown = []
    for epoch in range(EPOCHS):
        label = f"epoch {epoch + 1}"
        draw = (row["mask_seed"], epoch, row["reference_key"])
        shown.append(Framed(masked(whole, patches, draw, row["mask_ratio"], f"{label}: {text}"), label))
    return Card((*shown, Framed(enlarged(whole, f"whole: {text}"), "target", "reference")), text)
