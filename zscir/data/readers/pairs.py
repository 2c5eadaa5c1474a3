"""Clean and check the URL, text and licence of a row from a stranger's list."""

from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from zscir.data.download.fetch_spec import MAX_URL_CHARS

PAIR_ERROR_CHARS = 200
FILE_SCHEME = "file:"


class PairError(ValueError):
    """A row that becomes no pair: a short reason and the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail[:PAIR_ERROR_CHARS]


def pair_digest(url: str, text: str) -> bytes:
    """16 bytes that know a pair (the pair_id, in hexadecimal): the same URL with another text is another pair."""
    return sha256(f"{url}\n{text}".encode()).digest()[:16]


def clean_url(value: Any, prefix: str = "") -> str:
    """The URL without the blanks around it, after ``prefix``. Raises PairError: no_url, bad_url, not_http, bad_path.

    Only a ``prefix`` that begins with ``file:`` makes a URL of a local file: a list from a stranger cannot name one.
    """
    given = clean_string(value, "URL")
    if not given:
        raise PairError("no_url", "the field is empty")
    url = prefix + given
    if len(url) > MAX_URL_CHARS or not url.isprintable():
        raise PairError(
            "bad_url", "too long" if len(url) > MAX_URL_CHARS else f"control characters in {escape_non_ascii(url)}"
        )
    return file_url(url.removeprefix(FILE_SCHEME)) if prefix.startswith(FILE_SCHEME) else _web_url(url)


def file_url(path: str) -> str:
    """``file:`` and a path relative to the folder of the images, as it is written there: no escapes, no host, no root.

    It names the picture on every machine that has the folder, wherever that lies. Raises PairError: bad_path.
    """
    name = PurePosixPath(path)
    if not name.parts or name.is_absolute() or ".." in name.parts or "\\" in path or not path.isprintable():
        raise PairError("bad_path", f"no plain path below the folder of the images: {escape_non_ascii(path)}")
    return FILE_SCHEME + name.as_posix()


def _web_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise PairError("bad_url", f"{error}: {url}") from None
    if parts.scheme not in ("http", "https"):
        raise PairError("not_http", url)
    if not host:
        raise PairError("bad_url", f"no host: {url}")
    return url


def clean_text(value: Any, least: int, most: int) -> str:
    """The text without the blanks around it. Raises PairError: no_text, short_text, long_text."""
    text = clean_string(value, "text")
    if not text:
        raise PairError("no_text", "the field is empty")
    if len(text) < least:
        raise PairError("short_text", f"{len(text)} of at least {least} characters: {text}")
    if len(text) > most:
        raise PairError("long_text", f"{len(text)} of at most {most} characters: {text}")
    return text


def clean_string(value: Any, what: str) -> str:
    """Plain text of a field; empty for none. Raises PairError: bad_encoding, malformed."""
    if value is None:
        return ""
    try:
        if isinstance(value, bytes):
            return value.decode().strip()
        if isinstance(value, str):
            value.encode()  # UnicodeEncodeError for lone surrogates, which stand for bytes that were not UTF-8
            return value.strip()
    except UnicodeError:
        raise PairError("bad_encoding", f"the {what} is not UTF-8") from None
    raise PairError("malformed", f"the {what} is a {type(value).__name__}, not text")


def escape_non_ascii(text: str) -> str:
    """The text with everything beyond ASCII as escapes: what cannot be encoded would spoil a whole table."""
    return text.encode("ascii", "backslashreplace").decode()
