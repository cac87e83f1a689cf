"""Training losses against their formulas in 50 digits, and what training relies on: no NaN, no hidden randomness."""

import math
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from macer.errors import SettingsError
from macer.objectives import OBJECTIVES, CatRs, Cohen, Consistency, Macer, Progress, SmoothAdv, SmoothMix, Stability
from macer.objectives.base import check_batch
from macer.objectives.macer import robustness_loss
from macer.runs.settings import from_table
from macer.smoothing.loss import smoothed_loss

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
IMAGES = torch.full((2, 1, 2, 2), 0.5)
LABELS = torch.tensor([0, 2])


class Fixed(nn.Module):
    """A network whose logits are its parameters, whatever the images."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == len(self.logits)
        return self.logits


def softmax(row, beta):
    powers = [mpmath.exp(beta * mpmath.mpf(z)) for z in row.tolist()]
    total = mpmath.fsum(powers)
    return [power / total for power in powers]


def quantile(p, complement):
    """Phi^-1(p), of whichever of p and 1 - p is small; and its derivative."""
    x = stats.norm.ppf(float(p)) if p < complement else stats.norm.isf(float(complement))
    return mpmath.mpf(x), 1 / mpmath.npdf(x)


def pull_back(d_mean, rows, beta):
    """From the derivative by each class of the mean softmax(beta z_j) to that by each logit."""
    means = [mpmath.fdot(d_mean, row) for row in rows]
    return [
        [beta * p * (d - mean) / len(rows) for p, d in zip(row, d_mean, strict=True)]
        for row, mean in zip(rows, means, strict=True)
    ]


def literal(logits, label, sigma, gamma, beta):
    """Both losses of one image, (k, classes), and their gradients, as the formulas say, in 50 digits.

    Where several classes are runner-up, the gradient is the mean of theirs.
    """
    with mpmath.workdps(50):
        k, classes = logits.shape
        rows = [softmax(row, 1) for row in logits]
        p_y = mpmath.fsum(row[label] for row in rows) / k
        classification = -mpmath.log(p_y)
        d_classification = pull_back([-(c == label) / p_y for c in range(classes)], rows, 1)

        rows = [softmax(row, beta) for row in logits]
        p = [mpmath.fsum(column) / k for column in zip(*rows, strict=True)]
        others = [c for c in range(classes) if c != label]
        second = max(p[c] for c in others)
        robustness, d_mean = mpmath.mpf(0), [mpmath.mpf(0)] * classes
        if p.index(max(p)) == label:
            x_y, slope_y = quantile(p[label], mpmath.fsum(p[c] for c in others))
            x_2, slope_2 = quantile(second, 1 - second)
            if x_y - x_2 <= gamma:
                robustness = sigma / 2 * (gamma - (x_y - x_2))
                d_mean[label] = -sigma / 2 * slope_y
                runners_up = [c for c in others if p[c] == second]
                for c in runners_up:
                    d_mean[c] = sigma / 2 * slope_2 / len(runners_up)
        d_robustness = pull_back(d_mean, rows, beta)
    return (
        (float(classification), np.array(d_classification, dtype=float)),
        (float(robustness), np.array(d_robustness, dtype=float)),
    )


def assert_equal_losses(loss, logits, expected, tolerance):
    """Each image by itself, so that one with a small loss or gradient is not hidden by another."""
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    for i, (value, derivative) in enumerate(expected):
        assert loss[i].item() == pytest.approx(value, rel=tolerance), f"loss of image {i}"
        error = np.linalg.norm(gradient[i].double().numpy() - derivative)
        assert error <= tolerance * np.linalg.norm(derivative), f"gradient of image {i}"


def with_margins(margins, k, classes, beta, dtype, spread=0.5):
    """Logits of one image a margin: its label stands out by that in beta * z, among others that differ a little."""
    generator = torch.Generator().manual_seed(classes * k)
    logits = torch.rand(len(margins), k, classes, generator=generator, dtype=torch.float64) * spread
    labels = torch.randint(classes, (len(margins),), generator=generator)
    logits[torch.arange(len(margins)), :, labels] = torch.tensor(margins, dtype=torch.float64).unsqueeze(1) + spread
    return (logits / beta).to(dtype).requires_grad_(), labels


# From a lost image over a tie to p_y = 1 - 1e-26. p_y rounds to 1 at a margin of about 17 in float32, 37 in float64.
MARGINS = [-3.0, 0.01, 0.5, 2.0, 5.0, 10.0, 16.0, 18.0, 20.0, 30.0, 38.0, 45.0, 60.0]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("gamma", [0.3, 8.0, 1000.0])
@pytest.mark.parametrize(
    ("k", "classes", "beta"), [(4, 10, 16.0), (1, 10, 16.0), (3, 2, 16.0), (1, 2, 1.0), (2, 1000, 16.0), (5, 3, 7.3)]
)
def test_losses_and_gradients_are_those_of_the_formulas(k, classes, beta, gamma, dtype):
    logits, labels = with_margins(MARGINS if classes < 1000 else MARGINS[::4], k, classes, beta, dtype)
    settings = {"sigma": 0.5, "gamma": gamma, "beta": beta}
    expected = [literal(image.detach(), int(y), **settings) for image, y in zip(logits, labels, strict=True)]
    left_out = [robustness == 0 for _, (robustness, _) in expected]
    assert left_out[0]
    assert not all(left_out) or gamma < 1
    assert (gamma == 1000) == (sum(left_out) == 1)
    assert_equal_losses(smoothed_loss(logits, labels), logits, [c for c, _ in expected], TOLERANCE[dtype])
    assert_equal_losses(robustness_loss(logits, labels, **settings), logits, [r for _, r in expected], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("gamma", [1e-3, 8.0])
@pytest.mark.parametrize(("k", "classes"), [(1, 2), (3, 2), (2, 10), (1, 1000)])
def test_losses_where_all_classes_are_equal(k, classes, gamma, dtype):
    """The first class is taken for the winner: xi = 0 for its images, and no robustness loss for the others."""
    logits = torch.full((2, k, classes), 1.5, dtype=dtype, requires_grad=True)
    labels = torch.tensor([0, classes - 1])
    settings = {"sigma": 0.25, "gamma": gamma, "beta": 16.0}
    expected = [literal(image.detach(), int(y), **settings) for image, y in zip(logits, labels, strict=True)]
    assert expected[0][1][0] == pytest.approx(0.125 * gamma)
    assert expected[1][1][0] == 0
    assert_equal_losses(smoothed_loss(logits, labels), logits, [c for c, _ in expected], TOLERANCE[dtype])
    assert_equal_losses(robustness_loss(logits, labels, **settings), logits, [r for _, r in expected], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_an_image_that_is_certain_beyond_the_number_format_is_left_out(dtype):
    """Phi^-1 of the runner-up is infinite: no loss, no gradient, however large gamma is."""
    logits, labels = with_margins([900.0, 5000.0, 1e6], 2, 5, 16.0, dtype)
    loss = robustness_loss(logits, labels, sigma=0.5, gamma=1e9, beta=16.0)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.tolist() == [0, 0, 0]
    assert not gradient.any()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_classification_loss_where_the_label_has_no_probability_left(dtype):
    """-log p_y = 20,000, of a p_y that no number format holds; the 1e-10 of the released code would give 23."""
    logits = torch.tensor([[[1e4, -1e4], [1e4, -1e4]]], dtype=dtype, requires_grad=True)
    loss = smoothed_loss(logits, torch.tensor([1]))
    assert loss.item() == 2e4
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[[0.5, -0.5], [0.5, -0.5]]], dtype=dtype), rtol=1e-3, atol=0)


@st.composite
def hostile_logits(draw):
    """Sizes from 1e-3 to 1e4, with exact ties, dominant labels, saturated samples and plain zeros among them."""
    batch, k, classes = (
        draw(st.integers(1, 4)),
        draw(st.sampled_from([1, 2, 3, 16])),
        draw(st.sampled_from([2, 3, 10, 1000])),
    )
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    size = torch.tensor([10.0 ** draw(st.floats(-3, 4)) for _ in range(batch)]).view(-1, 1, 1)
    logits = (2 * torch.rand(batch, k, classes, generator=generator, dtype=torch.float64) - 1) * size
    labels = torch.randint(classes, (batch,), generator=generator)
    match draw(st.sampled_from(["plain", "ties", "dominant", "zero", "extreme"])):
        case "ties":
            logits = (logits / size).round() * size
        case "dominant":
            margin = 10.0 ** draw(st.floats(-3, 4))
            logits[torch.arange(batch), :, labels] = (logits.amax((1, 2)) + margin).unsqueeze(1)
        case "zero":
            logits = logits * 0
        case "extreme":
            logits = logits.sign() * 1e4
    return logits.clamp(-1e4, 1e4).flatten(0, 1).to(dtype), labels, k


@settings(max_examples=400, deadline=None)
@given(
    case=hostile_logits(),
    gamma=st.floats(-3, 3).map(lambda power: 10.0**power),
    beta=st.floats(0.01, 64),
    sigma=st.floats(0.01, 10),
    lbd=st.floats(0, 1000),
)
def test_no_loss_and_no_gradient_is_ever_nan_or_infinite(case, gamma, beta, sigma, lbd):
    logits, labels, k = case
    network = Fixed(logits)
    objective = Macer(sigma=sigma, gauss_num=k, lbd=lbd, gamma=gamma, beta=beta)
    images = torch.zeros(len(labels), 1, 1, 1)
    loss = objective(network, images, labels, generator=torch.Generator(), progress=Progress())
    (gradient,) = torch.autograd.grad(loss.total, network.logits)
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(term) for term in loss.terms.values())
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("margin", np.linspace(60, 800, 149).tolist())
def test_gradients_stay_finite_on_the_way_to_saturation(margin):
    """Step by step through the point where Phi^-1 gives up, in float32 (near 70) and float64 (near 670)."""
    for dtype in TOLERANCE:
        logits, labels = with_margins([margin], 2, 3, 64.0, dtype)
        loss = 1e4 * robustness_loss(logits, labels, sigma=10.0, gamma=1e3, beta=64.0)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_macer_is_the_mean_of_classification_plus_lambda_robustness(dtype):
    logits, labels = with_margins([-1.0, 0.5, 3.0, 12.0], 3, 5, 16.0, dtype)
    objective = Macer(sigma=0.5, gauss_num=3, lbd=7.0, gamma=6.0, beta=16.0)
    network = Fixed(logits.detach().flatten(0, 1))
    loss = objective(network, torch.zeros(4, 1, 2, 2), labels, generator=torch.Generator(), progress=Progress())
    parts = [literal(image.detach(), int(y), 0.5, 6.0, 16.0) for image, y in zip(logits, labels, strict=True)]
    classification, robustness = (np.mean([part[i][0] for part in parts]) for i in (0, 1))
    assert loss.total.dtype == dtype
    assert loss.total.item() == pytest.approx(classification + 7 * robustness, rel=TOLERANCE[dtype])
    assert {name: term.item() for name, term in loss.terms.items()} == pytest.approx(
        {"classification": classification, "robustness": robustness}, rel=TOLERANCE[dtype]
    )
    (gradient,) = torch.autograd.grad(loss.total, network.logits)
    expected = np.concatenate([part[0][1] + 7 * part[1][1] for part in parts]) / 4
    np.testing.assert_allclose(gradient.numpy(), expected, atol=TOLERANCE[dtype] * np.abs(expected).max())


def test_deferred_lambda_starts_at_the_first_drop_of_the_learning_rate():
    logits, labels = with_margins([1.0, 2.0], 2, 3, 16.0, torch.float32)

    def loss(deferred, dropped):
        network = Fixed(logits.detach().flatten(0, 1))
        result = Macer(gauss_num=2, deferred=deferred)(
            network, IMAGES, labels, generator=torch.Generator(), progress=Progress(30.0, learning_rate_dropped=dropped)
        )
        return result, *torch.autograd.grad(result.total, network.logits)

    before, gradient = loss(deferred=True, dropped=False)
    assert before.total == before.terms["classification"]
    assert before.terms["robustness"] == 0
    (classification_gradient,) = torch.autograd.grad(smoothed_loss(logits, labels).mean(), logits)
    torch.testing.assert_close(gradient, classification_gradient.flatten(0, 1))
    after, gradient = loss(deferred=True, dropped=True)
    assert after.terms["robustness"] > 0
    for dropped in (False, True):
        whole, whole_gradient = loss(deferred=False, dropped=dropped)
        assert whole.total == after.total
        assert torch.equal(whole_gradient, gradient)


@pytest.mark.parametrize(("dropped", "k"), [(False, 2), (True, 5)])
def test_as_long_as_lambda_is_deferred_k_may_be_smaller(dropped, k):
    objective = Macer(gauss_num=5, deferred=True, deferred_gauss_num=2)
    progress = Progress(1.0, learning_rate_dropped=dropped)
    assert objective.samples_at(progress) == k
    assert objective.samples == objective.copies == 5
    logits, labels = with_margins([1.0, 2.0], k, 3, 16.0, torch.float32)
    network = Fixed(logits.detach().flatten(0, 1))
    loss = objective(network, IMAGES, labels, generator=torch.Generator(), progress=progress)
    assert loss.terms["classification"] == smoothed_loss(logits, labels).mean()
    assert (loss.terms["robustness"] > 0) == dropped


def test_reduced_precision_is_computed_in_float32():
    """float16 overflows at beta * z = 65,504, which a logit of 4,100 reaches."""
    logits = torch.tensor([[4100.0, 0.0, 1.0], [0.0, 4200.0, 1.0]], dtype=torch.float16)
    for objective in (Macer(gauss_num=1), Cohen()):
        network = Fixed(logits)
        loss = objective(network, IMAGES, torch.tensor([0, 1]), generator=torch.Generator(), progress=Progress())
        (gradient,) = torch.autograd.grad(loss.total, network.logits)
        assert loss.total.dtype == torch.float32
        assert torch.isfinite(loss.total)
        assert torch.isfinite(gradient).all()


class Rounding(nn.Module):
    """A linear layer whose answer is rounded to bfloat16, as under autocast, and perhaps handed on in float32."""

    def __init__(self, outputs: int, *, handed_on: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.handed_on = nn.Linear(4, outputs), handed_on

    def forward(self, x: Tensor) -> Tensor:
        answer = self.layer(x.flatten(1)).bfloat16().to(self.handed_on)
        return answer if answer.shape[1] == 3 else answer.view(x.shape)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_loss_of_logits_in_bfloat16_is_summed_in_float32(name):
    """It and its gradient are those of the same logits handed over in float32, to the bit."""
    few = {"gauss_num": 2, "steps": 2}
    kind = OBJECTIVES[name]
    objective = kind(**{key: value for key, value in few.items() if key in kind.__dataclass_fields__})
    images = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    losses, gradients = [], []
    for handed_on in (torch.bfloat16, torch.float32):
        network = Rounding(4 if objective.denoises else 3, handed_on=handed_on)
        loss = objective(network, images, LABELS, generator=torch.Generator().manual_seed(2))
        loss.total.backward()
        assert torch.finfo(loss.total.dtype).bits >= 32
        assert all(torch.finfo(each.dtype).bits >= 32 for each in loss.terms.values())
        losses.append(loss.total.item())
        gradients.append(network.layer.weight.grad)
    assert losses[0] == losses[1] > 0
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("gauss_num", [1, 3])
def test_cohen_is_the_mean_cross_entropy_over_the_copies(gauss_num):
    logits = torch.randn(2 * gauss_num, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = Cohen(gauss_num=gauss_num)
    loss = objective(Fixed(logits), IMAGES, LABELS, generator=torch.Generator(), progress=Progress())
    rows = [softmax(row, 1) for row in logits]
    expected = -sum(math.log(row[LABELS[i // gauss_num]]) for i, row in enumerate(rows)) / len(rows)
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)


def test_cohen_is_macer_with_one_sample_and_no_robustness_loss():
    """Zhai et al. 2020 say so in section 5."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    losses = [
        objective(network, IMAGES, LABELS, generator=torch.Generator().manual_seed(3), progress=Progress()).total
        for objective in (Cohen(sigma=0.5), Macer(sigma=0.5, gauss_num=1, lbd=0.0))
    ]
    torch.testing.assert_close(*losses)


