"""Training on hard data: the attack on the noise, which images an epoch is made of, and what a checkpoint keeps."""

import dataclasses
import io
import signal
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from rich.console import Console
from scipy import stats
from test_training import SIZE, assert_same, metrics, run, settings
from torch import nn

from macer import data
from macer.attacks import misleading_noise
from macer.compute.interruption import Interrupted
from macer.data import InMemoryImages
from macer.errors import SettingsError
from macer.objectives import HardData, Loss
from macer.objectives.base import Objective, Progress
from macer.objectives.hard_data import sampling_weights
from macer.smoothing.training_noise import training_noise
from macer.training import load_checkpoint, train
from macer.training.loop import _Loop


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Dropout(), nn.Linear(16, 3)).double()


@pytest.fixture(scope="module")
def images() -> InMemoryImages:
    digits = data.load("digits", None, "train")
    assert isinstance(digits, InMemoryImages)
    return InMemoryImages("digits", "train", digits.images[:SIZE], digits.labels[:SIZE], digits.class_names)


def literal_noise(network, x, label, eta, step_size, steps):
    """The attack on one noise sample, as the paper's released code takes it."""
    length = eta.norm()
    for _ in range(steps):
        eta = eta.clone().requires_grad_()
        logits = network((x + eta).unsqueeze(0))
        if int(logits.argmax()) != label:
            return eta.detach()
        (gradient,) = torch.autograd.grad(-logits.log_softmax(1)[0, label], eta)
        moved = eta.detach() + step_size * gradient / gradient.norm()
        eta = moved * (length / moved.norm())
    return eta.detach()


def test_the_attack_on_the_noise_is_the_literal_one_and_keeps_each_length(network):
    torch.manual_seed(1)
    images, noise = torch.rand(6, 1, 8, 8).double(), 0.3 * torch.randn(6, 4, 1, 8, 8).double()
    labels = network.eval()(images).argmax(1)
    network.train()
    ours = misleading_noise(network, images, labels, noise, step_size=0.8, steps=3)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    network.eval()
    for i in range(6):
        for j in range(4):
            theirs = literal_noise(network, images[i], int(labels[i]), noise[i, j], 0.8, 3)
            torch.testing.assert_close(ours[i, j], theirs)
    torch.testing.assert_close(ours.flatten(2).norm(dim=2), noise.flatten(2).norm(dim=2))
    right = [
        (network((images.unsqueeze(1) + each).flatten(0, 1)).argmax(1) == labels.repeat_interleave(4))
        for each in (noise, ours)
    ]
    assert int(right[1].sum()) < int(right[0].sum())
    assert not (right[1] & ~right[0]).any()
    stayed = (ours == noise).flatten(2).all(2).flatten()
    assert torch.equal(stayed, ~right[0])
    assert 0 < int(stayed.sum()) < 24


def test_the_loss_is_gaussian_augmentation_then_that_of_the_attacked_noise(network):
    network.eval()
    images, labels = torch.rand(5, 1, 8, 8).double(), torch.arange(5) % 3
    method = HardData(sigma=0.3, gauss_num=3, hard_from=2, steps=2, climb_size=0.4)
    noise = training_noise(images, 0.3, 3, torch.Generator().manual_seed(3))
    attacked = misleading_noise(network, images, labels, noise, step_size=0.4, steps=2)
    for epoch, expected in ((1.9, noise), (2.0, attacked)):
        loss = method(
            network, images, labels, generator=torch.Generator().manual_seed(3), progress=Progress(epoch=epoch)
        )
        each = network((images.unsqueeze(1) + expected).flatten(0, 1)).log_softmax(1)
        literal = -each.gather(1, labels.repeat_interleave(3).unsqueeze(1)).mean()
        torch.testing.assert_close(loss.total, literal)
        gradients = [torch.autograd.grad(total, network[1].weight)[0] for total in (loss.total, literal)]
        torch.testing.assert_close(*gradients)
        assert method.samples_at(Progress(epoch=epoch)) == (3 if epoch < 2 else 9)


def test_weights_are_those_of_the_papers_bound():
    """Against SciPy's quantiles of the beta and the normal distribution."""
    share = torch.arange(17, dtype=torch.float64) / 16
    weights = sampling_weights(share)
    for count, weight in enumerate(weights.tolist()):
        count = max(count, 12)
        lower = stats.beta.ppf(0.1, count, 17 - count)
        assert weight == pytest.approx(stats.norm.ppf(lower), abs=1e-12)
    assert [weights[0].item(), weights[-1].item()] == pytest.approx([0.15, 1.11], abs=0.005)


