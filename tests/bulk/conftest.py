from pathlib import Path

import pytest
import torch

from saccade import Detector
from saccade.model import DetectorModel
from tests.conftest import small_config


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # With sigmoids, so that every query speaks for both classes.
    config = small_config("learned")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    Detector(config, DetectorModel(config)).save_pretrained(folder)
    return folder
