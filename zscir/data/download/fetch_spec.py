"""The bounds of a fetch (per URL, host and chunk) and of resizing, as spec fields."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from zscir.data.images.decode import HARD_MAX_PIXELS
from zscir.runtime.specs import Spec

MIB = 1024 * 1024
MAX_URL_CHARS = 8192  # Apache and nginx take a request line of 8 kB by default
# Defaults of fields that are None: those came later, and a default in the field would have changed every key.
MAX_WAIT_S = 60.0
BREAKER_FAILURES = 10
BREAKER_S = 15.0
CHUNK_DEADLINE_S = 3600.0


class ResizeSpec(Spec):
    """Which images are taken, and to which pixels they are brought. Resize modes are img2dataset's."""

    resize_mode: Literal["keep_ratio", "keep_ratio_largest", "center_crop", "border", "no"] = "keep_ratio"
    image_size: Annotated[int, Field(ge=16, le=4096)] = 256  # px: short side (keep_ratio, center_crop) or long
    only_if_bigger: bool = True
    quality: Annotated[int, Field(ge=1, le=100)] = 92
    keep_jpegs: bool = False  # a plain JPEG that needs no resizing keeps its bytes (and its metadata)
    max_bytes: Annotated[int, Field(ge=1, le=256 * MIB)] = 32 * MIB
    max_pixels: Annotated[int, Field(ge=1, le=HARD_MAX_PIXELS)] = HARD_MAX_PIXELS


class FetchSpec(Spec):
    """Bounds per URL, host and chunk. All seconds are wall-clock.

    A URL's deadline runs during requests and between retries, not while it waits for its host: for a free slot, its
    turn at ``max_per_s``, or (at most ``max_wait_s`` in all) until a host that is busy or down recovers.
    """

    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 30.0  # requests, redirects, retries and back-off together
    retries: Annotated[int, Field(ge=0, le=10)] = 2  # after transient failures only
    backoff_s: Annotated[float, Field(gt=0, le=60)] = 0.5  # before the first retry; doubles, with jitter
    max_retry_after_s: Annotated[float, Field(ge=0, le=600)] = 20.0  # a longer Retry-After ends the retries
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 5
    max_bytes: Annotated[int, Field(ge=1, le=256 * MIB)] = 32 * MIB
    max_pixels: Annotated[int, Field(ge=1, le=HARD_MAX_PIXELS)] = HARD_MAX_PIXELS
    per_host: Annotated[int, Field(ge=1, le=1024)] = 8  # requests at the same time to one host
    allow_hosts: tuple[str, ...] = ()  # "host:port" of servers of your own that may have a private address
    max_per_s: Annotated[float, Field(gt=0, le=10_000)] | None = None  # requests per second to one host; None: no limit
    max_wait_s: Annotated[float, Field(ge=0, le=86_400)] | None = None  # None: 60 s; lists of one host want more
    breaker_failures: Annotated[int, Field(ge=1)] | None = None  # in a row, then the host counts as down; None: 10
    breaker_s: Annotated[float, Field(gt=0, le=600)] | None = None  # for how long at first; doubles; None: 15 s
    chunk_deadline_s: Annotated[float, Field(gt=0, le=604_800)] | None = None  # None: an hour, more if max_per_s is low
    robots_txt: bool | None = None  # None: not read; X-Robots-Tag is always honoured

    @field_validator("allow_hosts")
    @classmethod
    def _host_and_port(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            host, _, port = value.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"{value!r} is not host:port, for example 127.0.0.1:8000")
        return values

    def wait_s(self) -> float:
        """Seconds that a URL may wait for hosts that are busy or down, in all."""
        return MAX_WAIT_S if self.max_wait_s is None else self.max_wait_s

    def chunk_s(self, urls: int) -> float:
        """Seconds for ``urls`` URLs together; without a deadline in the spec, enough for all at one host's rate."""
        if self.chunk_deadline_s is not None:
            return self.chunk_deadline_s
        return CHUNK_DEADLINE_S + (urls / self.max_per_s if self.max_per_s else 0.0)
