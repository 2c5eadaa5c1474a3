"""URLs and texts as strangers give them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.data.readers.pairs import PairError, clean_text, clean_url, file_url

ANY = st.one_of(st.none(), st.integers(), st.binary(max_size=20), st.text(max_size=40), st.just("http://a.test/1 2"))


@pytest.mark.parametrize(
    ("path", "url"),
    [("a.jpg", "file:a.jpg"), ("./a.jpg", "file:a.jpg"), ("sub//b c.jpg", "file:sub/b c.jpg"),
     ("sub/./#1?%20.jpg", "file:sub/#1?%20.jpg"), ("..a/b..jpg", "file:..a/b..jpg")],
)  # fmt: skip
def test_a_picture_has_one_url_however_its_path_is_written(path: str, url: str) -> None:
    assert file_url(path) == url
    assert clean_url(f" {path}\n", "file:") == url


@pytest.mark.parametrize("path", ["", ".", "/", "/a.jpg", "../a", "a/..", "a\\b", "a\x00b", "a\tb", "~/../a"])
def test_a_path_that_could_lead_out_of_the_folder_makes_no_url(path: str) -> None:
    with pytest.raises(PairError) as caught:
        file_url(path)
    assert caught.value.reason == "bad_path"


@given(value=ANY, prefix=st.sampled_from(["", "http://a.test/", "file:", "file:sub/"]))
def test_what_comes_through_is_an_address_of_the_kind_that_the_spec_wants(value: object, prefix: str) -> None:
    try:
        url = clean_url(value, prefix)
    except PairError as bad:
        bad.detail.encode()
        return
    assert url.startswith("file:" if prefix.startswith("file:") else ("http://", "https://"))
    assert url.isprintable()
    assert ".." not in url.removeprefix("file:").split("/") or not url.startswith("file:")


@given(value=ANY, least=st.integers(1, 5))
def test_a_text_that_comes_through_has_the_wanted_length(value: object, least: int) -> None:
    try:
        text = clean_text(value, least, 30)
    except PairError:
        return
    assert least <= len(text) <= 30
    assert text == text.strip()
