"""Decode an image that may crash or hang OpenCV in a child process, and say whether it comes back.

    python -m zscir.data.download.decode_sandbox 30
    # reads images from standard input, each after its length, and answers each

When img2dataset dies over a chunk, one of its images may be to blame: the next attempt decodes each here first.
"""

import contextlib
import faulthandler
import struct
import subprocess
import sys
import threading

from zscir.runtime.errors import StageError

DECODE_TIMEOUT_S = 30.0  # for one image: the largest that is allowed takes a few
DECODED = b"+"
LENGTH_PREFIX = struct.Struct("<Q")


class DecodeSandbox:
    """One child process, started when first needed and again after an image has killed it. Thread-safe."""

    def __init__(self, limit_s: float = DECODE_TIMEOUT_S) -> None:
        self._limit_s = limit_s
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def can_decode(self, image: bytes) -> bool:
        """Whether OpenCV comes back from decoding ``image``, with pixels or without. Takes ``limit_s`` at most."""
        with self._lock:
            if self._child is None:
                self._child = _start(self._limit_s)
            if _send(self._child, image):
                return True
            self.close()
            return False

    def close(self) -> None:
        """Kill the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


def _start(limit_s: float) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        [sys.executable, "-m", "zscir.data.download.decode_sandbox", str(limit_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    if child.stdout is None or child.stdout.read(len(DECODED)) != DECODED:
        child.communicate()
        raise StageError(
            "the process that decodes suspicious images did not start; "
            "does `python -m zscir.data.download.decode_sandbox 30` work?"
        )
    return child


def _send(child: "subprocess.Popen[bytes]", image: bytes) -> bool:
    if child.stdin is None or child.stdout is None:
        return False
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(LENGTH_PREFIX.pack(len(image)))
        child.stdin.write(image)
        child.stdin.flush()
    return child.stdout.read(len(DECODED)) == DECODED


def serve_decodes(limit_s: float) -> None:
    """Answer each image with a plus sign. A decoder that hangs ends the process; so does the end of standard input."""
    import cv2
    import numpy as np

    images, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(DECODED)
    answers.flush()
    while len(head := images.read(LENGTH_PREFIX.size)) == LENGTH_PREFIX.size:
        image = images.read(*LENGTH_PREFIX.unpack(head))
        faulthandler.dump_traceback_later(limit_s, exit=True)
        with contextlib.suppress(cv2.error):
            cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)
        faulthandler.cancel_dump_traceback_later()
        answers.write(DECODED)
        answers.flush()


if __name__ == "__main__":
    serve_decodes(float(sys.argv[1]))
