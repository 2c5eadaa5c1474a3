"""Build a download of generated pictures for filters, and read keep-lists as the numbers of pictures."""

from collections.abc import Callable, Iterable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from zscir.data.images.shards import write_shard
from zscir.runtime.schemas import IMAGES_SCHEMA, KEEP_SCHEMA, REJECTS_SCHEMA, read_rows, write_table
from zscir.store.artifacts import Artifact

OUTPUTS = {"keep.parquet", "rejects.parquet"}


def view(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """A picture with the spectrum of a photograph: random colours on ever finer grids, each half as strong."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(6):
        cells = rng.uniform(0, 255, (2 ** (octave + 1), 2 ** (octave + 1), 3)).astype(np.uint8)
        layer = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer) * 0.5 ** (octave + 1)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    return saved(image, "JPEG", quality=quality)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Without ``share`` of the width and height at each border."""
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def scaled(image: Image.Image, factor: float) -> Image.Image:
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def lit(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def key(number: int) -> str:
    return sha256(f"http://a.test/{number}.jpg".encode()).hexdigest()


def download_of(
    folder: Path,
    pictures: Iterable[bytes | None],
    texts: Callable[[int], list[str]] = lambda number: [f"caption {number}"],
    **columns: list[Any],
) -> Artifact:
    """A download of these pictures, None for one that failed, in two shards; a row for each text of each.

    ``columns`` gives values of further columns, one per picture.
    """
    folder.mkdir(parents=True)
    given = list(pictures)
    places: dict[int, dict[str, Any]] = {}
    for shard in (0, 1):
        here = [(n, data) for n, data in enumerate(given) if data is not None and n % 2 == shard]
        if here:
            name = f"{shard:05d}.tar"
            spans = write_shard(folder / name, [(f"{key(n)}.jpg", data) for n, data in here])
            for (n, data), span in zip(here, spans, strict=True):
                place = {"shard": name, "offset": span.offset, "size": span.size}
                places[n] = {"status": "ok", "sha256": sha256(data).hexdigest(), **place}
    rows = [
        {
            "image_key": key(n), "pair_id": f"{n}-{turn}", "url": f"http://a.test/{n}.jpg", "text": text, "attempts": 1,
            **places.get(n, {"status": "failed", "error_class": "http_404"}),
            **{name: values[n] for name, values in columns.items()},
        }
        for n in range(len(given))
        for turn, text in enumerate(texts(n))
    ]  # fmt: skip
    write_table(folder / "images.parquet", IMAGES_SCHEMA, rows)
    return Artifact.of_folder(folder)


def keep_list_of(folder: Path, numbers: Iterable[int]) -> Artifact:
    """The keep-list of these pictures, as a filter writes it."""
    folder.mkdir(parents=True)
    write_table(folder / "keep.parquet", KEEP_SCHEMA, [{"image_key": key(number)} for number in numbers])
    return Artifact.of_folder(folder)


def kept(out: Path) -> list[int]:
    """The numbers of the pictures that stay, in the order of the file."""
    numbers = {key(number): number for number in range(10_000)}
    return [numbers[row["image_key"]] for row in read_rows(out / "keep.parquet", KEEP_SCHEMA)]


def rejected(out: Path) -> dict[int, tuple[str, str]]:
    """Number -> (reason, detail), keys in details as numbers."""
    numbers = {key(number): number for number in range(10_000)}
    found = {}
    for row in read_rows(out / "rejects.parquet", REJECTS_SCHEMA):
        words = [str(numbers.get(word, word)) for word in row["detail"].split(" ")]
        found[numbers[row["id"]]] = (row["reason"], " ".join(words))
    return found
