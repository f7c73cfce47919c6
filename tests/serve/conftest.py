import pytest

from tests.serve.asking import GatedEngine


@pytest.fixture
def engine() -> GatedEngine:
    return GatedEngine()
