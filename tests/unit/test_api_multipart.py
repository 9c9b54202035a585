"""The file of a multipart body, whatever pieces it comes in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.multipart import FormFile
from penstock.api.problems import Problem

TYPE = "multipart/form-data; boundary=XyZ"


def body(*parts: tuple[str, bytes], end: bytes = b"--XyZ--\r\n") -> bytes:
    return (
        b"".join(
            b"--XyZ\r\n" + headers.encode() + b"\r\n\r\n" + content + b"\r\n"
            for headers, content in parts
        )
        + end
    )


FILE = 'Content-Disposition: form-data; name="file"; filename="a.csv"\r\nContent-Type: text/csv'
FIELD = 'Content-Disposition: form-data; name="carrier"'


def take(data: bytes, step: int = 10**9, content_type: str = TYPE) -> tuple[bytes, FormFile]:
    form, out = FormFile(content_type), b""
    for at in range(0, len(data), step):
        out += form.feed(data[at : at + step])
    form.end()
    return out, form


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    "content",
    [b"a,b\r\n1,2\r\n", b"", b"\r\n", b"\r\n--Xy", b"--XyZ no boundary", b"\r\n\r\n--", b"\0\xff"],
)
def test_the_file_is_what_was_sent(content: bytes, step: int) -> None:
    data = b"preamble\r\n" + body((FIELD, b"ups"), (FILE, content), (FIELD, b"\r\n--no"))
    found, form = take(data, step)
    assert found == content
    assert form.filename == "a.csv"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 20))
def test_any_contents_in_any_pieces(content: bytes, step: int) -> None:
    if b"\r\n--XyZ" in b"\r\n" + content:
        return
    assert take(body((FILE, content)), step)[0] == content


def test_a_part_called_file_needs_no_file_name() -> None:
    found, form = take(body(('Content-Disposition: form-data; name="file"', b"x")))
    assert (found, form.filename) == (b"x", None)


def test_a_boundary_may_be_quoted_and_followed_by_blanks() -> None:
    data = body((FILE, b"x")).replace(b"--XyZ\r\n", b"--XyZ \t\r\n")
    assert take(data, 1, 'Multipart/Form-Data; charset=x; boundary="XyZ"')[0] == b"x"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no boundary at all",
        body((FILE, b"x"), end=b""),
        body((FILE, b"x"), end=b"--XyZ"),
        body((FIELD, b"ups")),
        body((FILE, b"x"), (FILE, b"y")),
        b"--XyZelse\r\n" + FILE.encode() + b"\r\n\r\nx\r\n--XyZ--",
        b"--XyZ\r\n" + b"A: " + b"x" * 10_000 + b"\r\n\r\nx\r\n--XyZ--",
        body(*[(FIELD, b"x")] * 30, (FILE, b"x")),
    ],
)
@pytest.mark.parametrize("step", [3, 10**9])
def test_a_body_that_is_none_is_refused(data: bytes, step: int) -> None:
    with pytest.raises(Problem) as refused:
        take(data, step)
    assert refused.value.code == "bad_request"


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", f"m/f; boundary={'x' * 71}"],
)
def test_a_type_without_a_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(Problem, match="boundary"):
        FormFile(content_type)
