"""Networks that are no function of one image are refused, however they break it; networks that are one pass.

A network that changes the class of every second sample passes the comparison of 50 samples with probability
P[Bin(50, 1/2) <= 2] < 2e-12. Nothing here depends on chance beyond that: comparisons draw from fixed seeds.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import macer
from macer import data, models
from macer.errors import SettingsError
from macer.models.bfloat16 import InBFloat16
from macer.models.fast import folded
from macer.smoothing import Hard, SmoothedClassifier, Soft
from macer.smoothing.independence import check_modules

SHAPE = (1, 8, 8)
N = 700  # batches of 200, and one of 100 at the end


class Digits(nn.Module):
    """A linear network of the digits whose logits, and the images that they are of, pass through `change`."""

    def __init__(self, change: Callable[[Tensor, Tensor, "Digits"], Tensor]) -> None:
        super().__init__()
        self.fc, self.change, self.calls, self.average = nn.Linear(64, 10), change, 0, 0.0
        nn.init.normal_(self.fc.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.change(self.fc(x.flatten(1)), x, self)


def one_hot(classes: Tensor) -> Tensor:
    return F.one_hot(classes, 10).float()


def alternating(condition: Tensor | list[bool]) -> Tensor:
    """Class 0 where the condition holds, else 1: every half of the samples, with the right condition."""
    return one_hot(1 - torch.as_tensor(condition).long())


def seeded_dropout(z: Tensor) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return F.dropout(z, 0.5, training=True)


def moving(z: Tensor, x: Tensor, network: Digits) -> Tensor:
    network.average = 0.9 * network.average + 0.1 * x.mean().item()
    return z + network.average


def only_at(size: int, mix: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Digits], Tensor]:
    return lambda z, x, _: mix(z) if len(z) == size else z


def quantised(z: Tensor) -> Tensor:
    step = z.abs().max() / 127
    return (z / step).round() * step


CHANCE, OTHERS, REST = "evaluated again, by chance or", "depend on the other images", "depend on the rest of the batch"

MIXING: dict[str, tuple[Callable[[Tensor, Tensor, Digits], Tensor], str]] = {
    "batch statistics": (lambda z, x, _: F.batch_norm(z, None, None, training=True), OTHERS),
    "functional dropout": (lambda z, x, _: F.dropout(z, 0.5, training=True), CHANCE),
    "the first of the batch": (lambda z, x, _: z[:1].expand_as(z), f"{OTHERS}|{REST}"),
    "the last of the batch": (lambda z, x, _: z[-1:].expand_as(z), f"{OTHERS}|{REST}"),
    "the neighbour": (lambda z, x, _: z.roll(1, 0), OTHERS),
    "the mean image": (lambda z, x, _: z + x.mean(), OTHERS),
    "the mean decides": (lambda z, x, _: one_hot(z.mean(0).argmax().expand(len(z))), OTHERS),
    "the majority": (lambda z, x, _: one_hot(z.argmax(1).mode().values.expand(len(z))), OTHERS),
    "sorted": (lambda z, x, _: z.sort(0).values, OTHERS),
    "attention over the batch": (lambda z, x, _: (z @ z.T).softmax(1) @ z, OTHERS),
    "steps of the batch's range": (lambda z, x, _: quantised(z), OTHERS),
    "random numbers": (lambda z, x, _: z + 0.01 * torch.rand_like(z), CHANCE),
    "a little dropout": (lambda z, x, _: F.dropout(z, 0.01, training=True), CHANCE),
    "every second call": (lambda z, x, network: z if network.calls % 2 else -z, CHANCE),
    "every third call": (lambda z, x, network: z if network.calls % 3 else -z, f"{CHANCE}|{REST}|faster"),
    "a moving average": (moving, CHANCE),
    "the first half of the batch": (lambda z, x, _: alternating(torch.arange(len(z)) < len(z) / 2), REST),
    "every second place": (lambda z, x, _: alternating(torch.arange(len(z)) % 2 == 0), REST),
    "places that rounding could hide": (
        lambda z, x, _: 1 + 1e-6 * alternating(torch.arange(len(z)) % 2 == 0),
        REST,
    ),
    "dropout with a fixed seed": (lambda z, x, _: seeded_dropout(z), REST),
    "the size of the batch": (lambda z, x, _: z if len(z) == 100 else -z, REST),
    "batches of 200 only": (only_at(200, lambda z: z - z.mean(0)), OTHERS),
    "the last, incomplete batch only": (only_at(100, lambda z: z - z.mean(0)), REST),
}


@pytest.mark.parametrize("what", MIXING)
def test_what_is_no_function_of_one_image_is_refused(what):
    change, differs = MIXING[what]
    image, _ = data.load("digits", None, "test")[0]
    for kind in (Hard(), Soft()):
        with pytest.raises(SettingsError, match=differs) as caught:
            SmoothedClassifier(Digits(change), 0.25, batch_size=200).certify(image, 200, N, kind=kind)
        assert "samples change their class" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match=differs):
        SmoothedClassifier(Digits(change), 0.25, batch_size=200).predict(image, N)


def test_logits_of_16_bits_hide_no_mixing_that_leaves_the_classes():
    """Soft certificates depend on how large the logits are."""
    image, _ = data.load("digits", None, "test")[0]
    for change, refused in ((lambda z, x, _: z * (1 + x.mean()), True), (lambda z, x, _: 2 * z, False)):
        g = SmoothedClassifier(Digits(change).bfloat16(), 0.25, batch_size=200)
        if refused:
            with pytest.raises(SettingsError, match=OTHERS):
                g.certify(image, 200, N, kind=Soft())
        else:
            assert g.certify(image, 200, N, kind=Soft()).n == N


def test_the_same_network_unchanged_is_certified():
    image, _ = data.load("digits", None, "test")[0]
    network = Digits(lambda z, x, _: z)
    assert SmoothedClassifier(network, 0.25, batch_size=200).certify(image, 200, N).n == N
    assert network.calls == 1 + 4 + 2 * 2  # two more for each of two sizes, whatever follows
    g = SmoothedClassifier(network, 0.25, batch_size=200)
    g.certify(image, 200, N, image_index=0)
    before = network.calls
    g.certify(image, 200, N, image_index=0)
    assert network.calls == before + 5


def test_every_way_to_a_certificate_refuses(tmp_path):
    mixes = Digits(MIXING["batch statistics"][0])
    options: dict[str, Any] = {"sigma": 0.25, "n": 200, "skip": 100, "progress": False}
    with pytest.raises(SettingsError, match=OTHERS):
        macer.certify(mixes, "digits", **options)
    with pytest.raises(SettingsError, match=OTHERS):
        macer.certify(SmoothedClassifier(mixes, 0.25), "digits", n=200, skip=100, progress=False)
    for spend in ({"spend": "for-table"}, {"spend": "sequential", "at_least": 0.1}, {"precision": "bf16-true"}):
        with pytest.raises(SettingsError, match=OTHERS):
            macer.certify(copy.deepcopy(mixes), "digits", **options, **spend, out=tmp_path / "-".join(spend))
        assert "\n0\t" not in (tmp_path / "-".join(spend) / "hard.tsv").read_text()


def build() -> nn.Module:
    """A network that training and the command find by its import path."""
    return Digits(MIXING["batch statistics"][0])


def test_certification_during_training_and_by_import_path_refuses(tmp_path):
    of_epoch = {"certify_from_epoch": 1, "certify_every": 1, "certify_skip": 100, "certify_n": 100}
    training: dict[str, Any] = {"dataset": "digits", "sigma": 0.25, "epochs": 1, "num_images": 64, "device": "cpu"}
    with pytest.raises(SettingsError, match=OTHERS):
        macer.train(network="test_independence:build", progress=False, out=tmp_path / "run", **training, **of_epoch)
    weights = tmp_path / "weights.pt"
    torch.save(build().state_dict(), weights)
    options: dict[str, Any] = {"sigma": 0.25, "n": 200, "skip": 100, "progress": False}
    for model in ({"model": weights, "network": "test_independence:build"}, {"model": "test_independence:build"}):
        with pytest.raises(SettingsError, match=OTHERS):
            macer.certify(images="digits", **model, **options)


# ---- by name


class Always(nn.Dropout):
    """Dropout at test time, as people write it."""

    def train(self, mode: bool = True) -> "Always":
        return super().train(True)


BY_NAME: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch norm": (lambda: nn.BatchNorm2d(1, track_running_stats=False), "BatchNorm2d, which normalises by the stat"),
    "synchronised": (lambda: nn.SyncBatchNorm(1, track_running_stats=False), "SyncBatchNorm, which normalises"),
    "lazy": (lambda: nn.LazyBatchNorm2d(), "LazyBatchNorm2d, which has no weights before its first batch"),
    "lazy layer": (lambda: nn.LazyConv2d(1, 1), "LazyConv2d, which has no weights"),
    "dropout": (Always, "Always, which stays in training mode after eval"),
    "random pooling": (lambda: nn.FractionalMaxPool2d(2, 4), "FractionalMaxPool2d, which pools random regions"),
}


@pytest.mark.parametrize("what", BY_NAME)
def test_modules_that_mix_are_refused_by_path_and_name(what):
    build, says = BY_NAME[what]
    network = nn.Sequential(nn.Sequential(nn.Identity(), build()), nn.Flatten(), nn.Linear(64, 10)).eval()
    with pytest.raises(SettingsError, match=f"^'0.1' of the network is {says}"):
        check_modules(network)
    with pytest.raises(SettingsError, match=f"^the network is {says}"):
        check_modules(build().eval())
    with pytest.raises(SettingsError, match=says):
        macer.certify(network, "digits", sigma=0.25, n=100, skip=100, progress=False)


def test_modules_that_use_one_image_alone_are_not():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
            self.gru = nn.GRU(8, 10, 2, dropout=0.5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.gru(self.encoder(x.squeeze(1)))[0][:, -1]

    layers = [nn.BatchNorm2d(2), nn.InstanceNorm2d(2), nn.GroupNorm(1, 2), nn.LayerNorm(8), nn.RReLU(), nn.Dropout()]
    networks = [Attention(), nn.Sequential(nn.Conv2d(1, 2, 1), *layers, nn.Conv2d(2, 1, 1), Attention())]
    for network in networks:
        network.train()
        assert SmoothedClassifier(network, 0.25).certify(torch.rand(SHAPE), 100, 300, 0.05).n == 300
        assert network.training


# ---- the repository's own


@pytest.mark.parametrize("form", ["as given", "folded", "bf16", "autocast", "double"])
@pytest.mark.parametrize(
    ("name", "shape", "batch"),
    [("lenet", (1, 28, 28), 200), ("convnet", (1, 8, 8), 1000), ("resnet20", (3, 32, 32), 100)],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_our_own_networks_pass_untrained_as_they_are(name, shape, batch, form):
    """Untrained logits lie close together, so that rounding turns more votes than it ever does in practice."""
    torch.manual_seed(0)
    network = models.build(name, 10, shape).eval()
    network = {
        "as given": lambda: network,
        "folded": lambda: network,
        "bf16": lambda: InBFloat16(network, torch.rand(100, *shape)),
        "autocast": lambda: Autocast(network),
        "double": network.double,
    }[form]()
    g = SmoothedClassifier(network, 0.5, 10, batch_size=batch)
    if form == "folded":
        g.evaluate_with(folded(network))
    assert g.predict(torch.rand(shape).mul(255).round() / 255, batch) in range(-1, 10)
    assert g._checked == {batch}


class Autocast(nn.Module):
    """Half precision that nothing shows from outside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(x).float()


