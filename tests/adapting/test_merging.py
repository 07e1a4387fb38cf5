import math

import pytest
import torch

from indexer.adapting.merging import PARALLEL, mean, slerp


def test_slerp_goes_along_the_arc() -> None:
    east, north = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    for share in (0.25, 0.5, 0.9):
        found = slerp(east, north, share)
        angle = share * math.pi / 2
        assert torch.allclose(found, torch.tensor([[2 * math.cos(angle), 2 * math.sin(angle)]]), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ends_are_the_tensors_themselves(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    one, two = torch.randn(7, 5).to(dtype), torch.randn(7, 5).to(dtype)
    one[0, 0] = -0.0
    assert slerp(one, two, 0.0).numpy().tobytes() == one.float().numpy().tobytes(), "also the sign of zero"
    assert torch.equal(slerp(one, two, 1.0), two.float())


def test_parallel_opposite_and_empty_tensors_are_interpolated_linearly() -> None:
    one = torch.tensor([1.0, 2.0])
    assert torch.allclose(slerp(one, one * 3, 0.5), one * 2)
    assert torch.allclose(slerp(one, -one, 0.5), torch.zeros(2))
    assert torch.allclose(slerp(torch.zeros(2), one, 0.5), one / 2)
    near = one + torch.tensor([-2.0, 1.0]) * PARALLEL / 10
    assert torch.allclose(slerp(one, near, 0.5), (one + near) / 2, atol=0)


def test_a_tiny_angle_is_not_lost_to_rounding() -> None:
    """An arc cosine in float32 calls every angle below 3e-4 nothing."""
    angle = 1e-4
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(angle), math.sin(angle)])
    assert slerp(one, two, 0.5)[1] == pytest.approx(math.sin(angle / 2), rel=1e-5)


def test_the_mean_of_tensors_does_not_depend_on_their_length() -> None:
    directions = [torch.tensor([math.cos(angle), math.sin(angle)]) for angle in (0.0, 0.3, 0.6)]
    merged = mean(directions)
    assert torch.allclose(merged, directions[1], atol=1e-6)
    assert torch.equal(mean([merged]), merged)