class Seeing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(256, 3), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    "objective", [Macer(sigma=0.5, gauss_num=8), Cohen(sigma=0.5, gauss_num=8)], ids=lambda o: o.name
)
def test_the_network_is_trained_on_noisy_copies_that_follow_the_generator_alone(objective):
    network, before = Seeing(), torch.get_rng_state()
    images = torch.stack([torch.full((1, 16, 16), 0.2), torch.full((1, 16, 16), 0.8)])
    losses = [
        objective(network, images, LABELS, generator=torch.Generator().manual_seed(seed), progress=Progress())
        for seed in (1, 1, 2)
    ]
    assert torch.equal(before, torch.get_rng_state())
    assert losses[0].total == losses[1].total != losses[2].total
    assert all(not term.requires_grad for term in losses[0].terms.values())
    (copies,) = {len(seen) for seen in network.seen}
    assert copies == objective.samples * len(images)
    noise = (network.seen[0] - images.repeat_interleave(8, 0)) / 0.5
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3  # fails by chance once in 1,000 seeds
    assert all(gradient.any() for gradient in torch.autograd.grad(losses[0].total, tuple(network.parameters())))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Macer, {"gauss_num": 0}),
        (Macer, {"lbd": -1.0}),
        (Macer, {"lbd": math.nan}),
        (Macer, {"lbd": math.inf}),
        (Macer, {"gamma": 0.0}),
        (Macer, {"gamma": math.inf}),
        (Macer, {"beta": 0.0}),
        (Macer, {"beta": math.nan}),
        (Macer, {"sigma": 0.0}),
        (Macer, {"deferred_gauss_num": 2}),
        (Macer, {"consistency": -1.0}),
        (Macer, {"consistency": 1.0, "gauss_num": 1}),
        (Cohen, {"sigma": math.inf}),
        (Cohen, {"gauss_num": 0}),
        (Consistency, {"gauss_num": 1}),
        (Consistency, {"lbd": -1.0}),
        (Consistency, {"lbd": math.nan}),
        (Consistency, {"entropy_weight": math.inf}),
        (SmoothAdv, {"epsilon": 0.0}),
        (SmoothAdv, {"epsilon": math.inf}),
        (SmoothAdv, {"steps": 0}),
        (SmoothAdv, {"step_size": -1.0}),
        (SmoothAdv, {"step_size": 1.0, "attack": "ddn"}),
        (SmoothAdv, {"gauss_num": 0}),
        (SmoothAdv, {"warmup": -1}),
        (SmoothAdv, {"attack": "fgsm"}),
        (SmoothAdv, {"sigma": 0.0}),
        (SmoothAdv, {"consistency": -1.0}),
        (SmoothAdv, {"consistency": 1.0, "gauss_num": 1}),
        (SmoothAdv, {"consistency": 1.0, "multi_noise": False}),
        (Stability, {"lbd": -1.0}),
        (Stability, {"lbd": math.nan}),
        (Stability, {"lbd": math.inf}),
        (SmoothMix, {"steps": 0}),
        (SmoothMix, {"first_step": 4}),
        (SmoothMix, {"climb_size": 0.0}),
        (SmoothMix, {"gauss_num": 0}),
        (CatRs, {"steps": 0}),
        (CatRs, {"noise_epsilon": 0.0}),
        (CatRs, {"gauss_num": 0}),
    ],
)
def test_impossible_settings_are_refused(method, settings):
    """Through the way from a file, because the type checks of tests would refuse an unknown attack first."""
    with pytest.raises(SettingsError, match=next(iter(settings))):
        from_table(method, settings, "here")


