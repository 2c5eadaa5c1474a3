"""Halves: an encoding that does not fit into the memory of a GPU becomes the same encoding of fewer rows at a time."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from zscir.runtime.progress import log_warning


def in_halves(encode: Callable[..., Tensor], *rows: Sequence[Any] | Tensor) -> Tensor:
    """What ``encode`` gives aligned ``rows`` ([B, ...] each), of one half and the other where GPU memory runs out.

    A batch is cut as often as it must be; OutOfMemoryError when one row alone does not fit. The vectors are the same
    but for a GPU's rounding, which may move with the size of a batch.
    """
    count = len(rows[0])
    try:
        return encode(*rows)
    except torch.OutOfMemoryError:
        if count == 1:
            raise
    # Out here the failed attempt's tensors are free, as the error, which held on to them, is gone.
    _warn_once(count)
    half = count // 2
    return torch.cat([in_halves(encode, *(one[part] for one in rows)) for part in (slice(half), slice(half, None))])


@cache
def _warn_once(count: int) -> None:
    log_warning(f"a batch of {count} does not fit into the GPU's memory; it is encoded in halves")
