"""Sums over noise samples: the network on blocks of noisy copies of an image, with votes that no batch size changes."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from math import ceil
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from macer.compute.device import exact_float32
from macer.compute.seeding import seed_from_system
from macer.errors import MacerError, SettingsError, first_line
from macer.smoothing.grid import LARGEST_SIGMA, GridNoiseSource, on_grid
from macer.smoothing.images import as_images
from macer.smoothing.independence import check_independence, check_modules
from macer.smoothing.network import evaluating, logits_of, scale_of
from macer.smoothing.noise import BLOCK, Noise, NoiseSource
from macer.smoothing.radius import check_sigma
from macer.smoothing.words import Stage

Image = Float[Tensor, "channels height width"]

Evaluation = Callable[[Float[Tensor, "batch channels height width"]], Any]
"""From images to logits, or to an output that holds them (see `network.logits_of`)."""

Measure = Callable[[Float[Tensor, "samples classes"]], Float64[Tensor, "samples features"]]
"""From logits to the numbers that are summed over samples."""

_NEAR_TIE = 1000
"""Roundings of the largest logit by which the two largest logits of a sample may differ and still turn."""


class SampledNetwork(nn.Module):
    """A network with the noise that it is evaluated on. See `SmoothedClassifier` for the arguments."""

    _place: Tensor

    def __init__(
        self,
        network: nn.Module,
        sigma: float,
        num_classes: int | None = None,
        *,
        batch_size: int | None = None,
        seed: int | None = None,
        sound: bool | None = None,
        any_range: bool = False,
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise SettingsError(f"network must be a torch.nn.Module, not {type(network).__name__}")
        if num_classes is not None and num_classes < 2:
            raise SettingsError(f"a classifier needs at least 2 classes, not {num_classes}")
        if batch_size is not None and batch_size < BLOCK:
            raise SettingsError(f"noise comes in blocks of {BLOCK} samples: batch_size must be at least that")
        self.network = network
        self.sigma = check_sigma(sigma)
        self.num_classes = num_classes
        self.sound = sound
        self.any_range = any_range
        self.shape = None if shape is None else tuple(shape)
        self.given_seed = seed
        self._drawn_seed: int | None = None
        self._batch_size = batch_size
        self._fast: tuple[Evaluation, ...] = ()  # in a tuple, because a module would become a part of this one
        self._checked: set[int] = set()  # the batch sizes at which samples were found to be independent
        self._known: tuple[list[object], list[object]] = [], []  # the network of these two; see `_forget_if_changed`
        self.register_buffer("_place", torch.empty(0), persistent=False)  # where a network without parameters lies

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters, on which everything is computed."""
        return next(chain(self.network.parameters(), self.network.buffers(), [self._place])).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the network's floating-point parameters; float32 where it has none."""
        kinds = (each.dtype for each in self.network.parameters() if each.is_floating_point())
        return next(kinds, torch.float32)

    def placed(self, images: Tensor) -> Tensor:
        """Put images where the network lies, in the precision in which noise is drawn: float32 or more."""
        return images.to(self.device, torch.promote_types(self.dtype, torch.float32))

    @property
    def batch_size(self) -> int:
        """Noise samples evaluated at once."""
        return self._batch_size or (200 if self.device.type == "cpu" else 1000)

    @property
    def seed(self) -> int:
        """The seed of all noise: the one given, or one that is drawn from the system's entropy when it is needed."""
        if self.given_seed is not None:
            return self.given_seed
        if self._drawn_seed is None:
            self._drawn_seed = seed_from_system()
        return self._drawn_seed

    def images_of(self, x: Tensor | np.ndarray) -> tuple[Float[Tensor, "batch channels height width"], bool]:
        """Return what was given as a batch of images, and whether it was a single image.

        Raises:
            SettingsError: these are no images in [0, 1], or not of `shape`.
        """
        images, single = as_images(x, any_range=self.any_range)
        if self.shape not in (None, tuple(images.shape[1:])):
            raise SettingsError(
                f"images must have shape {self.shape}, not {tuple(images.shape[1:])}: docs/data.md says how to prepare "
                "them"
            )
        return images, single

    def noise_for(self, image: Image) -> Noise:
        """Return the noise that is added to an image: grid noise for an 8-bit image, unless `sound` decides otherwise.

        Raises:
            SettingsError: `sound` is true, and the image is not 8-bit or sigma is larger than LARGEST_SIGMA.
        """
        sound = self.sound
        if sound is None:
            sound = not self.any_range and self.sigma <= LARGEST_SIGMA and on_grid(image)
        noise = GridNoiseSource(self.sigma, self.seed) if sound else NoiseSource(self.sigma, self.seed)
        if self.sound is not None:  # else the image has decided
            noise.check(image)
        return noise

    def evaluate_with(self, fast: Evaluation) -> None:
        """Evaluate the same function as `network` in a faster way in `predict` and `certify`.

        The two may differ by rounding. Votes that rounding could turn are still taken from `network` itself. `fast` may
        hold a copy of the parameters. So a change of the network returns to `network`: of its modules, its device or
        type, or of parameters and buffers in any way that PyTorch counts, which is all but writing through `.data` or
        NumPy.

        Args:
            fast: the faster evaluation, see `models.fast.fastest`.
        """
        self._forget_if_changed()
        self._fast, self._checked = (fast,), set()

    def logits(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return the network's logits, evaluated as fast as `evaluate_with` allows."""
        self._forget_if_changed()
        return self._logits((*self._fast, self.network)[0], images)

    def sums(
        self, image: Image, image_index: int, stage: Stage, n: int, measures: Sequence[Measure]
    ) -> list[Float64[Tensor, " features"]]:
        """Return the sum of each measure over the stage's first n samples. Arguments as for `block_sums`."""
        blocks = range(ceil(n / BLOCK))
        return [each.sum(0) for each in self.block_sums(image, image_index, stage, blocks, n, measures)]

    @torch.inference_mode()
    def block_sums(
        self, image: Image, image_index: int, stage: Stage, blocks: range, n: int, measures: Sequence[Measure]
    ) -> list[Float64[Tensor, "blocks features"]]:
        """Return the sums of each measure over each block of noise samples. For `smoothing.spending`.

        Everything stays on the device until the last block: block sums are collected there, so that no batch waits
        for the host.

        Args:
            image: one image.
            image_index: selects the noise.
            stage: what the samples are for.
            blocks: which blocks of samples.
            n: samples from the n-th on do not count.
            measures: from logits to what is summed.

        Raises:
            SettingsError: the image is impossible, or the network's output is not finite logits, or its logits for a
                sample depend on anything but that sample (see `independence`).
        """
        (x,), _ = self.images_of(image)
        noise, x = self.noise_for(x), self.placed(x)
        at_once = self.batch_size // BLOCK
        # Filled in place: small tensors that stay while large ones come and go would leave holes in the heap, and
        # memory would grow with n.
        sums: list[Tensor] = []
        finite, close = torch.zeros(2, len(blocks), dtype=torch.bool, device=x.device)
        self._forget_if_changed()
        evaluate = partial(self._logits, (*self._fast, self.network)[0])
        with evaluating(self.network), exact_float32(x.device):
            for first in range(0, len(blocks), at_once):
                batch = blocks[first : first + at_once]
                here = slice(first, first + len(batch))
                noisy = noise.blocks(x, image_index, stage, batch[0], len(batch))
                logits = evaluate(noisy)
                self._check_independence(noise, x, image_index, noisy, logits, evaluate)
                if batch[0] == 0 and self._turns_votes(noisy[:BLOCK], logits[:BLOCK]):  # the first block of a stage
                    self._fast = ()
                    return self.block_sums(image, image_index, stage, blocks, n, measures)
                finite[here] = torch.isfinite(logits).view(len(batch), -1).all(1)
                if not getattr(self.network, "decides_ties", False):
                    close[here] = _close_to_a_tie(logits)
                counted = torch.arange(batch[0] * BLOCK, (batch[-1] + 1) * BLOCK, device=x.device).lt(n).unsqueeze(1)
                values = [measure(logits) * counted for measure in measures]
                if not sums:
                    shapes = [(len(blocks), each.shape[1]) for each in values]
                    sums = [torch.zeros(shape, dtype=torch.float64, device=x.device) for shape in shapes]
                for total, each in zip(sums, values, strict=True):
                    total[here] = each.view(len(batch), BLOCK, -1).sum(1)
            _refuse_unless(finite.all())
            for position in close.nonzero().flatten().tolist():
                block = blocks[position]
                again = self._block_alone(noise.blocks(x, image_index, stage, block, 1), n - block * BLOCK, measures)
                for total, each in zip(sums, again, strict=True):
                    total[position] = each
        return [total.cpu() for total in sums]

    def _turns_votes(self, noisy: Float[Tensor, "samples channels height width"], logits: Tensor) -> bool:
        """Whether the faster evaluation differs by more than rounding, so that votes turn that are no near-ties.

        Batch norm that is folded into a convolution can lose digits which the network as given keeps, and may do so on
        some images only.
        """
        if not self._fast:
            return False
        given = self._logits(self.network, noisy)
        return bool((given - logits).abs().max() > _NEAR_TIE / 2 * torch.finfo(given.dtype).eps * scale_of(given))

    def _block_alone(
        self, noisy: Float[Tensor, "samples channels height width"], n: int, measures: Sequence[Measure]
    ) -> list[Float64[Tensor, " features"]]:
        """Return the sums over the first n samples of one block, evaluated by the network itself on that block alone.

        A matrix product rounds differently for different batch sizes. That can turn a vote only where the two largest
        logits almost agree, and blocks with such a near-tie are evaluated in this way, which no batch size enters.
        """
        logits = self._logits(self.network, noisy)
        _refuse_unless(torch.isfinite(logits).all())
        return [measure(logits[:n]).sum(0) for measure in measures]

    def _check_independence(
        self, noise: Noise, x: Tensor, image_index: int, noisy: Tensor, logits: Tensor, evaluate: Evaluation
    ) -> None:
        """Refuse a network that is no function of one image, at the first batch of each size."""
        if len(noisy) in self._checked or not bool(torch.isfinite(logits).all()):  # what is not finite is refused later
            return
        check_modules(self.network)
        fresh = noise.blocks(x, image_index, Stage.COMPARISON, 0, 1)
        alone = partial(self._logits, self.network)
        check_independence(x, noisy, logits, fresh, evaluate=evaluate, network=alone, dtype=self.dtype)
        self._checked.add(len(noisy))

    def _forget_if_changed(self) -> None:
        """Forget the faster evaluation and what was checked if the network is no longer the one that they belong to.

        This costs about as much as putting the network into eval mode, once per call. Modules and weights are kept
        until the next change, so that no others can take their places in memory.
        """
        modules, tensors = list(self.network.modules()), [*self.network.parameters(), *self.network.buffers()]
        found = [self.device, *map(id, modules), *map(writing, tensors)]
        if found != self._known[0]:
            kept = [each.detach() for each in tensors if not is_lazy(each)]  # `.data` may be replaced in the tensors
            self._fast, self._checked, self._known = (), set(), (found, [*modules, *kept])

    def _logits(self, evaluate: Evaluation, images: Tensor) -> Tensor:
        """Evaluate and check the output's type and shape."""
        try:
            logits = logits_of(evaluate(images.to(self.dtype)))
        except Exception as error:  # their code may raise anything
            if isinstance(error, MacerError) or any(word in str(error) for word in ("not enough memory", "CUDA")):
                raise  # not the network's fault
            raise SettingsError(
                f"the network fails on images of shape {tuple(images.shape[1:])}: {first_line(error)}"
            ) from error
        if self.num_classes is None and logits.dim() == 2 and logits.shape[1] > 1:
            self.num_classes = logits.shape[1]
        if logits.shape != (len(images), self.num_classes):
            classes = "at least 2" if self.num_classes is None else self.num_classes
            raise SettingsError(
                f"the network returned shape {tuple(logits.shape)} for {len(images)} images of {classes} classes"
            )
        return logits


def writing(tensor: Tensor) -> tuple[int, int]:
    """Return where the values of a parameter or buffer lie, and how often they were written."""
    place = id(tensor) if is_lazy(tensor) or tensor.layout is not torch.strided else tensor.data_ptr()
    return place, 0 if tensor.is_inference() else tensor._version  # inference tensors are not written outside of it


def _refuse_unless(finite: Tensor) -> None:
    if not bool(finite):
        raise SettingsError("the network returned logits that are not finite: nothing can be certified from it")


def _close_to_a_tie(logits: Tensor) -> Tensor:
    """Return, for each block, whether a sample's two largest logits differ by no more than _NEAR_TIE roundings.

    The rounding is that of the block's largest logit. A sample's own logits are no measure of it: two that cancel
    to almost 0 carry the rounding of what was added up.
    """
    blocks = logits.unflatten(0, (-1, BLOCK))
    first, second = blocks.topk(2, dim=2).values.unbind(2)
    rounding = torch.finfo(logits.dtype).eps * blocks.abs().amax((1, 2))
    return (first - second).amin(1) <= _NEAR_TIE * rounding