class Linear(nn.Module):
    """A linear network whose output is wrapped, as other libraries do."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.linear, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x: Tensor):
        return self.wrap(self.linear(x.flatten(1)))


@pytest.mark.parametrize(
    "method", [each for each in OBJECTIVES.values() if not each.denoises], ids=lambda each: each.name
)
@pytest.mark.parametrize("wrap", [lambda z: {"logits": z}, lambda z: SimpleNamespace(logits=z)], ids=["dict", "object"])
def test_a_loss_needs_only_a_network_images_and_labels(method, wrap):
    """Outputs may hold their logits; the global generator is the source of noise; the method is past its warm-up."""
    torch.manual_seed(0)
    network, wrapped = Linear(lambda z: z), Linear(wrap)
    wrapped.load_state_dict(network.state_dict())
    losses = []
    for each in (network, wrapped):
        torch.manual_seed(1)
        loss = method()(each, IMAGES, LABELS)
        loss.total.backward()
        losses.append(loss.total)
    explicit = torch.Generator().manual_seed(1)
    progress = Progress(1000.0, learning_rate_dropped=True)
    losses.append(method()(network, IMAGES, LABELS, generator=explicit, progress=progress).total)
    assert losses[0] == losses[1] == losses[2]
    assert torch.equal(network.linear.weight.grad, wrapped.linear.weight.grad)


def test_outputs_without_logits_are_refused():
    with pytest.raises(SettingsError, match="returned a tuple"):
        Cohen()(Linear(lambda z: (z, z)), IMAGES, LABELS)


BATCH, CLASSES = torch.rand(4, 1, 3, 3), torch.arange(4)


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        ([BATCH[0]], CLASSES, "a list"),
        (BATCH.numpy(), CLASSES, "a ndarray"),
        ((255 * BATCH).byte(), CLASSES, "torch.uint8"),
        (BATCH[0], CLASSES, "(1, 3, 3)"),
        (BATCH, CLASSES.float(), "torch.float32"),
        (BATCH, CLASSES.int(), "torch.int32"),
        (BATCH, CLASSES[:3], "(3,)"),
        (BATCH, torch.eye(4, dtype=torch.int64), "(4, 4)"),
        (BATCH, CLASSES.tolist(), "a list"),
    ],
)
def test_a_batch_of_another_type_or_shape_is_refused_in_one_sentence(images, labels, says):
    """Called past the losses' own signatures, whose shapes are checked in tests alone."""
    with pytest.raises(SettingsError, match="must be") as refused:
        check_batch(images, labels)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
