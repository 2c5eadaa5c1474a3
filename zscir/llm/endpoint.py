"""Read the address, the key and the retry limits of a chat service from ``ZSCIR_LLM_*``.

None of this bears identity: it never enters a spec, a record or a log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from zscir.runtime.errors import RequestError


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and how often they are tried. ``redact`` takes ``api_key`` out of any text that is kept."""

    base_url: str
    api_key: str = field(default="", repr=False)
    concurrency: int = 16
    attempts: int = 8  # with waits of up to 1, 2, 4 ... 60 s: a service may be away for one to two minutes
    timeout_s: float = 120.0
    first_wait_s: float = 1.0
    max_wait_s: float = 60.0

    @classmethod
    def from_env(cls, environment: Mapping[str, str] = os.environ) -> Endpoint:
        """The endpoint that ``ZSCIR_LLM_*`` names; RequestError when the address is missing or makes no sense."""
        base_url = environment.get("ZSCIR_LLM_BASE_URL", "").rstrip("/")
        if not re.fullmatch(r"https?://[^\s/]+.*", base_url):
            raise RequestError(
                "ZSCIR_LLM_BASE_URL is "
                + ("not set" if not base_url else "not an http(s) address")
                + "; the backend 'openai' needs it, e.g. http://localhost:8000/v1"
                + " (and ZSCIR_LLM_API_KEY if the service wants a key)"
            )
        if re.match(r"https?://[^/]*@", base_url):
            raise RequestError("ZSCIR_LLM_BASE_URL holds a password; put the key into ZSCIR_LLM_API_KEY instead")
        return cls(
            base_url,
            environment.get("ZSCIR_LLM_API_KEY", ""),
            concurrency=int(_positive(environment, "ZSCIR_LLM_CONCURRENCY", cls.concurrency)),
            attempts=int(_positive(environment, "ZSCIR_LLM_ATTEMPTS", cls.attempts)),
            timeout_s=_positive(environment, "ZSCIR_LLM_TIMEOUT_S", cls.timeout_s),
            first_wait_s=_positive(environment, "ZSCIR_LLM_FIRST_WAIT_S", cls.first_wait_s),
        )

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request; no key, no header."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def redact(self, text: str) -> str:
        """``text`` without the key, should a service repeat it."""
        return text.replace(self.api_key, "***") if self.api_key else text

    def wait_s(self, attempt: int, retry_after_s: float | None, jitter: float) -> float:
        """Seconds to wait after failure number ``attempt`` (from 0): what the service asks for, else exponential.

        ``jitter`` in [0, 1) spreads the waits of many requests over half of the time.
        """
        # The exponent is bounded because a float overflows at 2 ** 1024, long after the wait has reached its maximum.
        wait = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(attempt, 30)) * (0.5 + 0.5 * jitter)
        return wait if retry_after_s is None else min(self.max_wait_s, max(wait, retry_after_s))


def _positive(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6 or (isinstance(default, int) and value < 1):
        raise RequestError(f"{name} = {text!r}: a positive number is needed, e.g. {default}")
    return value
