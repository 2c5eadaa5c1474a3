"""Retry an encoding in halves when GPU memory runs out."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from zscir.runtime.progress import log_warning


def in_halves(encode: Callable[..., Tensor], *rows: Sequence[Any] | Tensor) -> Tensor:
    """``encode`` of aligned ``rows`` ([B, ...] each), in two halves where GPU memory runs out.

    A batch is halved as often as it must be; OutOfMemoryError when one row alone does not fit. The vectors are the
    same but for a GPU's rounding, which may move with the size of a batch.
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
    return torch.cat(
        [in_halves(encode, *(column[part] for column in rows)) for part in (slice(half), slice(half, None))]
    )


@cache
def _warn_once(count: int) -> None:
    log_warning(f"a batch of {count} does not fit into the GPU's memory; it is encoded in halves")
