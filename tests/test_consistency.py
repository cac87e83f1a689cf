"""Consistency's loss against its formula in double precision, its properties, and its place beside other methods."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from macer.objectives import Cohen, Consistency, Macer, Objective, Progress, SmoothAdv
from macer.objectives.consistency import consistency_loss

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}


def literal(copies, lbd, entropy_weight):
    """The loss of one image and its gradient by each logit, as the formula says, in 50 digits.

    The derivative of sum_c F_c (log F_c - mean_i log F_ic) by F_jc, of copy j, is
    (log F_c - mean_i log F_ic + 1 - F_c / F_jc) / m, and that of the entropy is -(log F_c + 1) / m.
    """
    with mpmath.workdps(50):
        m, classes = copies.shape
        each = [[mpmath.exp(z) for z in map(mpmath.mpf, row)] for row in copies.tolist()]
        each = [[power / mpmath.fsum(row) for power in row] for row in each]
        mean = [mpmath.fsum(column) / m for column in zip(*each, strict=True)]
        kl = [mpmath.fsum(q * mpmath.log(q / p) for q, p in zip(mean, row, strict=True)) for row in each]
        entropy = -mpmath.fsum(q * mpmath.log(q) for q in mean)
        gradient = []
        for row in each:
            by_p = [
                lbd * (mpmath.fsum(mpmath.log(mean[c] / other[c]) for other in each) / m + 1 - mean[c] / row[c]) / m
                - entropy_weight * (mpmath.log(mean[c]) + 1) / m
                for c in range(classes)
            ]
            inner = mpmath.fdot(by_p, row)
            gradient.append([float(p * (d - inner)) for p, d in zip(row, by_p, strict=True)])
        return float(lbd * mpmath.fsum(kl) / m + entropy_weight * entropy), np.array(gradient)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("lbd", "entropy_weight"), [(10.0, 0.5), (5.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize(("copies", "classes"), [(2, 10), (4, 3), (2, 100)])
@pytest.mark.parametrize("margin", [0.0, 5.0, 12.0, 20.0])
def test_loss_and_gradient_are_those_of_the_formula(margin, copies, classes, lbd, entropy_weight, dtype):
    """Up to a margin of 20, where 1 - F of the largest class is 1e-8 and F rounds to 1 in float32."""
    z = torch.randn(copies, classes, generator=torch.Generator().manual_seed(copies * classes), dtype=dtype)
    z[:, 0] += margin
    logits = z.unsqueeze(0).requires_grad_()
    loss = consistency_loss(logits, lbd, entropy_weight)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    value, derivative = literal(z, lbd, entropy_weight)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(value, rel=TOLERANCE[dtype])
    error = np.linalg.norm(gradient[0].double().numpy() - derivative)
    assert error <= TOLERANCE[dtype] * np.linalg.norm(derivative)


@given(st.integers(0, 2**32), st.integers(2, 5), st.sampled_from([0.1, 1.0, 10.0, 1e4]))
def test_disagreement_is_never_negative_and_zero_where_the_copies_agree(seed, copies, size):
    logits = torch.randn(3, copies, 10, generator=torch.Generator().manual_seed(seed)) * size
    assert (consistency_loss(logits, 1.0, 0.0) >= -1e-12).all()
    shifted = logits[:, :1].double() + torch.arange(copies).view(-1, 1)  # a constant on all logits changes no softmax
    torch.testing.assert_close(consistency_loss(shifted, 1.0, 0.0), torch.zeros(3).double(), rtol=0, atol=1e-9)


@given(st.integers(0, 2**32), st.sampled_from([1.0, 30.0, 1e4]), st.booleans())
def test_loss_and_gradient_are_finite_far_beyond_saturation(seed, size, opposed):
    logits = torch.randn(3, 2, 10, generator=torch.Generator().manual_seed(seed)) * size
    if opposed:
        logits[:, 1] = -logits[:, 0]
    logits.requires_grad_()
    loss = consistency_loss(logits, 10.0)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


def test_with_both_weights_equal_it_is_the_cross_entropy_of_the_mean_against_each_copy():
    """Jeong and Shin 2020: KL(F || F_i) + H(F) is the cross-entropy of F_i under F."""
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    mean = logits.softmax(2).mean(1, keepdim=True)
    cross_entropy = -(mean * logits.log_softmax(2)).sum(2).mean(1)
    torch.testing.assert_close(consistency_loss(logits, 3.0, 3.0), 3 * cross_entropy)


def loss_of(objective: Objective, network: nn.Module):
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    return objective(network, images, torch.tensor([0, 1, 2]), generator=generator, progress=Progress())


@pytest.mark.parametrize(
    ("without", "added"),
    [
        (Cohen(gauss_num=2), Consistency(lbd=3.0)),
        (Macer(gauss_num=2), Macer(gauss_num=2, consistency=3.0)),
        (Macer(gauss_num=2, deferred=True), Macer(gauss_num=2, deferred=True, consistency=3.0)),
        (SmoothAdv(gauss_num=2, steps=1), SmoothAdv(gauss_num=2, steps=1, consistency=3.0)),
    ],
    ids=["consistency", "macer", "macer deferred", "smoothadv"],
)
def test_it_is_one_more_term_beside_another_method(without, added):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    logits = []
    network.register_forward_hook(lambda *call: logits.append(call[2].detach()))
    plain, whole = loss_of(without, network), loss_of(added, network)
    expected = consistency_loss(logits[-1].unflatten(0, (3, 2)), 3.0).mean()
    torch.testing.assert_close(whole.terms, {**plain.terms, "consistency": expected})
    torch.testing.assert_close(whole.total, plain.total + expected)
