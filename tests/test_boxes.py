import torch

from saccade.boxes import fractions_to_pixels, logit, pixels_to_fractions


def test_pixels_and_fractions_are_inverse_and_do_not_swap_the_axes() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 200.0, 100.0]])
    fractions = pixels_to_fractions(boxes, (100, 200))
    torch.testing.assert_close(fractions[0], torch.tensor([0.1, 0.4, 0.1, 0.4]))
    torch.testing.assert_close(fractions[1], torch.tensor([0.5, 0.5, 1.0, 1.0]))
    torch.testing.assert_close(fractions_to_pixels(fractions, (100, 200)), boxes)


def test_logit_inverts_the_sigmoid_and_stays_finite() -> None:
    values = torch.linspace(-8, 8, 33, dtype=torch.float64)
    torch.testing.assert_close(logit(values.sigmoid()), values)
    assert logit(torch.tensor([-1.0, 0.0, 1.0, 2.0])).isfinite().all()
