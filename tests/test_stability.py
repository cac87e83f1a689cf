"""Stability training's loss against its formula in double precision."""

import numpy as np
import pytest
import torch
from torch import nn

from macer.objectives import Progress, Stability


def literal(clean, noisy, labels, lbd):
    """The mean loss of a batch and its gradient by the clean and the noisy logits, as the formula says."""
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (clean, noisy))
    truth = np.eye(clean.shape[1])[labels]
    stability = -(p * np.log(q)).sum(1, keepdims=True)
    loss = -(truth * np.log(p)).sum(1).mean() + lbd * stability.mean()
    by_clean = p - truth + lbd * p * (-np.log(q) - stability)
    return loss, by_clean / len(labels), lbd * (q - p) / len(labels)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("lbd", [0.0, 2.0])
@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
def test_loss_and_gradient_are_those_of_the_formula(size, lbd, dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 5)).to(dtype)
    with torch.no_grad():
        network[1].weight.mul_(10 * size)
    logits = []
    network.register_forward_hook(lambda *call: (call[2].retain_grad(), logits.append(call[2]))[0])
    images, labels = torch.rand(3, 1, 4, 4, dtype=dtype), torch.tensor([0, 1, 4])
    loss = Stability(sigma=0.5, lbd=lbd)(network, images, labels, generator=torch.Generator(), progress=Progress())
    loss.total.backward()
    clean, noisy = (each.detach().double().numpy() for each in logits)
    expected, by_clean, by_noisy = literal(clean, noisy, labels.numpy(), lbd)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    assert loss.total.item() == pytest.approx(expected, rel=tolerance)
    assert loss.total.item() == pytest.approx(sum((1, lbd)[i] * t.item() for i, t in enumerate(loss.terms.values())))
    largest = max(np.abs(by_clean).max(), np.abs(by_noisy).max())
    for each, gradient in zip(logits, (by_clean, by_noisy), strict=True):
        np.testing.assert_allclose(each.grad, gradient, atol=tolerance * largest)


def test_batch_norm_sees_clean_and_noisy_images_apart():
    seen = []
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 5))
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(3, 1, 4, 4)
    Stability(sigma=0.5)(network, images, torch.tensor([0, 1, 4]), generator=torch.Generator(), progress=Progress())
    clean, noisy = seen
    assert torch.equal(clean, images)
    assert 0.2 < (noisy - images).std() < 0.8
    assert network[0].num_batches_tracked == 2
