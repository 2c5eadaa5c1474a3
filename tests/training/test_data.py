from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.methods import tiny
from zscir.methods.image_squares import decode_to_square
from zscir.runtime.errors import RequestError, StageError
from zscir.store.artifacts import Artifact
from zscir.training.data import Pack, positions_at, steps_per_epoch, texts_of, training_batches


def test_a_pair_has_its_reference_as_its_target_and_a_triplet_its_own(tmp_path: Path) -> None:
    pairs = Pack(tiny.pack(tmp_path / "pairs"), tiny.PIXELS).batch(np.arange(3), 1, 0)
    assert torch.equal(pairs.reference_pixels, pairs.target_pixels)
    assert pairs.captions == pairs.texts
    assert (pairs.mask_ratio, list(pairs.mask_seeds)) == (0.5, [7, 7, 7])
    triplets = Pack(tiny.pack(tmp_path / "triplets", triplets=True), tiny.PIXELS).batch(np.array([2]), 1, 0)
    assert not torch.equal(triplets.reference_pixels, triplets.target_pixels)
    assert triplets.texts == ["is white"]
    assert triplets.captions == ["a blue picture"]
    assert (triplets.mask_ratio, triplets.mask_seeds) == (0.0, [1])


def test_pixels_come_from_the_right_bytes(tmp_path: Path) -> None:
    pack = Pack(tiny.pack(tmp_path / "p", triplets=True), tiny.PIXELS)
    for number in (0, 5, 11):
        expected = decode_to_square(tiny.jpeg(list(tiny.COLOURS)[(number + 1) % 4], number + 100), tiny.PIXELS, "test")
        assert np.array_equal(pack.decoded_image(pack.rows[number], "target"), expected)


def test_a_full_cache_changes_nothing(tmp_path: Path) -> None:
    data = tiny.pack(tmp_path / "p")
    kept, unkept = Pack(data, tiny.PIXELS), Pack(data, tiny.PIXELS, cache_bytes=0)
    for _ in range(2):
        first, second = (pack.batch(np.arange(12), 0, 0).target_pixels for pack in (kept, unkept))
        assert torch.equal(first, second)


@given(st.integers(2, 40), st.integers(2, 10), st.integers(0, 5))
def test_an_epoch_shows_each_triplet_at_most_once_and_leaves_out_less_than_a_batch(
    count: int, size: int, seed: int
) -> None:
    if count < size:
        with pytest.raises(RequestError, match="batch_size"):
            steps_per_epoch(count, size)
        return
    steps = steps_per_epoch(count, size)
    shown = [positions_at(step, count, size, seed) for step in range(2 * steps)]
    for epoch in (0, 1):
        positions = np.concatenate([batch_positions for number, batch_positions in shown if number == epoch])
        assert len(positions) == steps * size == len(set(positions.tolist()))
        assert count - len(positions) < size


def test_batches_from_the_middle_are_those_of_a_whole_run(tmp_path: Path) -> None:
    data = tiny.pack(tmp_path / "p")
    whole = [batch.triplet_ids for batch in training_batches(Pack(data, tiny.PIXELS), 0, 9, 4, 1)]
    rest = [batch.triplet_ids for batch in training_batches(Pack(data, tiny.PIXELS), 5, 9, 4, 1)]
    assert whole[5:] == rest
    assert len(whole) == 9


def test_texts_for_a_vocabulary_are_texts_and_captions(tmp_path: Path) -> None:
    texts = list(texts_of(tiny.pack(tmp_path / "p", count=4, triplets=True)))
    assert texts[:2] == ["is green", "a red picture"]
    assert len(texts) == 8


def test_a_pack_that_is_empty_or_not_one_or_of_two_ratios_is_refused(tmp_path: Path) -> None:
    tiny.pack(tmp_path / "p")
    index = tmp_path / "p" / "index.parquet"
    table = pq.read_table(index)
    for broken, message in (
        (table.slice(0, 0), "empty"),
        (table.drop_columns(["text"]), "text"),
        (table.set_column(table.column_names.index("mask_ratio"), "mask_ratio", [[0.5, 0.25] * 6]), "one mask ratio"),
    ):
        pq.write_table(broken, index)
        with pytest.raises(RequestError, match=message):
            Pack(Artifact.of_folder(tmp_path / "p"), tiny.PIXELS)


def test_an_undecodable_image_stops_the_training_and_is_named(tmp_path: Path) -> None:
    tiny.pack(tmp_path / "p")
    shard = tmp_path / "p" / "00000.tar"
    data = shard.read_bytes()
    shard.write_bytes(data.replace(b"\xff\xd8\xff", b"\x00\x00\x00", 1))
    pack = Pack(Artifact.of_folder(tmp_path / "p"), tiny.PIXELS)
    with pytest.raises(StageError, match="reference of triplet t000"):
        pack.batch(np.arange(12), 0, 0)
