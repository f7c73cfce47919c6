"""Whatever a client makes of the OpenAPI description, the server answers it as described."""

from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi import checks

from saccade.serve.app import create_app
from saccade.serve.served import Served
from saccade.serve.settings import Limits
from tests.serve.asking import GatedEngine

CHECKS: list[CheckFunction] = []
