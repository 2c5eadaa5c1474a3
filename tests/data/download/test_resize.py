"""What import stages do to pixels is what img2dataset does to them, byte by byte."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zscir.data.download.fetch_spec import ResizeSpec
from zscir.data.download.resize import resize_to_jpeg
from zscir.data.images.decode import BadImage
from zscir.stages.download import DownloadSpec

REPO = Path(__file__).parents[3]
SIZES = [(40, 30), (64, 64), (101, 333), (257, 180), (16, 300)]
MODES = ["keep_ratio", "keep_ratio_largest", "center_crop", "border", "no"]
FORMATS = [("RGB", "JPEG"), ("L", "JPEG"), ("RGB", "PNG"), ("L", "PNG"), ("RGB", "WEBP"), ("RGB", "BMP")]
# In a process of its own: it brings albumentations, which warns and would ask the network for its newest version.
OTHER = """
import json, sys
from io import BytesIO
from pathlib import Path
from hashlib import sha256
from img2dataset.resizer import Resizer
expected = {}
for name, mode, size, bigger, keep in json.loads(sys.argv[2]):
    resizer = Resizer(size, mode, bigger, encode_quality=92, encode_format="jpg", skip_reencode=keep)
    data, width, height, *_, error = resizer(BytesIO((Path(sys.argv[1]) / name).read_bytes()))
    assert error is None, (name, mode, error)
    expected[f"{name} {mode} {size} {bigger} {keep}"] = [sha256(data).hexdigest(), width, height]
print(json.dumps(expected))
"""


def picture(width: int, height: int, mode: str, form: str) -> bytes:
    rng = np.random.default_rng(width * height)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([x * 3 + y, x + y * 5, x * y // 7], -1) % 256
    pixels = (waves * 0.7 + rng.integers(0, 70, waves.shape)).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form)
    return stream.getvalue()


def test_every_resize_mode_gives_the_bytes_that_img2dataset_gives(tmp_path: Path) -> None:
    names = {}
    for (width, height), (mode, form) in ((size, kind) for size in SIZES for kind in FORMATS):
        names[f"{width}x{height}-{mode}.{form}"] = data = picture(width, height, mode, form)
        (tmp_path / f"{width}x{height}-{mode}.{form}").write_bytes(data)
    cases = [(name, mode, size, bigger, keep) for name in names for mode in MODES for size in (64,)
             for bigger, keep in ((True, False), (False, False), (True, True))]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OTHER, tmp_path, json.dumps(cases)],
        env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}, capture_output=True, text=True, check=True, cwd=REPO,
    )  # fmt: skip
    expected = json.loads(done.stdout)
    assert len(expected) == len(cases) == 30 * 5 * 3
    for name, mode, size, bigger, keep in cases:
        values = {"resize_mode": mode, "image_size": size, "only_if_bigger": bigger, "keep_jpegs": keep}
        data, width, height = resize_to_jpeg(names[name], ResizeSpec.parse(values, name))
        assert [sha256(data).hexdigest(), width, height] == expected[f"{name} {mode} {size} {bigger} {keep}"], (
            name,
            values,
        )


def test_a_kept_jpeg_keeps_its_bytes_and_a_small_png_does_not() -> None:
    spec = ResizeSpec(keep_jpegs=True)
    jpeg, png = picture(40, 30, "RGB", "JPEG"), picture(40, 30, "RGB", "PNG")
    assert resize_to_jpeg(jpeg, spec) == (jpeg, 40, 30)
    assert resize_to_jpeg(png, spec)[0][:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("data", [b"", b"no image", picture(40, 30, "RGB", "JPEG")[:600]])
def test_what_opencv_cannot_read_is_a_bad_image(data: bytes) -> None:
    with pytest.raises(BadImage) as caught:
        resize_to_jpeg(data, ResizeSpec())
    assert caught.value.reason == "bad_image"


def test_the_fields_and_their_defaults_are_those_of_a_download() -> None:
    for name, field in ResizeSpec.model_fields.items():
        theirs = DownloadSpec.model_fields[name]
        assert (field.default, field.annotation, field.metadata) == (theirs.default, theirs.annotation, theirs.metadata)
