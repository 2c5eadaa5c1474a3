"""Images as strangers make them: odd, huge, broken, or none at all."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image

LEFT, RIGHT = (200, 30, 30), (30, 30, 200)


def picture(seed: int = 0, width: int = 64, height: int = 48) -> Image.Image:
    """A smooth random photograph-like image."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def two_halves(width: int = 64, height: int = 32) -> Image.Image:
    """Left half red, right half blue: turns and colour mistakes show."""
    image = Image.new("RGB", (width, height), LEFT)
    image.paste(RIGHT, (width // 2, 0, width, height))
    return image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rotated_jpeg() -> bytes:
    """Stored upright as 64 x 32, to be shown turned by 90 degrees (EXIF orientation 6): 32 x 64, red above blue."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(two_halves(), "JPEG", quality=95, exif=exif)


def deep_png() -> bytes:
    """16 bits of grey: left half 25 %, right half 75 %."""
    grey = np.full((32, 64), 0x4000, dtype=np.uint16)
    grey[:, 32:] = 0xC000
    return saved(Image.fromarray(grey), "PNG")


def rgb16_png() -> bytes:
    """16 bits per channel: left half red, right half blue."""
    pixels = np.asarray(two_halves()).astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(64, 32, 16, 2, rows)


def faint_png() -> bytes:
    """Left half red and wholly there, right half blue and half see-through: on white, a light blue."""
    alpha = Image.new("L", (64, 32), 255)
    alpha.paste(127, (32, 0, 64, 32))
    return saved(Image.merge("RGBA", (*two_halves().split(), alpha)), "PNG")


def palette_png() -> bytes:
    """A palette with a transparent colour: left half red, right half see-through."""
    image = Image.new("P", (64, 32), 0)
    image.putpalette([*LEFT, *RIGHT])
    image.paste(1, (32, 0, 64, 32))
    return saved(image, "PNG", transparency=1)


def huge_png(side: int = 10_000) -> bytes:
    """A valid one-bit PNG of 100 megapixels in a few kilobytes."""
    return png(side, side, 1, 0, b"\0" * (side * (side // 8 + 1)))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG of these rows, each with its filter byte; ``colour`` 0 is grey, 2 RGB."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    )


def many_scans(scans: int = 5000, side_px: int = 64) -> bytes:
    """A progressive JPEG with scans of ten bytes that say nothing new: each costs a pass over all pixels."""
    data = saved(picture(2, side_px, side_px).convert("L"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    # one component with table 0, coefficient 63 alone, refined from bit 1 to 0; then a run of all blocks, zero bits
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x3f\x3f\x10" + b"\x00" * 4
    return data[:last] + scan * scans + data[-2:]


def claiming_png() -> bytes:
    """A PNG whose picture is said to take 4 GB of the file: who believes it takes that much memory first."""
    data = saved(picture(), "PNG")
    return data.replace(struct.pack(">I", len(data) - 57) + b"IDAT", b"\xff\xff\x00\x00IDAT")


def broken_avif() -> bytes:
    """An AVIF whose first picture cannot be decoded, which Pillow reports in a way of its own."""
    data = saved(two_halves(), "AVIF")
    at = data.index(b"mdat") + 4
    return data[:at] + b"\xff" * 8 + data[at + 8 :]


def animation(kind: str) -> bytes:
    """Two frames; the first is red and blue, the second white."""
    return saved(two_halves(), kind, save_all=True, append_images=[Image.new("RGB", (64, 32), "white")])


IMAGES: dict[str, Callable[[], bytes]] = {
    "cmyk.jpg": lambda: saved(two_halves().convert("CMYK"), "JPEG", quality=95),
    "grey.jpg": lambda: saved(picture().convert("L"), "JPEG"),
    "16bit.png": deep_png,
    "palette.png": palette_png,
    "alpha.png": lambda: saved(Image.merge("RGBA", (*two_halves().split(), Image.new("L", (64, 32), 255))), "PNG"),
    "rotated.jpg": rotated_jpeg,
    "webp.webp": lambda: saved(two_halves(), "WEBP", quality=95),
    "avif.avif": lambda: saved(two_halves(), "AVIF", quality=95),
    "faint.png": faint_png,
    "rgb16.png": rgb16_png,
    "animated.gif": lambda: animation("GIF"),
    "animated.webp": lambda: animation("WEBP"),
    "huge.png": huge_png,
    "html.jpg": lambda: b"<!doctype html><title>Gone</title><p>This picture has moved.</p>",
    "svg.svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "scans.jpg": many_scans,
    "claims.png": claiming_png,
    "broken.avif": broken_avif,
    "empty.jpg": lambda: b"",
    "cut.jpg": lambda: saved(picture(1), "JPEG")[:-400],
}
