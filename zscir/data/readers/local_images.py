"""Decode and resize local images in worker processes, so that a decoder that crashes costs one image, not the run."""

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
from zscir.runtime.settings import count_from_env

IMAGES_IN_FLIGHT_PER_PROCESS = 8


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
    """Why there is no image: an error class and a text.

    The classes of a download (`empty`, `too_large`, `not_image`, `too_many_pixels`, `bad_image`), and `unreadable` (the
    system refuses the file), `not_found`, `forbidden_path` (a link that leads out of the folder), `not_local`.
    """

    error_class: str
    error: str


def decode_local(location: ImageLocation, spec: ResizeSpec) -> DecodedImage | ImageFailure:
    """One image, validated and resized as in a download."""
    try:
        data = _read(location, spec.max_bytes)
        image = validated_image(data, validate_header(data, spec.max_pixels), spec.max_pixels)
        body, width, height = resize_to_jpeg(image.body, spec)
    except FetchFailure as failure:
        return ImageFailure(failure.error_class, failure.error)
    except BadImage as error:
        return ImageFailure(error.reason, str(error))
    return DecodedImage(body, width, height, image.width, image.height, image.sha256)


def _read(location: ImageLocation, max_bytes: int) -> bytes:
    """The bytes of an image, never more than ``max_bytes``. Raises FetchFailure: too_large, unreadable."""
    if (location.size or 0) > max_bytes:
        raise FetchFailure("too_large", f"more than {max_bytes} bytes")
    try:
        with open(location.path, "rb") as stream:
            stream.seek(location.offset)
            data = stream.read(max_bytes + 1 if location.size is None else location.size)
    except OSError as error:
        raise FetchFailure("unreadable", os.strerror(error.errno or 0)) from None
    if len(data) > max_bytes:
        raise FetchFailure("too_large", f"more than {max_bytes} bytes")
    if location.size is not None and len(data) != location.size:
        raise FetchFailure("unreadable", f"{len(data)} of {location.size} bytes are there")
    return data


class DecodePool:
    """A context manager: worker processes that decode images, started with the first image."""

    def __init__(self, spec: ResizeSpec, processes: int | None = None) -> None:
        self._spec = spec
        self._processes = processes or count_from_env("ZSCIR_IMPORT_PROCESSES", os.cpu_count() or 1)
        self._pool: ProcessPoolExecutor | None = None
        self._single_pool: ProcessPoolExecutor | None = None  # one process, after a crash

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _shut_down(self._pool)
        _shut_down(self._single_pool)

    def map(self, locations: Iterable[ImageLocation | ImageFailure]) -> Iterator[DecodedImage | ImageFailure]:
        """The image or failure of each location, in their order; a failure among them stays as it is."""
        under_way: deque[tuple[ImageLocation, Future[DecodedImage | ImageFailure]] | ImageFailure] = deque()
        for location in locations:
            under_way.append(location if isinstance(location, ImageFailure) else (location, self._submit(location)))
            if len(under_way) > IMAGES_IN_FLIGHT_PER_PROCESS * self._processes:
                yield self._result(under_way.popleft())
        while under_way:
            yield self._result(under_way.popleft())

    def _result(
        self, pending: tuple[ImageLocation, Future[DecodedImage | ImageFailure]] | ImageFailure
    ) -> DecodedImage | ImageFailure:
        if isinstance(pending, ImageFailure):
            return pending
        location, future = pending
        try:
            return future.result()
        except BrokenProcessPool:
            return self._decode_alone(location)

    def _decode_alone(self, location: ImageLocation) -> DecodedImage | ImageFailure:
        """Decode one of the images that were under way when a process crashed, by itself: it may be the cause."""
        self._single_pool = self._single_pool or _pool(1)
        try:
            return self._single_pool.submit(decode_local, location, self._spec).result()
        except BrokenProcessPool:
            _shut_down(self._single_pool)
            self._single_pool = None
            return ImageFailure("bad_image", "the decoder crashed on this image")

    def _submit(self, location: ImageLocation) -> "Future[DecodedImage | ImageFailure]":
        self._pool = self._pool or _pool(self._processes)
        try:
            return self._pool.submit(decode_local, location, self._spec)
        except BrokenProcessPool:  # by an earlier image; the futures of those under way raise it too
            _shut_down(self._pool)
            self._pool = None
            return self._submit(location)


def _shut_down(pool: ProcessPoolExecutor | None) -> None:
    if pool is not None:
        pool.shutdown(cancel_futures=True)


def _pool(processes: int) -> ProcessPoolExecutor:
    # A fork server has this module imported and no threads; a fork of this process would copy its threads' locks.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(processes, context, _init_worker)


def _init_worker() -> None:
    """End with the parent, however that ends; keep C libraries off its terminal; use one thread per process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), daemon=True).start()
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    cv2.setNumThreads(1)


def _exit_with_parent(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
