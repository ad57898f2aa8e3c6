"""Identity encodings, classes and the 2-D loss."""

from __future__ import annotations

import math

import pytest
import torch

from gradiseg_ns.grouping.identity import (
    IdentityClassifier,
    classify,
    identity_loss,
    initial_identity,
)
from tests.devices import here

pytestmark = pytest.mark.usefixtures("device")


def test_initial_identities_are_unit_and_reproducible() -> None:
    first = initial_identity(500, generator=torch.Generator().manual_seed(1)).to(here())
    again = initial_identity(500, generator=torch.Generator().manual_seed(1)).to(here())
    assert torch.equal(first, again)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(500))
    assert first.mean(0).norm() < 0.2  # no preferred direction


@pytest.mark.parametrize("classes", [2, 20, 1000])
def test_a_uniform_guess_costs_one_whatever_the_number_of_ids(classes: int) -> None:
    classifier = IdentityClassifier(classes).to(here())
    torch.nn.init.zeros_(classifier.weight)
    torch.nn.init.zeros_(classifier.bias)
    labels = torch.randint(classes, (7, 9))
    loss = identity_loss(torch.randn(7, 9, 16), labels, classifier)
    torch.testing.assert_close(loss, torch.tensor(1.0))


def test_loss_equals_the_formula_and_ignores_pixels_without_label() -> None:
    torch.manual_seed(0)
    classifier = IdentityClassifier(4).to(here())
    maps = torch.randn(5, 6, 16, requires_grad=True)
    labels = torch.randint(4, (5, 6))
    labels[2:] = -1
    loss = identity_loss(maps, labels, classifier)
    log_p = torch.log_softmax(maps[:2].reshape(-1, 16) @ classifier.weight.T + classifier.bias, dim=-1)
    expected = -log_p.gather(1, labels[:2].reshape(-1, 1)).mean() / math.log(4)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert maps.grad is not None
    assert maps.grad[2:].abs().max() == 0
    assert maps.grad[:2].abs().min() > 0


def test_a_view_without_labels_gives_zero_and_a_graph() -> None:
    maps = torch.randn(3, 4, 16, requires_grad=True)
    loss = identity_loss(maps, torch.full((3, 4), -1), IdentityClassifier(3).to(here()))
    loss.backward()
    assert float(loss) == 0.0 and maps.grad is not None and float(maps.grad.abs().max()) == 0.0


def test_sampled_loss_estimates_the_mean() -> None:
    torch.manual_seed(0)
    classifier = IdentityClassifier(6).to(here())
    maps, labels = torch.randn(40, 50, 16), torch.randint(6, (40, 50))
    full = identity_loss(maps, labels, classifier)
    sampled = torch.stack([identity_loss(maps, labels, classifier, max_pixels=200) for _ in range(100)])
    assert abs(sampled.mean() - full) < 4 * sampled.std() / 10
    assert sampled.std() > 0


def test_chunked_classification_equals_argmax() -> None:
    torch.manual_seed(0)
    classifier = IdentityClassifier(1000).to(here())
    maps = torch.randn(30, 31, 16)
    assert torch.equal(classify(maps, classifier, chunk=5000), classifier(maps).argmax(-1))
    assert classify(maps[:0], classifier).shape == (0, 31)


def test_resizing_keeps_the_parameters_that_an_optimizer_holds() -> None:
    classifier = IdentityClassifier(3).to(here())
    held = [id(p) for p in classifier.parameters()]
    classifier.resize(9)
    assert [id(p) for p in classifier.parameters()] == held
    assert classifier(torch.zeros(2, 16)).shape == (2, 9)
