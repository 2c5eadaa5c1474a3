"""Addresses: a host name becomes the public addresses that may be asked; private ones are refused, at every hop."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult

from zscir.fetch.failures import Failure

# Where clouds answer with a machine's credentials. Most are link-local or private and refused as such; not this one.
METADATA = {ip_address("168.63.129.16")}
NAT64 = 0x0064FF9B << 96
LOOKUPS = 64  # at the same time: a name server that does not answer holds one of them for many seconds


def refusal(address: str) -> str | None:
    """Why an IP address may not be asked, or None. What is not plainly an address is refused."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return "not a plain address"
    # RFC 7526 retired 6to4; newer Pythons call all of it not global, older ones do not.
    retired = isinstance(ip, IPv6Address) and ip.sixtofour is not None
    ip = _embedded(ip) or ip
    kinds = {
        "loopback": ip.is_loopback, "link-local": ip.is_link_local, "multicast": ip.is_multicast,
        "unspecified": ip.is_unspecified, "metadata": ip in METADATA, "private": ip.is_private,
        "reserved": ip.is_reserved or not ip.is_global or retired,
    }  # fmt: skip
    return next((kind for kind, is_so in kinds.items() if is_so), None)


def _embedded(ip: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped, 6to4 and NAT64 reach it all the same."""
    if isinstance(ip, IPv4Address):
        return None
    if int(ip) >> 32 == NAT64 >> 32:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def check_url(url: str, allowed: frozenset[tuple[str, int]]) -> str:
    """The host of an http(s) URL. Raises Failure when the URL is odd or names a forbidden address literally."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise Failure("bad_url", f"not a URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise Failure("bad_url", f"scheme {parts.scheme[:20]!r}; allowed are http and https")
    if not host:
        raise Failure("bad_url", "no host")
    if (host, port) not in allowed and _looks_like_address(host):
        why = refusal(host)
        if why:
            raise Failure("forbidden_address", f"{host[:60]} is {why}")
    return host


def _looks_like_address(host: str) -> bool:
    # Also 2130706433, 127.1 and 0x7f.1, which the C library reads as addresses; `refusal` passes the plain form only.
    last = host.rstrip(".").rpartition(".")[2]
    return ":" in host or last.isdigit() or last.startswith("0x")


class CheckedResolver(AbstractResolver):
    """Looks names up itself and hands on only public addresses, so that what was checked is what is connected to.

    ``allowed`` hosts may have any address; ``pinned`` ones are looked up nowhere.
    """

    def __init__(self, allowed: frozenset[tuple[str, int]], pinned: dict[tuple[str, int], tuple[str, int]]) -> None:
        self._allowed = allowed
        self._pinned = pinned
        self._vouched: set[tuple[str, int]] = set(pinned.values())
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="zscir-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of ``host`` that may be asked. Raises Failure when there are none."""
        if (host, port) in self._pinned:
            address, real_port = self._pinned[host, port]
            return [_result(host, address, real_port, socket.AF_INET)]
        found = await self._look_up(host, port, family)
        if (host, port) in self._allowed:
            self._vouched.update((address, port) for _, address in found)
            return [_result(host, address, port, kind) for kind, address in found]
        refused = {address: refusal(address) for _, address in found}
        public = [_result(host, address, port, kind) for kind, address in found if refused[address] is None]
        if not public:
            address, why = next(iter(refused.items()))
            raise Failure("forbidden_address", f"{host[:200]} has the address {address}, which is {why}")
        return public

    def socket_for(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """The last net: a socket for an address that is about to be connected to, or OSError if it is forbidden."""
        family, kind, protocol, _, (address, port, *_) = addr_info
        literally_allowed = (address, port) in self._allowed
        if (address, port) not in self._vouched and not literally_allowed and refusal(address):
            raise PermissionError(f"{address} is {refusal(address)}")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        """Wait for no look-up that is still under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, host: str, port: int, family: socket.AddressFamily) -> list[tuple[int, str]]:
        def ask() -> list[Any]:
            return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)

        try:
            infos = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise Failure("dns_unanswered", "the name server did not answer") from None
            raise Failure("dns", "no such host") from None
        except UnicodeError:
            raise Failure("bad_url", "the host name cannot be encoded") from None
        return [(family, str(sockaddr[0])) for family, _, _, _, sockaddr in infos]


def _result(host: str, address: str, port: int, family: int) -> ResolveResult:
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
