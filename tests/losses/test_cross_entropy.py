"""The fused cross-entropy against torch in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gradiseg_ns.losses.cross_entropy import identity_cross_entropy
from gradiseg_ns.rendering import set_num_threads

pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture(autouse=True)
def _default_threads():
    yield
    set_num_threads(None)


def _problem(pixels: int, classes: int, ignored: float = 0.1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(pixels + classes)
    labels = torch.randint(classes, (pixels,), generator=random)
    labels[torch.rand(pixels, generator=random) < ignored] = -1
    labels[pixels // 2] = classes - 1
    maps, weight, bias = (
        torch.randn(*s, generator=random) for s in ((pixels, 16), (classes, 16), (classes,))
    )
    return maps, weight, bias, labels


def _run(function, tensors: tuple[Tensor, ...], labels: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The value and the gradients towards maps, weight and bias."""
    inputs = [t.detach().to(dtype).requires_grad_() for t in tensors]
    value = function(*inputs, labels)
    (0.7 * value).backward()
    return [value.detach(), *(t.grad for t in inputs)]


def _reference(maps: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(maps, weight, bias), labels, ignore_index=-1)


def _compare(tensors: tuple[Tensor, ...], labels: Tensor) -> None:
    expected = _run(_reference, tensors, labels, torch.float64)
    value, *gradients = _run(identity_cross_entropy, tensors, labels, torch.float32)
    assert abs(value - expected[0]) <= 1e-5 * abs(expected[0])
    for gradient, exact in zip(gradients, expected[1:], strict=True):
        assert gradient.shape == exact.shape
        assert (gradient - exact).norm() <= 1e-4 * exact.norm()


@pytest.mark.parametrize("classes", [1, 2, 3, 20, 255, 1000])
def test_value_and_gradients_are_torchs(classes: int) -> None:
    *tensors, labels = _problem(1003, classes)
    _compare(tuple(tensors), labels)


@pytest.mark.parametrize("pixels", [1, 15, 16, 17, 8192, 40001])
def test_any_number_of_pixels(pixels: int) -> None:
    *tensors, labels = _problem(pixels, 7)
    _compare(tuple(tensors), labels)


def test_mostly_ignored_pixels() -> None:
    *tensors, labels = _problem(5000, 20, ignored=0.98)
    _compare(tuple(tensors), labels)
    gradient = _run(identity_cross_entropy, tuple(tensors), labels, torch.float32)[1]
    assert gradient[labels < 0].abs().max() == 0 and gradient[labels >= 0].abs().sum(1).min() > 0


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    *tensors, labels = _problem(40001, 20)
    set_num_threads(1)
    alone = _run(identity_cross_entropy, tuple(tensors), labels, torch.float32)
    set_num_threads(threads)
    for a, b in zip(alone, _run(identity_cross_entropy, tuple(tensors), labels, torch.float32), strict=True):
        assert torch.equal(a, b)


def test_large_scores_do_not_overflow() -> None:
    maps, weight, bias, labels = _problem(500, 20)
    _compare((1e3 * maps, weight, bias), labels)
    _compare((maps, weight, bias - 300), labels)


def test_certainty_costs_nothing() -> None:
    labels = torch.randint(16, (100,), generator=torch.Generator().manual_seed(0))
    maps = F.one_hot(labels, 16).float()
    value, *gradients = _run(
        identity_cross_entropy, (maps, 200 * torch.eye(16), torch.zeros(16)), labels, torch.float32
    )
    assert value == 0 and all(g.abs().max() == 0 for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_labelled_pixel_is_zero_not_nan(dtype: torch.dtype) -> None:
    maps, weight, bias, labels = _problem(50, 4)
    maps[0, 0] = torch.inf
    for some in (50, 0):
        value, *gradients = _run(
            identity_cross_entropy, (maps[:some], weight, bias), torch.full_like(labels[:some], -1), dtype
        )
        assert value == 0 and all(bool((g == 0).all()) for g in gradients)


def test_nan_is_not_hidden() -> None:
    maps, weight, bias, labels = _problem(50, 4, ignored=0.0)
    maps[7, 3] = torch.nan
    value, v_maps, *_ = _run(identity_cross_entropy, (maps, weight, bias), labels, torch.float32)
    assert value.isnan() and v_maps[7].isnan().all() and v_maps[8].isfinite().all()


def test_a_graph_may_be_walked_twice_and_inputs_may_be_fixed() -> None:
    maps, weight, bias, labels = _problem(300, 5)
    maps.requires_grad_()
    value = identity_cross_entropy(maps, weight, bias, labels)
    value.backward(retain_graph=True)
    assert maps.grad is not None and weight.grad is None
    first = maps.grad.clone()
    (2 * value).backward()
    torch.testing.assert_close(maps.grad, 3 * first)
    with torch.no_grad():
        quiet = identity_cross_entropy(maps, weight, bias, labels)
    assert not quiet.requires_grad and torch.equal(quiet, value.detach())


def test_strided_inputs_and_small_integers() -> None:
    maps, weight, bias, labels = _problem(200, 6)
    expected = identity_cross_entropy(maps, weight, bias, labels)
    wide = torch.zeros(200, 32)
    wide[:, ::2] = maps
    doubled = labels.repeat_interleave(2)[::2].to(torch.int32)
    assert torch.equal(identity_cross_entropy(wide[:, ::2], weight.T.contiguous().T, bias, doubled), expected)


def test_other_dtypes_and_widths_go_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradiseg_ns.losses.cross_entropy._SCORES", 100)
    *tensors, labels = _problem(403, 7)
    narrow = (tensors[0][:, :8], tensors[1][:, :8], tensors[2])
    for inputs in (tuple(tensors), narrow):
        for found, exact in zip(
            _run(identity_cross_entropy, inputs, labels, torch.float64),
            _run(_reference, inputs, labels, torch.float64),
            strict=True,
        ):
            torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-15)


def test_wrong_input_is_explained(device: torch.device) -> None:
    maps, weight, bias, labels = _problem(40, 3)
    for wrong in (3, -2) if device.type == "cpu" else ():
        spoiled = labels.clone()
        spoiled[5] = wrong
        with pytest.raises(ValueError, match="the classifier has 3"):
            identity_cross_entropy(maps, weight, bias, spoiled)
    with pytest.raises(ValueError, match=r"classes \[P\]"):
        identity_cross_entropy(maps, weight, bias, labels[1:])
