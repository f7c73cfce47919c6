"""The viewer before the real server, with real detectors."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import expect

from saccade.analysis.sampling_points import look, look_from_pixel
from saccade.inference import Detector
from saccade.model import DetectorModel
from saccade.serve.app import create_app
from saccade.serve.served import Served
from tests.conftest import small_config
from tests.serve.asking import serving
from tests.serve.viewer.chromium import Tab

EXAMPLES = Path(__file__).parents[3] / "examples" / "blood-cells"
PHOTO = EXAMPLES / "test" / "BloodImage_00007.jpg"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a server of a trained deformable detector and a dense one with random weights."""
    torch.manual_seed(0)
    config = small_config("detr")
    detectors = {
        "cells": Detector.from_pretrained(EXAMPLES / "nano"),
        "dense": Detector(config, DetectorModel(config)),
    }
    served = [Served(name, each.engine, each) for name, each in detectors.items()]
    with serving(create_app(served, look=look, look_from_pixel=look_from_pixel)) as address:
        yield address


def test_cells_are_found_and_explained(viewer: Callable[..., Tab], address: str) -> None:
    page = viewer(address=address, respond=None).page
    page.set_input_files("#file", PHOTO)
    canvas = page.locator(".stage canvas")
    expect(page.locator("[role=option]").first).to_contain_text("WBC")
    page.locator("[role=option]").first.click()
    expect(canvas).to_have_attribute("data-layer", "3")
    # 8 heads, 3 levels, 4 points.
    expect(canvas).to_have_attribute("data-points", "96")
    page.locator("#pixel-x").fill("160")
    page.locator("#pixel-y").fill("120")
    page.keyboard.press("Enter")
    expect(canvas).to_have_attribute("data-points", "288")


@pytest.mark.slow
def test_a_dense_detector_shows_its_strongest_keys(
    viewer: Callable[..., Tab], address: str
) -> None:
    page = viewer(address=address, respond=None).page
    page.select_option("#model", "dense")
    page.set_input_files("#file", PHOTO)
    page.locator("#threshold").fill("0")
    page.locator("[role=option]").first.click()
    expect(page.locator("#explanation-note")).to_contain_text("strongest keys")
    assert int(page.locator(".stage canvas").get_attribute("data-points") or 0) > 0


@pytest.mark.slow
def test_what_the_server_refuses_is_said(viewer: Callable[..., Tab], address: str) -> None:
    tab = viewer(address=address, respond=None)
    tab.page.set_input_files("#file", PHOTO)
    expect(tab.page.locator("[role=option]").first).to_be_visible()
    tab.page.locator("#pixel-x").fill("5000")
    tab.page.locator("#pixel-y").fill("5")
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator("figcaption")).to_contain_text("5000")
    assert len(tab.complaints) == 1
    tab.complaints.clear()