def test_images_below_the_threshold_are_dropped_for_good_and_the_others_weighed_every_few_epochs():
    method = HardData(hard_from=2, reweigh_every=3, drop_below=0.5)
    shares = iter(
        [
            torch.tensor([0.49, 0.5, 0.75, 1.0]).double(),  # of 100 copies, before epoch 3
            torch.tensor([1.0, 0.5, 0.75, 1.0]).double(),  # of 16
            torch.tensor([1.0, 1.0, 0.0, 1.0]).double(),  # of 16, three epochs later
        ]
    )
    weights, history = None, []
    for epoch in range(7):
        weights = method.image_weights(epoch, weights, lambda _score: next(shares))
        history.append(weights)
    low, high = sampling_weights(torch.tensor([0.75, 1.0]).double()).tolist()
    assert history[:2] == [None, None]
    assert [each.tolist() for each in history[2:5]] == [[0, low, low, high]] * 3
    assert [each.tolist() for each in history[5:]] == [[0, high, low, high]] * 2


def test_without_weighing_all_images_that_are_kept_are_alike():
    method = HardData(hard_from=1, reweigh_every=0)
    weights = method.image_weights(1, None, lambda _score: torch.tensor([0.2, 0.9, 0.6]).double())
    assert weights is not None
    assert weights.tolist() == [0, 1, 1]


HARD = HardData(sigma=0.1, gauss_num=2, hard_from=2, reweigh_every=2, drop_below=0.6, steps=1)


def watch(monkeypatch) -> list[list[tuple[int, ...]]]:
    """The images of each epoch's steps, as hashes of their pixels."""
    epochs: dict[int, list[tuple[int, ...]]] = {}
    step = _Loop.train_step

    def watched(self, images, labels, *more):
        epochs.setdefault(self.state.epoch, []).append(tuple(hash(image.numpy().tobytes()) for image in images))
        return step(self, images, labels, *more)

    monkeypatch.setattr(_Loop, "train_step", watched)
    return epochs  # type: ignore[return-value]


def test_an_epoch_keeps_its_length_and_has_no_dropped_image(images, tmp_path, monkeypatch):
    epochs = watch(monkeypatch)
    trained = run(settings(HARD, epochs=4), images, tmp_path)
    assert trained.image_weights is not None
    dropped = {hash(images[index][0].numpy().tobytes()) for index in range(SIZE) if trained.image_weights[index] == 0}
    assert 0 < len(dropped) < SIZE
    for epoch in range(4):
        assert [len(step) for step in epochs[epoch]] == [20, 20, 10]
        seen = Counter(image for step in epochs[epoch] for image in step)
        if epoch < 2:
            assert set(seen.values()) == {1}
        else:
            assert not dropped & set(seen)
            assert max(seen.values()) > 1
    assert [row["noisy_images"] for row in metrics(tmp_path)] == ["100", "100", "200", "200"]


class Stopping(HardData):
    """Asks to stop in its n-th measurement or step."""

    countdown: ClassVar = [0]

    def _count(self) -> None:
        self.countdown[0] -= 1
        if self.countdown[0] == 0:
            signal.raise_signal(signal.SIGTERM)

    def _share_right(self, *arguments):
        self._count()
        return super()._share_right(*arguments)

    def loss(self, *arguments, **words) -> Loss:
        self._count()
        return super().loss(*arguments, **words)


def test_stopped_anywhere_and_resumed_it_gives_the_same_weights(images, tmp_path):
    options = {"epochs": 4, "micro_batch": 20}
    whole = run(settings(HARD, **options), images, tmp_path / "whole")
    # Per epoch 3 steps, before the third epoch 2 measurements of 3 batches each, in the middle of which some stops are.
    for at in (4, 7, 8, 11, 13, 15, 16, 18):
        Stopping.countdown[0] = at
        stopping = Stopping(**dataclasses.asdict(HARD))
        with pytest.raises(Interrupted):
            run(settings(stopping, **options), images, tmp_path / str(at))
        assert_same(run(settings(HARD, **options), images, tmp_path / str(at)), whole)
        assert metrics(tmp_path / str(at)) == metrics(tmp_path / "whole")
        kept = load_checkpoint(tmp_path / str(at) / "checkpoints" / "last.pt")
        assert kept.image_weights is not None
        assert torch.equal(kept.image_weights, whole.image_weights)


def test_dropping_every_image_is_one_line(images, tmp_path):
    method = HardData(sigma=0.25, gauss_num=1, hard_from=1, drop_below=1.0)
    with pytest.raises(SettingsError, match="drop_below 1 drops every image after 1 epochs: train longer"):
        run(settings(method, lr=1e-9), images, tmp_path)


def test_another_method_can_choose_images_without_a_change_of_the_loop(images, tmp_path, monkeypatch):
    class First(Objective):
        """Trains on the ten images that it likes best."""

        name = "first"

        @property
        def samples(self) -> int:
            return 1

        def image_weights(self, epoch, current, measure):
            loss = measure(lambda network, x, y, _generator: network(x).gather(1, y.unsqueeze(1)).squeeze(1))
            return (loss >= loss.topk(10).values[-1]).double()

        def loss(self, network, images, labels, *, generator, progress) -> Loss:
            return Loss(nn.functional.cross_entropy(network(images), labels), {})

    epochs = watch(monkeypatch)
    train(settings(First()), images, Path(tmp_path / "run"), console=Console(file=io.StringIO()))
    for steps in epochs.values():
        assert len({image for step in steps for image in step}) <= 10
        assert sum(map(len, steps)) == SIZE
