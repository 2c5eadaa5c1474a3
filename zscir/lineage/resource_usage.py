"""Measure the wall time, CPU time and peak memory of a stretch of work, child processes included."""

import threading
import time
from typing import Any

SAMPLE_EVERY_S = 0.25  # a look at all children costs milliseconds; a shorter peak is missed


class ResourceMeter:
    """Starts when it is made; ``stop`` ends it and returns the columns wall_s, cpu_s and peak_rss_bytes."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._started = time.monotonic()
        self._cpu_started = self._cpu_s()
        self._peak = self._rss()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="zscir-meter")
        self._thread.start()

    def stop(self) -> dict[str, Any]:
        """Seconds and bytes since the meter was made."""
        self._stopped.set()
        self._thread.join()
        self._peak = max(self._peak, self._rss())
        return {
            "wall_s": round(time.monotonic() - self._started, 3),
            "cpu_s": round(self._cpu_s() - self._cpu_started, 3),
            "peak_rss_bytes": self._peak,
        }

    def _watch(self) -> None:
        while not self._stopped.wait(SAMPLE_EVERY_S):
            self._peak = max(self._peak, self._rss())

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        # The kernel adds a child's time to ``children_*`` only when it has ended and was waited for.
        return float(times.user + times.system + times.children_user + times.children_system)

    def _rss(self) -> int:
        import psutil

        # Pages that processes share count once in each, so with forked workers this is an upper bound.
        total = int(self._process.memory_info().rss)
        for child in self._process.children(recursive=True):
            try:
                total += int(child.memory_info().rss)
            except psutil.Error:
                continue  # the child ended after it was listed
        return total
