"""Gateways: all chunks of one kind that this process fetches share a gateway, and so its manners to each host."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from zscir.data.download.gateway import Gateway
from zscir.data.download.specs import ChunkSpec
from zscir.runtime.specs import digest_of
from zscir.tabletop.server import serving
from zscir.tabletop.web import HOST

TABLETOP = (HOST.removeprefix("http://"), 80)


@dataclass
class _Open:
    gateway: Gateway
    stack: ExitStack
    users: int = 0


_OPEN: dict[str, _Open] = {}
_LOCK = threading.Lock()
_CLOSER = threading.Event()  # set when the thread that closes everything at the end is there


@contextmanager
def shared_gateway(spec: ChunkSpec) -> Iterator[Gateway]:
    """The gateway of this process for ``spec``; it stays when nobody uses it, until one of another kind is asked for.

    What it knows of a host (how often it may be asked, whether it wants to be left alone) outlives a chunk.
    """
    spec = spec.model_copy(update={"round": None})  # a later round knows what the first one learned of the hosts
    name = digest_of(spec.literals())
    with _LOCK:
        if name not in _OPEN:
            _close_idle()
            _OPEN[name] = _start(spec)
        found = _OPEN[name]
        found.users += 1
    try:
        yield found.gateway
    finally:
        with _LOCK:
            found.users -= 1


def close_gateways() -> None:
    """Close the gateways that nobody uses."""
    with _LOCK:
        _close_idle()


def _start(spec: ChunkSpec) -> _Open:
    if not _CLOSER.is_set():
        _CLOSER.set()
        threading.Thread(target=_close_at_the_end, name="zscir-gateways-closer").start()
    with ExitStack() as stack:
        pinned = {}
        if spec.tabletop is not None:
            pinned[TABLETOP] = ("127.0.0.1", stack.enter_context(serving(spec.tabletop)))
        gateway = stack.enter_context(Gateway(spec, pinned))
        return _Open(gateway, stack.pop_all())


def _close_idle() -> None:
    for name in [name for name, one in _OPEN.items() if not one.users]:
        _OPEN.pop(name).stack.close()


def _close_at_the_end() -> None:
    """Python waits at its end for every thread, those of a tabletop server too: somebody has to end them before."""
    threading.main_thread().join()
    with _LOCK:
        while _OPEN:
            _OPEN.popitem()[1].stack.close()
