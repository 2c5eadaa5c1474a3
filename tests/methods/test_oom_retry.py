"""Encodings that run out of memory: what the GPU would raise is raised by an encoder that takes few rows at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zscir.methods.oom_retry import in_halves


class Small:
    """An encoder on a GPU with room for ``room`` rows."""

    def __init__(self, room: int) -> None:
        self.room, self.sizes = room, []

    def __call__(self, pixels: torch.Tensor, texts: list[str]) -> torch.Tensor:
        self.sizes.append(len(texts))
        if len(texts) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(texts)}")
        return pixels * torch.tensor([[float(len(text))] for text in texts])


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_rows_are_the_same_in_the_same_order_however_little_fits(count: int, room: int) -> None:
    pixels, texts = torch.arange(2.0 * count).reshape(count, 2), ["x" * number for number in range(count)]
    encode = Small(room)
    assert torch.equal(in_halves(encode, pixels, texts), Small(count)(pixels, texts))
    assert sum(size for size in encode.sizes if size <= room) == count


def test_what_fits_is_encoded_at_once() -> None:
    encode = Small(8)
    in_halves(encode, torch.ones(8, 1), ["a"] * 8)
    assert encode.sizes == [8]


def test_a_row_that_does_not_fit_alone_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="no room for 1"):
        in_halves(Small(0), torch.ones(3, 1), ["a"] * 3)


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        in_halves(lambda rows: rows @ torch.ones(7, 1), torch.ones(2, 3))
