"""Contact sheets: a few rows of pairs and synthesised triplets become cards of pictures and texts."""

from zscir.report.artifact_reader import Rows, spread_rows
from zscir.report.contact_sheet import Card, Framed, Sheet, shared
from zscir.report.formatting import cut
from zscir.report.run_data import RunRecord
from zscir.report.thumbnails import Images, downloaded, missing, span_of, thumbnail
from zscir.store.artifacts import Artifact

MAX_PAIRS, MAX_TRIPLETS = 18, 12
BRINGING = ("download", "import_images", "import_shards")  # the stages that bring pictures into the store
PAIRS = "What arrived: pictures and their captions, spread evenly over the list."
TRIPLETS = "Two similar pictures and the change from the first to the second in words, written from their captions."


def pair_sheets(record: RunRecord) -> list[Sheet]:
    """A sheet of pictures and their captions for each ``download`` or import of the run."""
    sources = [artifact for stage in BRINGING for artifact in record.artifacts_of(stage)]
    return [_pair_sheet(source, count) for source, count in shared(sources, MAX_PAIRS)]


def _pair_sheet(source: Artifact, count: int) -> Sheet:
    cards = []
    for row in downloaded(source, count):
        alt = f"picture for the caption: {cut(row['text'], 120)}"
        data = span_of(source, row["shard"] or "", row["offset"] or 0, row["size"] or 0)
        picture = missing(alt, "not in the shard") if data is None else thumbnail(data, alt)
        was = f" · {row['original_width']} x {row['original_height']} px" if row["original_width"] else ""
        cards.append(Card((Framed(picture),), cut(row["text"]), cut(row["url"], 60) + was))
    return Sheet("pairs", "Image-text pairs", PAIRS, tuple(cards))


def triplet_sheets(record: RunRecord) -> list[Sheet]:
    """For each ``parse_llm`` of the run: reference, text and target of some triplets."""
    return [
        Sheet("triplets", f"Synthesised triplets ({step.name})", TRIPLETS, _triplet_cards(record, artifact, count))
        for (step, artifact), count in shared(record.made_by("parse_llm"), MAX_TRIPLETS)
    ]


def _triplet_cards(record: RunRecord, artifact: Artifact, count: int) -> tuple[Card, ...]:
    rows = spread_rows(artifact, "triplets.parquet", count)
    images = images_above(record, artifact, rows)
    return tuple(_triplet_card(row, images) for row in rows)


def _triplet_card(row: dict[str, str | None], images: Images) -> Card:
    before, after = cut(row["reference_caption"]) or "reference", cut(row["target_caption"]) or "target"
    pictures = (
        Framed(images.picture(row["reference_key"] or "", f"reference: {before}"), before, "reference"),
        Framed(images.picture(row["target_key"] or "", f"target: {after}"), after, "right"),
    )
    return Card(pictures, cut(row["text"]), row["source"] or "")


def images_above(record: RunRecord, artifact: Artifact, rows: Rows) -> Images:
    """The images of the downloads and imports that ``artifact`` was made from, those of ``rows`` found already."""
    images = Images([one for one in record.library.above(artifact) if one.stage in BRINGING])
    images.find({row[column] for row in rows for column in ("reference_key", "target_key")})
    return images
