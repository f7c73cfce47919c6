"""What requests and answers look like, for OpenAPI."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from saccade.serve.batching import MAX_TOP_K
from saccade.serve.bodies import FIELD, JsonBody

MAX_EXPLAINED = 300
"""Most objects whose points are told: six layers of 128 points are 25 kB each."""


class ModelQuery(BaseModel):
    """What every question may say."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Which model; by default the first of /models.")


class LookQuery(ModelQuery):
    """Options of `POST /look`."""

    top_k: int = Field(100, ge=1, le=MAX_EXPLAINED, description="Most objects.")


class PredictQuery(ModelQuery):
    """Options of `POST /predict`."""

    top_k: int = Field(100, ge=1, le=MAX_TOP_K, description="Most objects.")

    threshold: float | None = Field(
        None, ge=0, le=1, description="Lowest score reported; by default the model's."
    )


class PixelQuery(ModelQuery):
    """Options of `POST /look/pixel`."""

    x: float = Field(allow_inf_nan=False, description="Pixels of the image from its left edge.")
    y: float = Field(allow_inf_nan=False, description="Pixels of the image from its upper edge.")


class Size(BaseModel):
    """Of the image, upright, in pixels."""

    width: int
    height: int


class Detection(BaseModel):
    """An object."""

    class_: str = Field(alias="class")
    label: int = Field(description="Index into the model's class names.")
    score: float
    box: list[float] = Field(
        min_length=4, max_length=4, description="x0, y0, x1, y1 in pixels of the upright image."
    )


class Prediction(BaseModel):
    """What was found, best first."""

    model: str
    image: Size
    detections: list[Detection]
    milliseconds: float = Field(description="From the request to its answer, waiting included.")


class ModelInfo(BaseModel):
    """A model that is served."""

    name: str
    class_names: list[str]
    threshold: float = Field(description="Of requests that name no other.")
    explains: bool = Field(description="Whether /look answers for it.")


class Health(BaseModel):
    """Whether requests are answered."""

    status: str = Field(description='"ok", or "draining" before the end.')
    models: list[str]


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str = Field(description="One sentence.")


IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            },
            "application/json": {"schema": JsonBody.model_json_schema()},
        },
    }
}
"""How an image is sent."""

_PROBLEMS = {
    400: "The request is malformed.",
    401: "The token is missing or wrong.",
    403: "The request comes from another site's page.",
    404: "There is no such model.",
    408: "The request took too long to arrive.",
    409: "The model does not tell where it looks.",
    413: "The request or the image is too large.",
    415: "The body is of another kind.",
    421: "The server is not known by the name in Host.",
    422: "An option is not as expected, or the image cannot be read.",
    429: "Too much at once: Retry-After tells when to ask again, in seconds.",
    504: "The answer took too long.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Answers other than 200, for OpenAPI."""
    return {
        status: {"model": Problem, "description": _PROBLEMS[status]} for status in sorted(statuses)
    }
