from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.stages.albums import download_of, jpeg, keep_list_of, key, saved, view
from zscir.data.images import fingerprints as module
from zscir.data.images.decode import BadImage, decode_image
from zscir.data.images.fingerprints import ReadImageBytes, fingerprint_download, fingerprint_images
from zscir.data.images.phash import dct_hashes, luminance_and_colours
from zscir.data.images.shards import BadShard


def reads(*pictures: bytes) -> list[ReadImageBytes]:
    return [partial(bytes, picture) for picture in pictures]


def hash_of(data: bytes) -> int:
    return int(dct_hashes(luminance_and_colours(decode_image(data))[0][None])[0])


def test_a_fingerprint_is_the_hash_of_the_decoded_picture_and_of_its_mirror_image(tmp_path: Path) -> None:
    pictures = [saved(view(seed), "PNG") for seed in range(3)]
    mirrored = [saved(view(seed).transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG") for seed in range(3)]
    seen = fingerprint_images(reads(*pictures), 3, tmp_path, "toy")
    assert seen.hashes.bits.tolist() == [hash_of(picture) for picture in pictures]
    apart = np.bitwise_count(seen.mirrored_bits ^ np.array([hash_of(picture) for picture in mirrored], dtype=np.uint64))
    assert apart.max() <= 2
    assert seen.hashes.colours.shape == (3, 48)
    assert (seen.unreadable, seen.readable_rows().tolist()) == ({}, [0, 1, 2])


def test_what_cannot_be_decoded_has_a_reason_and_the_others_keep_their_rows(tmp_path: Path) -> None:
    def nothing() -> bytes:
        raise BadImage("too_many_bytes", "too many")

    seen = fingerprint_images(
        [*reads(b"no picture", jpeg(view(1))[:900]), nothing, *reads(jpeg(view(1)))], 4, tmp_path, "toy"
    )
    assert [seen.reject(row)[0] for row in range(3)] == ["not_image", "bad_image", "too_many_bytes"]  # type: ignore[index]
    assert seen.reject(3) is None
    assert seen.readable_rows().tolist() == [3]
    assert int(seen.hashes.bits[3]) == hash_of(jpeg(view(1)))


def test_a_killed_run_goes_on_after_its_last_whole_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_IMAGES", 2)
    pictures = [*(jpeg(view(seed)) for seed in range(4)), b"no picture", jpeg(view(5)), jpeg(view(6))]
    whole = fingerprint_images(reads(*pictures), 7, tmp_path / "whole", "toy")
    read_numbers: list[int] = []

    def read(number: int) -> bytes:
        read_numbers.append(number)
        if number == 3 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        return pictures[number]

    with pytest.raises(KeyboardInterrupt):
        fingerprint_images([partial(read, number) for number in range(7)], 7, tmp_path / "killed", "toy")
    (tmp_path / "again").touch()
    read_numbers.clear()
    again = fingerprint_images([partial(read, number) for number in range(7)], 7, tmp_path / "killed", "toy")
    assert sorted(read_numbers) == [2, 3, 4, 5, 6]
    assert again.hashes.bits.tolist() == whole.hashes.bits.tolist()
    assert again.mirrored_bits.tolist() == whole.mirrored_bits.tolist()
    assert again.unreadable == whole.unreadable
    assert list(again.unreadable) == [4]


def test_no_pictures_have_no_fingerprints(tmp_path: Path) -> None:
    seen = fingerprint_images([], 0, tmp_path, "toy")
    assert (len(seen.hashes), seen.hashes.colours.shape, seen.readable_rows().tolist()) == (0, (0, 48), [])


def test_the_images_of_a_download_come_in_their_order_and_once(tmp_path: Path) -> None:
    pictures = [jpeg(view(seed)) for seed in range(5)]
    images = download_of(tmp_path / "images", [*pictures[:2], None, *pictures[3:]], lambda number: ["a", "b"])
    keys, seen = fingerprint_download("toy", images, keep_list_of(tmp_path / "keep", [1, 3, 4]), tmp_path / "parts")
    assert keys == [key(1), key(3), key(4)]
    assert seen.hashes.bits.tolist() == [hash_of(pictures[number]) for number in (1, 3, 4)]


def test_a_truncated_shard_stops_the_stage_rather_than_dropping_its_images(tmp_path: Path) -> None:
    images = download_of(tmp_path / "images", [jpeg(view(seed)) for seed in range(4)])
    shard = tmp_path / "images" / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(BadShard, match=r"00001\.tar.* truncated"):
        fingerprint_download("toy", images, None, tmp_path / "parts")
