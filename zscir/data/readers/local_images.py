"""Press: images that lie on this machine become JPEGs of a shard, in processes of their own that may crash.

Decoders are given bytes from strangers here: one that falls over takes its process along, not the run, and the image
that it was given becomes a row with a reason.
"""

import contextlib
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

import cv2

from zscir.data.download.failures import FetchFailure
from zscir.data.download.fetch_spec import ResizeSpec
from zscir.data.download.resize import resize_to_jpeg
from zscir.data.download.validate_image import validate_header, validated_image
from zscir.data.images.decode import BadImage

IMAGES_IN_FLIGHT_PER_PROCESS = 8  # images under way per process


@dataclass(frozen=True)
class ImageLocation:
    """Where the bytes of an image lie: a file, or ``size`` bytes of it from ``offset`` on."""

    path: str
    offset: int = 0
    size: int | None = None


@dataclass(frozen=True)
class DecodedImage:
    """An image as it goes into a shard; the original's size is as displayed, its SHA-256 that of the bytes given."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    original_sha256: str


@dataclass(frozen=True)
class ImageFailure:
    """Why there is no image, in a word and in words.

    The classes of a download (`empty`, `too_large`, `not_image`, `too_many_pixels`, `bad_image`), and `unreadable` (the
    system refuses the file), `not_found`, `forbidden_path` (a link that leads out of the folder), `not_local`.
    """

    error_class: str
    error: str


def decode_local(place: ImageLocation, spec: ResizeSpec) -> DecodedImage | ImageFailure:
    """One image, vetted and brought to size as a download would."""
    try:
        data = _read(place, spec.max_bytes)
        vetted = validated_image(data, validate_header(data, spec.max_pixels), spec.max_pixels)
        body, width, height = resize_to_jpeg(vetted.body, spec)
    except FetchFailure as failure:
        return ImageFailure(failure.error_class, failure.error)
    except BadImage as error:
        return ImageFailure(error.reason, str(error))
    return DecodedImage(body, width, height, vetted.width, vetted.height, vetted.sha256)


def _read(place: ImageLocation, max_bytes: int) -> bytes:
    """The bytes of an image, never more than ``max_bytes``. Raises FetchFailure: too_large, unreadable."""
    if (place.size or 0) > max_bytes:
        raise FetchFailure("too_large", f"more than {max_bytes} bytes")
    try:
        with open(place.path, "rb") as stream:
            stream.seek(place.offset)
            data = stream.read(max_bytes + 1 if place.size is None else place.size)
    except OSError as error:
        raise FetchFailure("unreadable", os.strerror(error.errno or 0)) from None
    if len(data) > max_bytes:
        raise FetchFailure("too_large", f"more than {max_bytes} bytes")
    if place.size is not None and len(data) != place.size:
        raise FetchFailure("unreadable", f"{len(data)} of {place.size} bytes are there")
    return data


class DecodePool:
    """A context manager: processes that press images, started when the first is asked for."""

    def __init__(self, spec: ResizeSpec, processes: int | None = None) -> None:
        self._spec = spec
        self._processes = processes or _processes()
        self._pool: ProcessPoolExecutor | None = None
        self._solo: ProcessPoolExecutor | None = None  # one process, after a crash

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _shut_down(self._pool)
        _shut_down(self._solo)

    def map(self, places: Iterable[ImageLocation | ImageFailure]) -> Iterator[DecodedImage | ImageFailure]:
        """What becomes of each place, in their order; what is refused already goes through."""
        under_way: deque[tuple[ImageLocation, Future[DecodedImage | ImageFailure]] | ImageFailure] = deque()
        for place in places:
            under_way.append(place if isinstance(place, ImageFailure) else (place, self._submit(place)))
            if len(under_way) > IMAGES_IN_FLIGHT_PER_PROCESS * self._processes:
                yield self._result(under_way.popleft())
        while under_way:
            yield self._result(under_way.popleft())

    def _result(
        self, one: tuple[ImageLocation, Future[DecodedImage | ImageFailure]] | ImageFailure
    ) -> DecodedImage | ImageFailure:
        if isinstance(one, ImageFailure):
            return one
        place, future = one
        try:
            return future.result()
        except BrokenProcessPool:
            return self._alone(place)

    def _alone(self, place: ImageLocation) -> DecodedImage | ImageFailure:
        """One of the images under way brought its process down, and all of them with it: each is tried by itself."""
        self._solo = self._solo or _pool(1)
        try:
            return self._solo.submit(decode_local, place, self._spec).result()
        except BrokenProcessPool:
            _shut_down(self._solo)
            self._solo = None
            return ImageFailure("bad_image", "the decoder crashed on this image")

    def _submit(self, place: ImageLocation) -> "Future[DecodedImage | ImageFailure]":
        self._pool = self._pool or _pool(self._processes)
        try:
            return self._pool.submit(decode_local, place, self._spec)
        except BrokenProcessPool:  # since an image before; those that are under way learn it from their futures
            _shut_down(self._pool)
            self._pool = None
            return self._submit(place)


def _shut_down(pool: ProcessPoolExecutor | None) -> None:
    if pool is not None:
        pool.shutdown(cancel_futures=True)


def _pool(processes: int) -> ProcessPoolExecutor:
    # From a server that has this module and no threads; a fork of this process would take its threads' locks along.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(processes, context, _init_worker)


def _init_worker() -> None:
    """End when the parent does, however it went; no words of C libraries on its terminal; one thread per process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), daemon=True).start()
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    cv2.setNumThreads(1)


def _exit_with_parent(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _processes() -> int:
    asked = os.environ.get("ZSCIR_IMPORT_PROCESSES", "")
    return int(asked) if asked.isdecimal() and int(asked) else os.cpu_count() or 1
