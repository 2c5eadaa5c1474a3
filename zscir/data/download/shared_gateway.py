"""Share one gateway among all chunks of a spec in this process, and so its limits per host."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from zscir.data.download.gateway import Gateway
from zscir.data.download.specs import ChunkSpec
from zscir.runtime.specs import json_digest
from zscir.tabletop.server import serve_tabletop
from zscir.tabletop.web import TABLETOP_ORIGIN

TABLETOP_HOST_PORT = (TABLETOP_ORIGIN.removeprefix("http://"), 80)


@dataclass
class _OpenGateway:
    gateway: Gateway
    stack: ExitStack
    users: int = 0


_OPEN_GATEWAYS: dict[str, _OpenGateway] = {}
_LOCK = threading.Lock()
_CLOSER = threading.Event()  # set when the thread is there that closes everything at the end


@contextmanager
def shared_gateway(spec: ChunkSpec) -> Iterator[Gateway]:
    """The gateway of this process for ``spec``; it stays when nobody uses it, until one for another spec is opened.

    So what it has learned of a host (its rate, that it is busy or down) outlives a chunk.
    """
    spec = spec.model_copy(update={"round": None})  # later rounds share what the first one learned of the hosts
    name = json_digest(spec.literals())
    with _LOCK:
        if name not in _OPEN_GATEWAYS:
            for idle in [other for other, opened in _OPEN_GATEWAYS.items() if not opened.users]:
                _OPEN_GATEWAYS.pop(idle).stack.close()
            _OPEN_GATEWAYS[name] = _start(spec)
        opened = _OPEN_GATEWAYS[name]
        opened.users += 1
    try:
        yield opened.gateway
    finally:
        with _LOCK:
            opened.users -= 1


def _start(spec: ChunkSpec) -> _OpenGateway:
    if not _CLOSER.is_set():
        _CLOSER.set()
        threading.Thread(target=_close_at_exit, name="zscir-gateways-closer").start()
    with ExitStack() as stack:
        pinned = {}
        if spec.tabletop is not None:
            pinned[TABLETOP_HOST_PORT] = ("127.0.0.1", stack.enter_context(serve_tabletop(spec.tabletop)))
        gateway = stack.enter_context(Gateway(spec, pinned))
        return _OpenGateway(gateway, stack.pop_all())


def _close_at_exit() -> None:
    """At its end Python waits for every thread, a tabletop server's too, before atexit runs: end them here."""
    threading.main_thread().join()
    with _LOCK:
        while _OPEN_GATEWAYS:
            _OPEN_GATEWAYS.popitem()[1].stack.close()
