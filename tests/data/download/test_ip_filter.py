import asyncio
import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.data.download.failures import FetchFailure
from zscir.data.download.ip_filter import PublicAddressResolver, check_url, forbidden_address_reason

NOBODY: frozenset[tuple[str, int]] = frozenset()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "loopback"), ("127.8.8.8", "loopback"), ("::1", "loopback"), ("0.0.0.0", "unspecified"),
        ("::", "unspecified"), ("10.1.2.3", "private"), ("172.16.0.1", "private"), ("192.168.1.1", "private"),
        ("fd00:ec2::254", "private"), ("169.254.169.254", "link-local"), ("fe80::1%eth0", "link-local"),
        ("224.0.0.1", "multicast"), ("ff02::1", "multicast"), ("168.63.129.16", "metadata"),
        ("100.100.100.200", "reserved"), ("255.255.255.255", "private"),
        ("240.0.0.1", "private"), ("::ffff:127.0.0.1", "loopback"), ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::7f00:1", "loopback"), ("64:ff9b::a9fe:a9fe", "link-local"), ("2002:7f00:1::", "loopback"),
        ("2002:a00:1::", "private"), ("2002:808:808::", "reserved"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "private"),
        ("localhost", "not a plain address"), ("127.1", "not a plain address"), ("2130706433", "not a plain address"),
        ("0x7f.0.0.1", "not a plain address"), ("0177.0.0.1", "not a plain address"), ("", "not a plain address"),
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str, why: str) -> None:
    assert forbidden_address_reason(address) == why


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_public_addresses_may_be_requested(address: str) -> None:
    assert forbidden_address_reason(address) is None


@given(st.ip_addresses())
def test_whatever_python_calls_not_global_is_refused(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if not ip.is_global or ip.is_multicast:
        assert forbidden_address_reason(str(ip)) is not None or str(ip).startswith("64:ff9b:")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.jpg", "https://127.0.0.1:8443/a", "http://[::1]/", "http://2130706433/", "http://127.1/",
        "http://0x7f000001/", "http://0177.0.0.1/", "http://127.0.0.1./", "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/", "http://user:secret@10.0.0.1/", "http://\uff11\uff12\uff17.0.0.1/",
        "http://0/", "http://1.2.3.4.5/", "http://[fe80::1%25eth0]/",
    ],
)  # fmt: skip
def test_a_url_with_a_forbidden_address_in_any_spelling_is_refused(url: str) -> None:
    with pytest.raises(FetchFailure) as refused:
        check_url(url, NOBODY)
    assert refused.value.error_class == "forbidden_address"
    assert not refused.value.transient


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org/a.jpg", "data:image/png;base64,AAAA", "//example.org/a", "a.jpg", "",
     "http://", "http:///a.jpg", "http://[::1/a", "http://example.org:99999/", "javascript:alert(1)"],
)  # fmt: skip
def test_only_http_urls_with_a_host_are_requested(url: str) -> None:
    with pytest.raises(FetchFailure) as refused:
        check_url(url, NOBODY)
    assert refused.value.error_class == "bad_url"


def test_an_allowed_host_counts_with_its_port_only() -> None:
    allowed = frozenset({("127.0.0.1", 8000)})
    assert check_url("http://127.0.0.1:8000/a", allowed) == "127.0.0.1"
    with pytest.raises(FetchFailure):
        check_url("http://127.0.0.1:8001/a", allowed)


def resolve(resolver: PublicAddressResolver, host: str, port: int) -> list[str]:
    return [result["host"] for result in asyncio.run(resolver.resolve(host, port, socket.AF_UNSPEC))]


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.1"])
def test_names_and_spellings_that_lead_to_loopback_are_refused(host: str) -> None:
    with pytest.raises(FetchFailure, match="is loopback"):
        resolve(PublicAddressResolver(NOBODY, {}), host, 80)


def test_an_allowed_name_may_have_a_private_address_at_its_port_only() -> None:
    resolver = PublicAddressResolver(frozenset({("localhost", 8000)}), {})
    assert set(resolve(resolver, "localhost", 8000)) <= {"127.0.0.1", "::1"}
    with pytest.raises(FetchFailure, match="is loopback"):
        resolve(resolver, "localhost", 8001)


def test_a_pinned_name_is_looked_up_nowhere() -> None:
    resolver = PublicAddressResolver(NOBODY, {("tabletop.test", 80): ("127.0.0.1", 4321)})
    [found] = asyncio.run(resolver.resolve("tabletop.test", 80))
    assert (found["host"], found["port"]) == ("127.0.0.1", 4321)
    with pytest.raises(FetchFailure, match="no such host"):
        resolve(resolver, "other.test", 80)


def test_no_socket_is_made_for_an_address_that_nobody_vouched_for() -> None:
    resolver = PublicAddressResolver(NOBODY, {("tabletop.test", 80): ("127.0.0.1", 4321)})
    resolver.socket_for((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 4321))).close()
    for address in ("127.0.0.1", "10.0.0.1", "localhost", "127.1"):
        with pytest.raises(PermissionError):
            resolver.socket_for((socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80)))
