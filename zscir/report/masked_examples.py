"""Contact sheets of masked triplets: the patches that the model sees, drawn from each row's seed and ratio."""

import json
from typing import Any

import pyarrow.compute as pc

from zscir.data.images.decode import BadImage
from zscir.methods.registry import METHODS
from zscir.methods.specs import ModelPixelSpec
from zscir.report.artifact_reader import spread_rows
from zscir.report.contact_sheet import Card, ContactSheet, FramedPicture, divide_cards
from zscir.report.formatting import shorten_text
from zscir.report.run_data import RunRecord
from zscir.report.thumbnails import PatchGrid, enlarge_to_thumbnail, masked_thumbnail, missing_thumbnail, model_square
from zscir.report.triplet_examples import images_of_ancestors
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact

MAX_MASKED = 8
EPOCHS = 2
FALLBACK = PatchGrid(ModelPixelSpec(), 32)
HAS_MASK = pc.is_valid(pc.field("mask_seed")) & pc.is_valid(pc.field("mask_ratio"))


def masked_sheets(record: RunRecord) -> list[ContactSheet]:
    """For each ``mask_triplets`` of the run: the patches that training keeps in two epochs, and the whole image."""
    made = record.steps_with_artifact("mask_triplets")
    patches, origin = patches_of(record) if made else (FALLBACK, "")
    sheets = []
    for (step, artifact), count in divide_cards(made, MAX_MASKED):
        rows = spread_rows(artifact, "triplets.parquet", count, HAS_MASK)
        images = images_of_ancestors(record, artifact, rows)
        cards = tuple(_card(images.data(row["reference_key"]), row, patches) for row in rows)
        ratios = ", ".join(f"{ratio:.0%}" for ratio in sorted({row["mask_ratio"] for row in rows}))
        sheets.append(ContactSheet("masked", f"Masked triplets ({step.name})", _about(patches, origin, ratios), cards))
    return sheets


def _about(patches: PatchGrid, origin: str, ratios: str) -> str:
    return (
        f"{origin}: {patches.grid} x {patches.grid} patches of {patches.patch_px} px, {ratios} of them dropped "
        "(striped) and drawn anew in each epoch. The model learns to find the whole image "
        "from what is left and the caption."
    )


def patches_of(record: RunRecord) -> tuple[PatchGrid, str]:
    """The patch grid of this run's masked-tuned model (else of any model of it), and words for which model it is."""
    found = [(step.name, *_read_patches(artifact)) for step, artifact in record.steps_with_artifact("train")]
    readable = [(not _masks_patches(method), name, patches) for name, method, patches in found if patches is not None]
    if not readable:
        return FALLBACK, "No training of this run has read them yet; on the grid of a ViT-B/32"
    _, name, patches = min(readable, key=lambda choice: choice[0])
    return patches, f"As step {name} sees them"


def _masks_patches(method: str) -> bool:
    return method in METHODS and METHODS[method].masks_patches


def _read_patches(checkpoint: Artifact) -> tuple[str, PatchGrid | None]:
    """The method of a checkpoint and its patch grid; None where its ``config.json`` is not of this version's form."""
    try:
        config = json.loads(checkpoint.path("config.json").read_text(encoding="utf-8"))
        pixels = ModelPixelSpec.parse(config["pixels"], "config.json")
        patch_px = int(config["architecture"]["vision_cfg"]["patch_size"])
        fits = patch_px > 0 and pixels.size_px % patch_px == 0
        return str(config["method"]["name"]), PatchGrid(pixels, patch_px) if fits else None
    except (RequestError, ValueError, KeyError, TypeError):
        return "", None


def _card(data: bytes | None, row: dict[str, Any], patches: PatchGrid) -> Card:
    text = shorten_text(row["text"])
    try:
        if data is None:
            raise BadImage("not in the store", row["reference_key"])
        whole = model_square(data, patches.pixels)
    except BadImage as error:
        return Card((FramedPicture(missing_thumbnail(text, error.reason)),), text)
    shown = []
    for epoch in range(EPOCHS):
        label = f"epoch {epoch + 1}"
        draw = (row["mask_seed"], epoch, row["reference_key"])
        shown.append(
            FramedPicture(masked_thumbnail(whole, patches, draw, row["mask_ratio"], f"{label}: {text}"), label)
        )
    return Card((*shown, FramedPicture(enlarge_to_thumbnail(whole, f"whole: {text}"), "target", "reference")), text)
