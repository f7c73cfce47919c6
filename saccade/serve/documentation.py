"""`/docs`: the OpenAPI description as a page without scripts or outside addresses."""

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; font-size: 1.1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; }
pre { overflow-x: auto; padding: 0.75rem; border: 1px solid #8888; border-radius: 4px; }
table { border-collapse: collapse; }
td { padding: 0.15rem 1rem 0.15rem 0; vertical-align: top; }
"""

_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'"
)
"""The page has its style in itself, and nothing else."""


def documentation(openapi: Mapping[str, Any]) -> str:
    """The page.

    Args:
        openapi: FastAPI's description of the application.
    """
    schemas = openapi["components"]["schemas"]
    sections = [
        _operation(path, method, operation, schemas)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(openapi["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{title} {escape(openapi['info']['version'])}</h1>"
        f"<p>{escape(openapi['info'].get('summary', ''))} Machines read the same in "
        '<a href="/openapi.json">openapi.json</a>; the viewer is at <a href="/">/</a>.</p>'
        f"{''.join(sections)}</body></html>\n"
    )


def _operation(
    path: str, method: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> str:
    parts = [
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>",
        f"<p>{escape(operation.get('description', ''))}</p>",
    ]
    if "parameters" in operation:
        parts.append(_table({each["name"]: _parameter(each) for each in operation["parameters"]}))
    if "requestBody" in operation:
        parts.append(
            "<p>The image is sent as</p>"
            f"<pre>curl -F image=@photo.jpg http://HOST{escape(path)}</pre>"
            '<p>or as JSON, <code>{"image": "BASE64"}</code>.</p>'
        )
    answer = operation["responses"]["200"].get("content", {}).get("application/json", {})
    example = _example(answer.get("schema", {}), schemas)
    if example:
        parts.append(f"<p>Answer</p><pre>{escape(json.dumps(example, indent=1))}</pre>")
    parts.append(
        _table(
            {
                status: response["description"]
                for status, response in operation["responses"].items()
                if status != "200"
            }
        )
    )
    return "".join(parts)


def _parameter(parameter: Mapping[str, Any]) -> str:
    schema = parameter["schema"]
    default = schema.get("default")
    words = [parameter.get("description", "")]
    if parameter.get("required"):
        words.append("Required.")
    if default is not None:
        words.append(f"By default {default}.")
    return " ".join(words)


def _table(rows: Mapping[str, str]) -> str:
    cells = (
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(text)}</td></tr>"
        for name, text in rows.items()
    )
    return f"<table>{''.join(cells)}</table>"


def _example(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    """The shape of an answer: names, and of what type their values are."""
    if "$ref" in schema:
        return _example(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if schema.get("type") == "array":
        return [_example(schema["items"], schemas)] * schema.get("minItems", 1)
    if "properties" in schema:
        return {name: _example(each, schemas) for name, each in schema["properties"].items()}
    return schema.get("type", "")
