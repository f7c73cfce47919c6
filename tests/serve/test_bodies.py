import base64
import json

import pytest

from saccade.serve.bodies import MAX_PARTS, extract_image
from saccade.serve.refusals import Refusal

FORM = "multipart/form-data; boundary=xyz"


def part(name: str, content: bytes = b"pixels") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="a.jpg"'
    return b"--xyz\r\n" + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


def test_a_form_gives_the_field_that_is_asked_for() -> None:
    body = part("other", b"text") + part("image", b"a\r\n--xy\r\nb") + part("last") + b"--xyz--\r\n"
    assert extract_image(FORM, body) == b"a\r\n--xy\r\nb"


@pytest.mark.parametrize("breaks", ["", "\n"])
def test_json_gives_the_decoded_base64(breaks: str) -> None:
    text = base64.b64encode(b"pixels" * 30).decode()
    wrapped = breaks.join(text[start : start + 76] for start in range(0, len(text), 76))
    body = json.dumps({"image": wrapped}).encode()
    assert extract_image("application/json; charset=utf-8", body) == b"pixels" * 30


@pytest.mark.parametrize(
    ("kind", "body", "status", "sentence"),
    [
        ("", b"", 415, "expected multipart/form-data"),
        ("text/plain", b"x", 415, 'the body is "text/plain"'),
        ("multipart/form-data", part("image"), 400, "names no boundary"),
        (FORM, b"", 400, "ends before its last boundary"),
        (FORM, b"nonsense", 400, "the form is malformed"),
        (FORM, part("image"), 400, "ends before its last boundary"),
        (FORM, part("photo") + b"--xyz--\r\n", 400, 'has no field "image"'),
        (FORM, part("image", b"") + b"--xyz--\r\n", 400, "the image is empty"),
        (FORM, part("image") * 2 + b"--xyz--\r\n", 400, "several fields"),
        (FORM, part("x") * (MAX_PARTS + 1) + b"--xyz--\r\n", 400, "more than 16 parts"),
        ("multipart/form-data; boundary=" + 300 * "x", b"", 400, "the form is malformed"),
        ("application/json", b"", 400, "Invalid JSON"),
        ("application/json", b"\xff\xfe", 400, "Invalid JSON"),
        ("application/json", b"[" * 100_000, 400, "Invalid JSON"),
        ("application/json", b"[]", 400, "the JSON is not as expected"),
        ("application/json", b"{}", 400, "at image (Field required)"),
        ("application/json", b'{"image": 3}', 400, "at image"),
        ("application/json", b'{"url": "http://a/b.jpg"}', 400, "the JSON is not as expected"),
        ("application/json", b'{"image": "\xc3\xa9"}', 400, "is not base64"),
        ("application/json", b'{"image": "data:image/png;base64,AA=="}', 400, "is not base64"),
        ("application/json", b'{"image": "A"}', 400, "is not base64"),
        ("application/json", b'{"image": ""}', 400, "the image is empty"),
    ],
)
def test_other_bodies_are_refused(kind: str, body: bytes, status: int, sentence: str) -> None:
    with pytest.raises(Refusal) as refusal:
        extract_image(kind, body)
    assert refusal.value.status_code == status
    assert sentence in refusal.value.detail
    assert len(refusal.value.detail) < 300
