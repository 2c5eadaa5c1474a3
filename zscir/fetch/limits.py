"""Limits: what a source's spec says about how far and how politely its URLs may be fetched."""

from typing import Annotated

from pydantic import Field, field_validator

from zscir.images import HARD_MAX_PIXELS
from zscir.specs import Spec

MIB = 1024 * 1024


class FetchSpec(Spec):
    """Bounds per URL. All seconds are wall-clock; waiting for a free slot of the host is not counted."""

    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 30.0  # requests, redirects, retries and back-off together
    retries: Annotated[int, Field(ge=0, le=10)] = 2  # after transient failures only
    backoff_s: Annotated[float, Field(gt=0, le=60)] = 0.5  # before the first retry; doubles, with jitter
    max_retry_after_s: Annotated[float, Field(ge=0, le=600)] = 20.0  # a host that asks for more is not asked again
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 5
    max_bytes: Annotated[int, Field(ge=1, le=256 * MIB)] = 32 * MIB
    max_pixels: Annotated[int, Field(ge=1, le=HARD_MAX_PIXELS)] = HARD_MAX_PIXELS
    per_host: Annotated[int, Field(ge=1, le=1024)] = 8  # requests at the same time to one host
    allow_hosts: tuple[str, ...] = ()  # "host:port" of servers of your own that may have a private address

    @field_validator("allow_hosts")
    @classmethod
    def _host_and_port(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            host, _, port = value.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"{value!r} is not host:port, for example 127.0.0.1:8000")
        return values
