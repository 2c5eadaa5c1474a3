"""Resolve host names to public addresses only, so that no URL or redirect of a list reaches a private network."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult

from zscir.data.download.failures import FetchFailure

# Azure's metadata and DNS address. Other clouds serve credentials at link-local addresses, which are refused as such.
METADATA_ADDRESSES = {ip_address("168.63.129.16")}
NAT64 = 0x0064FF9B << 96  # 64:ff9b::/96, RFC 6052
MAX_DNS_LOOKUPS = 64  # at the same time: one that is not answered holds its thread for many seconds


def forbidden_address_reason(address: str) -> str | None:
    """Why no request may go to an IP address, or None. What is not plainly an address is forbidden."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return "not a plain address"
    # RFC 7526 retired 6to4; newer Pythons call all of it not global, older ones do not.
    retired = isinstance(ip, IPv6Address) and ip.sixtofour is not None
    ip = _embedded(ip) or ip
    kinds = {
        "loopback": ip.is_loopback,
        "link-local": ip.is_link_local,
        "multicast": ip.is_multicast,
        "unspecified": ip.is_unspecified,
        "metadata": ip in METADATA_ADDRESSES,
        "private": ip.is_private,
        "reserved": ip.is_reserved or not ip.is_global or retired,
    }
    return next((kind for kind, is_so in kinds.items() if is_so), None)


def _embedded(ip: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one reaches: IPv4-mapped, 6to4 or NAT64."""
    if isinstance(ip, IPv4Address):
        return None
    if int(ip) >> 32 == NAT64 >> 32:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def check_url(url: str, allowed: frozenset[tuple[str, int]]) -> str:
    """The host of an http(s) URL. Raises FetchFailure when it is malformed or names a forbidden address literally."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise FetchFailure("bad_url", f"not a URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise FetchFailure("bad_url", f"scheme {parts.scheme[:20]!r}; allowed are http and https")
    if not host:
        raise FetchFailure("bad_url", "no host")
    if (host, port) not in allowed and _looks_like_address(host):
        why = forbidden_address_reason(host)
        if why:
            raise FetchFailure("forbidden_address", f"{host[:60]} is {why}")
    return host


def _looks_like_address(host: str) -> bool:
    # Also 2130706433, 127.1 and 0x7f.1, which the C library reads as addresses.
    last = host.rstrip(".").rpartition(".")[2]
    return ":" in host or last.isdigit() or last.startswith("0x")


class PublicAddressResolver(AbstractResolver):
    """Resolves names itself and returns only public addresses: the checked address is the one connected to, so that DNS
    rebinding gains nothing.

    ``allowed`` hosts may have any address; ``pinned`` ones, (host, port) to (address, port), are not looked up.
    """

    def __init__(self, allowed: frozenset[tuple[str, int]], pinned: dict[tuple[str, int], tuple[str, int]]) -> None:
        self._allowed = allowed
        self._pinned = pinned
        self._trusted: set[tuple[str, int]] = set(pinned.values())
        self._threads = ThreadPoolExecutor(MAX_DNS_LOOKUPS, thread_name_prefix="zscir-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of ``host`` that may get a request. Raises FetchFailure when there are none."""
        if (host, port) in self._pinned:
            address, real_port = self._pinned[host, port]
            return [_result(host, address, real_port, socket.AF_INET)]
        found = await self._look_up(host, port, family)
        if (host, port) in self._allowed:
            self._trusted.update((address, port) for _, address in found)
            return [_result(host, address, port, kind) for kind, address in found]
        refused = {address: forbidden_address_reason(address) for _, address in found}
        public = [_result(host, address, port, kind) for kind, address in found if refused[address] is None]
        if not public:
            address, why = next(iter(refused.items()))
            raise FetchFailure("forbidden_address", f"{host[:200]} has the address {address}, which is {why}")
        return public

    def socket_for(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """A socket for an address that is about to be connected to; PermissionError if it is forbidden after all."""
        family, kind, protocol, _, (address, port, *_) = addr_info
        literally_allowed = (address, port) in self._allowed
        if (address, port) not in self._trusted and not literally_allowed and forbidden_address_reason(address):
            raise PermissionError(f"{address} is {forbidden_address_reason(address)}")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        """Stop looking up names, without waiting for look-ups under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, host: str, port: int, family: socket.AddressFamily) -> list[tuple[int, str]]:
        def look_up() -> list[Any]:
            return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)

        try:
            infos = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise FetchFailure("dns_unanswered", "the name server did not answer") from None
            raise FetchFailure("dns", "no such host") from None
        except UnicodeError:
            raise FetchFailure("bad_url", "the host name cannot be encoded") from None
        return [(family, str(sockaddr[0])) for family, _, _, _, sockaddr in infos]


def _result(host: str, address: str, port: int, family: int) -> ResolveResult:
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