# ---- the faster evaluation


@pytest.mark.parametrize(
    "wrong", [lambda z: z.roll(1, 1), lambda z: z + 5 * one_hot(torch.zeros(len(z), dtype=torch.int64)), torch.neg]
)
def test_a_faster_evaluation_that_is_another_function_is_refused(wrong):
    network = Digits(lambda z, x, _: z)
    g = SmoothedClassifier(network, 0.25, 10)
    g.evaluate_with(lambda x: wrong(network(x)))
    with pytest.raises(SettingsError, match="are others in the faster evaluation than in the network as it was given"):
        g.certify(torch.rand(SHAPE), 100, 300)
    with pytest.raises(SettingsError, match="faster evaluation"):
        g.predict(torch.rand(SHAPE), 300)


class MeanOfBatch(nn.Module):
    """Decides by the mean of its batch; a third class is masked."""

    def forward(self, x: Tensor) -> Tensor:
        score = (x.mean() - 0.5) * 10 + torch.zeros(len(x))
        return torch.stack([score, -score, torch.full_like(score, -1e9)], 1)


def test_a_masked_class_hides_no_dependence_on_the_batch():
    with pytest.raises(SettingsError, match="its noise samples are not independent"):
        SmoothedClassifier(MeanOfBatch(), 0.25, 3).certify(torch.full((1, 8, 8), 0.55), n=1000)


