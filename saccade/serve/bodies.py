"""The image file inside a request's body: a multipart form's, or JSON's."""

import base64
import binascii

from pydantic import BaseModel, ConfigDict, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from saccade.serve.refusals import Refusal

MAX_PARTS = 16
"""A form of more parts than this has no other purpose than to take time."""

FIELD = "image"


class JsonBody(BaseModel):
    """A request in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: str
    """The image file in base64; spaces and line breaks do not matter."""


def extract_image(content_type: str, body: bytes, encoding: str = "") -> bytes:
    """The image file that a body holds.

    Args:
        content_type: The request's, ``multipart/form-data`` or ``application/json``.
        body: All of it.
        encoding: How it is compressed, which it must not be: images are already.

    Raises:
        Refusal: If it holds none, or is malformed.
    """
    if encoding.lower() not in ("", "identity"):
        raise Refusal(
            415, f'the body is encoded as "{encoding[:80]}": send it as it is.', "content type"
        )
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        image = _from_form(body, options.get(b"boundary", b""))
    elif kind == b"application/json":
        image = _from_json(body)
    else:
        raise Refusal(
            415,
            f'the body is "{kind.decode("latin-1")[:80]}": expected multipart/form-data with a '
            f'file in the field "{FIELD}", or application/json.',
            "content type",
        )
    if not image:
        raise Refusal(400, "the image is empty: send the bytes of an image file.", "malformed")
    return image


def _from_json(body: bytes) -> bytes:
    try:
        text = JsonBody.model_validate_json(body).image
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Refusal(
            400,
            f"the JSON is not as expected{f' at {place[:80]}' if place else ''} ({first['msg']}): "
            'send {"image": "BASE64"}.',
            "malformed",
        ) from error
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(
            400,
            f"the JSON's \"{FIELD}\" is not base64 ({error}): send the image file's bytes in "
            "base64, without a prefix.",
            "malformed",
        ) from error


class _Form:
    """Collects the one part that is asked for."""

    def __init__(self) -> None:
        self.image: bytearray | None = None
        self.complete = False
        self._parts = 0
        self._wanted = False
        self._name, self._value = bytearray(), bytearray()

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Refusal(400, f"the form has more than {MAX_PARTS} parts.", "malformed")
        self._wanted = False

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._wanted = options.get(b"name") == FIELD.encode()
        self._name.clear()
        self._value.clear()

    def on_headers_finished(self) -> None:
        if not self._wanted:
            return
        if self.image is not None:
            raise Refusal(
                400, f'the form has several fields "{FIELD}": send one image.', "malformed"
            )
        self.image = bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted and self.image is not None:
            self.image += data[start:end]

    def on_end(self) -> None:
        self.complete = True


def _from_form(body: bytes, boundary: bytes) -> bytes:
    form = _Form()
    if not boundary:
        raise Refusal(400, "the form's Content-Type names no boundary.", "malformed")
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.on_part_begin,
                "on_header_field": form.on_header_field,
                "on_header_value": form.on_header_value,
                "on_header_end": form.on_header_end,
                "on_headers_finished": form.on_headers_finished,
                "on_part_data": form.on_part_data,
                "on_end": form.on_end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refusal(400, f"the form is malformed ({error}).", "malformed") from error
    if not form.complete:
        raise Refusal(400, "the form ends before its last boundary.", "malformed")
    if form.image is None:
        raise Refusal(400, f'the form has no field "{FIELD}": send the file in it.', "malformed")
    return bytes(form.image)
