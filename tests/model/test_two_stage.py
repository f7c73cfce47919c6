import torch

from saccade.model.encoder import token_centres
from saccade.model.two_stage import default_boxes
from saccade.structures import Tokens


def tokens(shapes: tuple[tuple[int, int], ...], ratios: list[list[float]]) -> Tokens:
    count = sum(height * width for height, width in shapes)
    features = torch.zeros(1, count, 4)
    return Tokens(features, features, None, shapes, torch.tensor([ratios]))


def test_centres_are_fractions_of_the_image_and_leave_it_in_the_padding() -> None:
    """A map of 2x4 tokens of which the image fills the left half."""
    centres = token_centres([(2, 4)], torch.tensor([[[0.5, 1.0]]]))[0]
    torch.testing.assert_close(centres[:, 0], torch.tensor([0.25, 0.75, 1.25, 1.75]).repeat(2))
    torch.testing.assert_close(centres[:, 1], torch.tensor([0.25, 0.75]).repeat_interleave(4))


def test_default_sides_double_with_every_level() -> None:
    boxes = default_boxes(tokens(((2, 2), (1, 1)), [[1.0, 1.0], [1.0, 1.0]]))[0]
    torch.testing.assert_close(boxes[:4, 2:], torch.full((4, 2), 0.05))
    torch.testing.assert_close(boxes[4], torch.tensor([0.5, 0.5, 0.1, 0.1]))