def test_a_network_that_writes_into_its_images_is_told_to_copy_them():
    network = Digits(lambda z, x, _: z)
    network.register_forward_pre_hook(lambda _, inputs: inputs[0].mul_(2).sub_(1))
    with pytest.raises(SettingsError, match="writes into the images that it is given: let it begin with a copy"):
        SmoothedClassifier(network, 0.25, 10).certify(torch.rand(SHAPE), n=1000)


class LostInFolding(nn.Module):
    """Batch norm adds 2^24 and takes it off again: folded, nothing is lost; as given, a pixel's digits are.

    Only bright images are classified by what is lost, so that no comparison on other images finds the difference.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0, affine=False)
        nn.init.constant_(self.conv.weight, 1.0)
        for tensor in (self.conv.bias, self.bn.running_mean):
            nn.init.constant_(tensor, 2.0**24)

    def forward(self, x: Tensor) -> Tensor:
        lost = (x - self.bn(self.conv(x))).abs().mean((1, 2, 3))
        margin = 1 - 1000 * lost * torch.relu(x.mean((1, 2, 3)) - 0.6)
        return torch.stack([margin, -margin], 1)


def test_folding_that_changes_an_image_is_found_on_that_image():
    network = LostInFolding().eval()
    images = np.zeros((2, 1, 8, 8), np.uint8)
    images[1] = 230
    g = SmoothedClassifier(network, 0.1)
    assert g.predict(images).tolist() == [0, 1]
    for asked in ({"n": 100}, {"n": 1000}, {"n": 10_000, "spend": "sequential", "at_least": 0.1}):
        made = macer.certify(network, (images, np.array([0, 1])), sigma=0.1, progress=False, **asked).frame()
        assert made["predict"].tolist() == [0, 1]
    again = SmoothedClassifier(network, 0.1)
    again.evaluate_with(folded(network))
    assert again.predict(images, 100).tolist() == [0, 1]


# ---- another network in the same classifier


def turned() -> nn.Module:
    """The linear network of the digits with its classes in the reverse order."""
    network = Digits(lambda z, x, _: z)
    network.fc.weight.data = network.fc.weight.data.flip(0)
    return network


def load(g: SmoothedClassifier) -> None:
    g.network.load_state_dict(turned().state_dict())


def replace_twice(g: SmoothedClassifier) -> None:
    """The second layer may lie where the one that was certified lay."""
    for _ in range(2):
        g.network.fc = None
        g.network.fc = turned().fc


def train(g: SmoothedClassifier) -> None:
    g.network.fc.weight.grad = g.network.fc.weight.detach() - turned().fc.weight.detach()
    torch.optim.SGD(g.network.parameters(), lr=1.0).step()


def swap(g: SmoothedClassifier) -> None:
    g.network = turned()


def set_data(g: SmoothedClassifier) -> None:
    nn.utils.vector_to_parameters(torch.zeros(650), g.network.parameters())
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(turned().parameters()).detach(), g.network.parameters())


@pytest.mark.parametrize("change", [load, replace_twice, train, swap, set_data])
@pytest.mark.parametrize("before", ["certified", "prepared"])
def test_a_faster_evaluation_is_that_of_the_network_of_now(change, before):
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3))
    g, other = (SmoothedClassifier(each, 0.1, 10, seed=0) for each in (Digits(lambda z, x, _: z), turned()))
    g.evaluate_with(copy.deepcopy(g.network))
    if before == "certified":
        old = g.certify(image, 100, 300)
        assert g._fast, "an unchanged network keeps its faster evaluation"
        assert old.predict >= 0
    change(g)
    new = g.certify(image, 100, 300, image_index=0)
    assert new == other.certify(image, 100, 300, image_index=0)
    assert new.predict >= 0
    if before == "certified":
        assert new.predict == 9 - old.predict
    images = torch.rand(5, *SHAPE)
    torch.testing.assert_close(g.logits(images), other.network(images))


def lose_statistics(network: nn.Sequential) -> None:
    network[1].track_running_stats, network[1].running_mean, network[1].running_var = False, None, None


@pytest.mark.parametrize("changed", ["network", "module", "statistics"])
def test_a_network_that_mixes_is_refused_after_one_that_did_not(changed):
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    g = SmoothedClassifier(network, 0.25, 10)
    g.certify(torch.rand(SHAPE), 100, 300)
    mixing = Digits(lambda z, x, _: alternating(x.flatten(1).sum(1) > x[0].sum()))
    if changed == "network":
        g.network = mixing
    elif changed == "module":
        network[2], network[1] = mixing, nn.Identity()
    else:
        lose_statistics(network)
    with pytest.raises(SettingsError, match="not independent"):
        g.certify(torch.rand(SHAPE), 100, 300)


def test_what_was_checked_stays_while_the_network_does():
    """Also with weights that have no place in memory of their own, or whose writing is not counted."""
    network = Digits(lambda z, x, _: z)
    network.register_buffer("sparse", torch.eye(3).to_sparse())
    with torch.inference_mode():
        network.register_buffer("cached", torch.ones(3))
    g = SmoothedClassifier(network, 0.25, 10)
    g.evaluate_with(copy.deepcopy(network))
    fast = g._fast
    for _ in range(2):
        g.certify(torch.rand(SHAPE), 100, 300)
        g.train()
    assert g._fast == fast
    assert g._checked == {100, 200}
