"""Whatever a client makes of the OpenAPI description, the server answers it as described."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.openapi import from_asgi
from schemathesis.schemas import BaseSchema as OpenApiSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from saccade.serve.app import create_app
from saccade.serve.served import Served
from tests.serve.asking import GatedEngine

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


QUESTIONS = [
    ("GET", "/health"),
    ("GET", "/models"),
    ("GET", "/metrics"),
    ("POST", "/predict"),
    ("POST", "/look"),
    ("POST", "/look/pixel"),
]


def nothing(*_: Any) -> Mapping[str, Any]:
    return {}


@pytest.fixture(scope="module")
def schema() -> OpenApiSchema:
    models = [Served("small", GatedEngine()), Served("x", GatedEngine())]
    app = create_app(models, look=nothing, look_from_pixel=nothing)
    return from_asgi("/openapi.json", app)


def ask_everything(operation: Any, mode: GenerationMode, examples: int) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def is_answered(case: Case) -> None:
        case.call_and_validate(checks=CHECKS)

    is_answered()


def test_every_path_is_asked(schema: OpenApiSchema) -> None:
    described = {
        (method.upper(), path)
        for path, methods in schema.raw_schema["paths"].items()
        for method in methods
    }
    assert described == set(QUESTIONS)


@pytest.mark.parametrize(("method", "path"), QUESTIONS)
def test_answers_are_as_described(schema: OpenApiSchema, method: str, path: str) -> None:
    ask_everything(schema[path][method], GenerationMode.POSITIVE, 8)


@pytest.mark.parametrize("path", [path for method, path in QUESTIONS if method == "POST"])
def test_what_is_not_as_described_is_no_servers_error(schema: OpenApiSchema, path: str) -> None:
    ask_everything(schema[path]["POST"], GenerationMode.NEGATIVE, 8)


@pytest.mark.slow
@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", [path for method, path in QUESTIONS if method == "POST"])
def test_many_questions_find_no_servers_error(
    schema: OpenApiSchema, path: str, mode: GenerationMode
) -> None:
    ask_everything(schema[path]["POST"], mode, 500)
