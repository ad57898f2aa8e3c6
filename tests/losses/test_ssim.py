"""The fused structural similarity against pytorch_msssim in float64."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from pytorch_msssim import SSIM
from torch import Tensor

from gradiseg_ns.losses.ssim import FastSSIM, structural_similarity
from gradiseg_ns.rendering import set_num_threads


@pytest.fixture(autouse=True)
def _default_threads():
    yield
    set_num_threads(None)


def _picture(height: int, width: int, seed: int = 0) -> Tensor:
    """[H, W, 3]: soft shapes, some of them saturated."""
    coarse = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(seed))
    return (
        F.interpolate(coarse, size=(height, width), mode="bicubic")[0]
        .clamp(0.1, 0.9)
        .permute(1, 2, 0)
        .contiguous()
    )


def _noisy(image: Tensor, amount: float = 0.05) -> Tensor:
    return image + amount * torch.randn(image.shape, generator=torch.Generator().manual_seed(9))


def _reference(truth: Tensor, predicted: Tensor, data_range: float = 1.0) -> tuple[Tensor, Tensor]:
    """Value and gradient [H, W, 3] in float64."""
    x, y = truth.double(), predicted.detach().double().requires_grad_()
    value = SSIM(data_range=data_range, size_average=True, channel=3)(
        x.permute(2, 0, 1)[None], y.permute(2, 0, 1)[None]
    )
    value.backward()
    assert y.grad is not None
    return value.detach(), y.grad


def _fused(truth: Tensor, predicted: Tensor, data_range: float = 1.0) -> tuple[Tensor, Tensor]:
    y = predicted.detach().clone().requires_grad_()
    value = structural_similarity(truth, y, data_range)
    assert "_Similarity" in type(value.grad_fn).__name__  # not the fallback
    value.backward()
    assert y.grad is not None
    return value.detach(), y.grad


def _close(fused: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> None:
    assert abs(fused[0] - reference[0]) < 1e-5 * abs(reference[0])
    assert (fused[1] - reference[1]).norm() < 1e-4 * reference[1].norm()


@pytest.mark.parametrize("size", [(11, 11), (11, 40), (40, 11), (12, 15), (37, 53), (64, 64), (131, 101)])
def test_value_and_gradient_are_those_of_pytorch_msssim(size: tuple[int, int]) -> None:
    truth = _picture(*size)
    predicted = _noisy(truth)
    _close(_fused(truth, predicted), _reference(truth, predicted))


def test_dissimilar_and_dark_images() -> None:
    noise = torch.rand(45, 50, 3, generator=torch.Generator().manual_seed(3))
    for truth, predicted in ((noise, noise.flip(0)), (0.02 * noise, 0.03 * noise.flip(1))):
        _close(_fused(truth, predicted), _reference(truth, predicted))


def test_a_white_image_is_compared_at_least_as_exactly_as_in_torch() -> None:
    # the variance of 1 +- 0.03 is where float32 is weakest: the original is off by 7e-5
    truth = torch.ones(60, 50, 3)
    predicted = 0.9 + 0.1 * torch.rand(60, 50, 3, generator=torch.Generator().manual_seed(3))
    value, gradient = _reference(truth, predicted)
    fused = _fused(truth, predicted)
    original = SSIM(data_range=1.0, size_average=True, channel=3)
    error = abs(original(truth.permute(2, 0, 1)[None], predicted.permute(2, 0, 1)[None]) - value)
    assert abs(fused[0] - value) < max(1e-5 * value, error)
    assert (fused[1] - gradient).norm() < 1e-4 * gradient.norm()


def test_another_data_range() -> None:
    truth = 255 * _picture(30, 33)
    predicted = _noisy(truth, 12.0)
    _close(_fused(truth, predicted, 255.0), _reference(truth, predicted, 255.0))


def test_equal_images_are_a_maximum() -> None:
    image = _picture(30, 40)
    value, gradient = _fused(image, image)
    torch.testing.assert_close(value, torch.tensor(1.0))
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    truth = _picture(389, 24)
    predicted = _noisy(truth)
    set_num_threads(1)
    alone = _fused(truth, predicted)
    set_num_threads(threads)
    together = _fused(truth, predicted)
    assert torch.equal(alone[0], together[0]) and torch.equal(alone[1], together[1])


def test_either_layout_and_any_strides() -> None:
    truth = _picture(31, 26)
    predicted = _noisy(truth)
    expected = _fused(truth, predicted)
    for layout in ((2, 0, 1), None):
        x, y = (i if layout is None else i.permute(*layout).contiguous() for i in (truth, predicted))
        value, gradient = _fused(x, y)
        assert torch.equal(value, expected[0])
        assert torch.equal(gradient, expected[1] if layout is None else expected[1].permute(*layout))
    wide = torch.zeros(31, 52, 4)
    wide[:, ::2, :3] = predicted
    value, gradient = _fused(truth, predicted)
    strided = wide.requires_grad_()
    structural_similarity(truth, strided[:, ::2, :3]).backward()
    assert strided.grad is not None and torch.equal(strided.grad[:, ::2, :3], gradient)


def test_the_module_in_the_place_of_the_original() -> None:
    truth = _picture(40, 30)
    predicted = _noisy(truth).requires_grad_()
    loss = 1 - FastSSIM()(truth.permute(2, 0, 1)[None], predicted.permute(2, 0, 1)[None])
    (3 * loss).backward()
    value, gradient = _reference(truth, predicted)
    assert predicted.grad is not None
    _close((1 - loss.detach(), predicted.grad / -3), (value, gradient))
    assert not FastSSIM().state_dict()


def test_without_gradient() -> None:
    truth = _picture(70, 45)
    predicted = _noisy(truth)
    expected = _reference(truth, predicted)[0]
    plain = structural_similarity(truth, predicted)
    with torch.no_grad():
        quiet = structural_similarity(truth, predicted.clone().requires_grad_())
    assert not plain.requires_grad and not quiet.requires_grad
    assert torch.equal(plain, quiet) and abs(plain - expected) < 1e-5


def test_what_the_kernel_does_not_do_goes_to_the_original() -> None:
    original = SSIM(data_range=1.0, size_average=True, channel=3)
    pairs = torch.rand(2, 3, 20, 20), torch.rand(2, 3, 20, 20)
    torch.testing.assert_close(FastSSIM()(*pairs), original(*pairs))

    x, y = (image[0].permute(1, 2, 0).requires_grad_() for image in pairs)  # both differentiable
    structural_similarity(x, y).backward()
    assert x.grad is not None and y.grad is not None
    torch.testing.assert_close(y.grad.double(), _reference(x.detach(), y)[1], atol=1e-7, rtol=1e-4)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says which direction it leaves unsmoothed
        small = pairs[0][:1, :, :9], pairs[1][:1, :, :9]
        torch.testing.assert_close(FastSSIM()(*small), original(*small))
    assert structural_similarity(x.detach().double(), y.detach().double()).dtype == torch.float64


def test_wrong_shapes_are_explained() -> None:
    with pytest.raises(ValueError, match=r"\[20, 20\]"):
        structural_similarity(torch.zeros(20, 20), torch.zeros(20, 20))
    with pytest.raises(ValueError, match="differ in size"):
        structural_similarity(torch.zeros(20, 20, 3), torch.zeros(20, 21, 3))


def test_importing_the_losses_leaves_numba_alone() -> None:
    code = (
        "import sys, gradiseg_ns.losses.ssim, gradiseg_ns.losses.cross_entropy; "
        "assert 'numba' not in sys.modules, 'numba was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_any_device(device: torch.device) -> None:
    """Elsewhere than on a CPU pytorch_msssim computes it, with our window."""
    truth = _picture(40, 56)
    predicted = _noisy(truth).requires_grad_()
    value = structural_similarity(truth, predicted)
    value.backward()
    assert value.device.type == device.type and predicted.grad is not None
    exact = _reference(truth, predicted)
    assert abs(value - exact[0]) < 1e-5 * abs(exact[0])
    assert (predicted.grad - exact[1]).norm() < 1e-3 * exact[1].norm()
