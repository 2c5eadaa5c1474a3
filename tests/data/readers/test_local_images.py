"""Images of this machine, decoded in processes that may crash, hang on or be left alone."""

import os
import signal
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from PIL import Image

from zscir.data.download.fetch_spec import ResizeSpec
from zscir.data.readers.local_images import DecodedImage, DecodePool, ImageFailure, ImageLocation, decode_local

REPO = Path(__file__).parents[3]


def jpeg(folder: Path, name: str, size: tuple[int, int] = (40, 30)) -> ImageLocation:
    Image.new("RGB", size, (200, 30, 30)).save(folder / name, "JPEG")
    return ImageLocation(str(folder / name))


def saved(folder: Path, name: str, image: Image.Image, form: str, **options: object) -> ImageLocation:
    stream = BytesIO()
    image.save(stream, form, **options)
    (folder / name).write_bytes(stream.getvalue())
    return ImageLocation(str(folder / name))


def test_an_image_is_turned_as_exif_says_and_brought_to_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    place = saved(tmp_path, "turned.jpg", Image.new("RGB", (200, 100), (0, 0, 255)), "JPEG", exif=exif)
    made = decode_local(place, ResizeSpec(image_size=50))
    assert isinstance(made, DecodedImage)
    assert (made.original_width, made.original_height) == (100, 200)
    assert (made.width, made.height) == (50, 100)
    assert Image.open(BytesIO(made.data)).size == (50, 100)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "empty"), (b"<html>", "not_image"), (b"\xff\xd8\xff\xe0 no more", "bad_image"), (b"x" * 2000, "too_large")],
)
def test_a_file_that_is_no_image_says_why(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    refused = decode_local(ImageLocation(str(tmp_path / "a.jpg")), ResizeSpec(max_bytes=1500))
    assert isinstance(refused, ImageFailure)
    assert refused.error_class in (expected, "not_image")
    assert refused.error


def test_too_many_pixels_are_not_decoded(tmp_path: Path) -> None:
    place = saved(tmp_path, "big.png", Image.new("1", (5000, 5000)), "PNG")
    refused = decode_local(place, ResizeSpec(max_pixels=1_000_000))
    assert isinstance(refused, ImageFailure)
    assert refused.error_class == "too_many_pixels"


def test_a_span_of_a_file_is_read_and_never_beyond_it(tmp_path: Path) -> None:
    data = Path(jpeg(tmp_path, "1.jpg").path).read_bytes()
    (tmp_path / "tar").write_bytes(b"before" + data + b"behind")
    whole = decode_local(ImageLocation(str(tmp_path / "tar"), 6, len(data)), ResizeSpec())
    assert isinstance(whole, DecodedImage)
    late = decode_local(ImageLocation(str(tmp_path / "tar"), 60, len(data)), ResizeSpec())
    assert isinstance(late, ImageFailure)
    assert late.error_class == "unreadable"
    assert decode_local(ImageLocation(str(tmp_path / "gone")), ResizeSpec()) == ImageFailure(
        "unreadable", "No such file or directory"
    )
    large = decode_local(ImageLocation(str(tmp_path / "tar"), 6, 10**12), ResizeSpec())
    assert isinstance(large, ImageFailure)
    assert large.error_class == "too_large"


def test_results_come_in_order_and_what_is_refused_goes_through(tmp_path: Path) -> None:
    sizes = [(20 + number, 30) for number in range(20)]
    places: list[ImageLocation | ImageFailure] = [jpeg(tmp_path, f"{n}.jpg", size) for n, size in enumerate(sizes)]
    places[7] = ImageFailure("not_found", "here")
    with DecodePool(ResizeSpec(), 2) as decode_pool:
        made = list(decode_pool.map(places))
        again = list(decode_pool.map(places[:3]))
    assert made[7] == places[7]
    assert [image.width for image in made if isinstance(image, DecodedImage)] == [w for w, _ in sizes[:7] + sizes[8:]]
    assert again == made[:3]


def test_an_image_that_kills_its_decoder_is_a_row_and_the_others_are_images(tmp_path: Path) -> None:
    """A pipe stands in for the deadly image: whoever opens it waits there, to be killed by this test."""
    os.mkfifo(tmp_path / "deadly.jpg")
    places: list[ImageLocation | ImageFailure] = [jpeg(tmp_path, f"{n}.jpg") for n in range(4)]
    places.insert(2, ImageLocation(str(tmp_path / "deadly.jpg")))
    over = threading.Event()

    def kill_who_waits() -> None:
        while not over.is_set():
            for child in psutil.Process().children(recursive=True):
                try:
                    if (Path(f"/proc/{child.pid}/wchan").read_text() or "").startswith(("wait_for_partner", "fifo")):
                        child.kill()
                except (psutil.Error, OSError):
                    continue
            time.sleep(0.05)

    killer = threading.Thread(target=kill_who_waits)
    killer.start()
    try:
        with DecodePool(ResizeSpec(), 1) as decode_pool:
            made = list(decode_pool.map(places))
            later = list(decode_pool.map(places[:2]))
    finally:
        over.set()
        killer.join()
    assert made[2] == ImageFailure("bad_image", "the decoder crashed on this image")
    assert [isinstance(image, DecodedImage) for image in made] == [True] * 2 + [False] + [True] * 2
    assert all(isinstance(image, DecodedImage) for image in later)


CHILD = """
import sys, time
from zscir.data.download.fetch_spec import ResizeSpec
from zscir.data.readers.local_images import ImageLocation, DecodePool
if __name__ == "__main__":
    with DecodePool(ResizeSpec(), 2) as decode_pool:
        for number, _ in enumerate(decode_pool.map([ImageLocation(sys.argv[1])] * 100_000)):
            if number == 0:
                print("at work", flush=True)
"""


def test_the_processes_end_with_the_one_that_started_them_even_by_force(tmp_path: Path) -> None:
    place = jpeg(tmp_path, "1.jpg")
    (tmp_path / "child.py").write_text(CHILD)
    child = subprocess.Popen(
        [sys.executable, tmp_path / "child.py", place.path],
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"at work\n"
    workers = psutil.Process(child.pid).children(recursive=True)
    assert len(workers) >= 2
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_decoders_write_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = jpeg(tmp_path, "1.jpg")
    data = Path(place.path).read_bytes()
    Path(place.path).write_bytes(data[:-2] + b"\x00\x01\x02" + data[-2:])
    with DecodePool(ResizeSpec(), 1) as decode_pool:
        (made,) = decode_pool.map([place])
    assert isinstance(made, DecodedImage)
    assert capfd.readouterr().err == ""
