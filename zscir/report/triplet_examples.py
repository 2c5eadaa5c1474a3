"""Contact sheets of image-text pairs and synthesised triplets."""

from zscir.report.artifact_reader import TableRows, spread_rows
from zscir.report.contact_sheet import Card, ContactSheet, FramedPicture, divide_cards
from zscir.report.formatting import shorten_text
from zscir.report.run_data import RunRecord
from zscir.report.thumbnails import (
    StoredImages,
    make_thumbnail,
    missing_thumbnail,
    read_shard_member,
    sample_downloaded_rows,
)
from zscir.store.artifacts import Artifact

MAX_PAIRS, MAX_TRIPLETS = 18, 12
IMAGE_SOURCE_STAGES = ("download", "import_images", "import_shards")  # the stages that bring pictures into the store
PAIRS_ABOUT = "Downloaded images and their captions, spread evenly over the list."
TRIPLETS_ABOUT = (
    "Two similar pictures and the change from the first to the second in words, written from their captions."
)


def pair_sheets(record: RunRecord) -> list[ContactSheet]:
    """A sheet of pictures and their captions for each ``download`` or import of the run."""
    sources = [artifact for stage in IMAGE_SOURCE_STAGES for artifact in record.artifacts_of(stage)]
    return [_pair_sheet(source, count) for source, count in divide_cards(sources, MAX_PAIRS)]


def _pair_sheet(source: Artifact, count: int) -> ContactSheet:
    cards = []
    for row in sample_downloaded_rows(source, count):
        alt = f"picture for the caption: {shorten_text(row['text'], 120)}"
        data = read_shard_member(source, row["shard"] or "", row["offset"] or 0, row["size"] or 0)
        picture = missing_thumbnail(alt, "not in the shard") if data is None else make_thumbnail(data, alt)
        original = f" · {row['original_width']} x {row['original_height']} px" if row["original_width"] else ""
        cards.append(
            Card((FramedPicture(picture),), shorten_text(row["text"]), shorten_text(row["url"], 60) + original)
        )
    return ContactSheet("pairs", "Image-text pairs", PAIRS_ABOUT, tuple(cards))


def triplet_sheets(record: RunRecord) -> list[ContactSheet]:
    """For each ``parse_llm`` of the run: reference, text and target of some triplets."""
    return [
        ContactSheet(
            "triplets", f"Synthesised triplets ({step.name})", TRIPLETS_ABOUT, _triplet_cards(record, artifact, count)
        )
        for (step, artifact), count in divide_cards(record.steps_with_artifact("parse_llm"), MAX_TRIPLETS)
    ]


def _triplet_cards(record: RunRecord, artifact: Artifact, count: int) -> tuple[Card, ...]:
    rows = spread_rows(artifact, "triplets.parquet", count)
    images = images_of_ancestors(record, artifact, rows)
    return tuple(_triplet_card(row, images) for row in rows)


def _triplet_card(row: dict[str, str | None], images: StoredImages) -> Card:
    before, after = (
        shorten_text(row["reference_caption"]) or "reference",
        shorten_text(row["target_caption"]) or "target",
    )
    pictures = (
        FramedPicture(images.picture(row["reference_key"] or "", f"reference: {before}"), before, "reference"),
        FramedPicture(images.picture(row["target_key"] or "", f"target: {after}"), after, "right"),
    )
    return Card(pictures, shorten_text(row["text"]), row["source"] or "")


def images_of_ancestors(record: RunRecord, artifact: Artifact, rows: TableRows) -> StoredImages:
    """The images of the downloads and imports that ``artifact`` was made from, those of ``rows`` found already."""
    images = StoredImages(
        [ancestor for ancestor in record.library.ancestors(artifact) if ancestor.stage in IMAGE_SOURCE_STAGES]
    )
    images.find({row[column] for row in rows for column in ("reference_key", "target_key")})
    return images
