"""Train image classifiers to be provably robust, and prove it.

Your own network and images, in your own training loop:

>>> import torch, macer
>>> images, labels = torch.rand(32, 1, 8, 8), torch.arange(32) % 2
>>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
>>> loss = macer.objectives.Macer(sigma=0.25, gauss_num=4)(network, images, labels)
>>> loss.total.backward()
>>> results = macer.certify(network, (images, labels), sigma=0.25, n=1000, skip=16, progress=False)
>>> results.metrics([0.0, 0.25])["metric"].tolist()
['ACR', 'certified accuracy', 'certified accuracy']

Names are imported when they are first used, so that `import macer` takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from macer import objectives
    from macer.compute.interruption import Interrupted
    from macer.errors import MacerError
    from macer.front import certify, train
    from macer.models.denoised import Denoised
    from macer.pretrained.find import load_model
    from macer.results.results import Results, load_results
    from macer.smoothing import ABSTAIN, Certificate, Certificates, Hard, SmoothedClassifier, Soft

__version__ = "0.1.0"

__all__ = [
    "ABSTAIN",
    "Certificate",
    "Certificates",
    "Denoised",
    "Hard",
    "Interrupted",
    "MacerError",
    "Results",
    "SmoothedClassifier",
    "Soft",
    "__version__",
    "certify",
    "load_model",
    "load_results",
    "objectives",
    "train",
]

_HOMES = {
    "Denoised": "models.denoised",
    "Interrupted": "compute.interruption",
    "MacerError": "errors",
    "certify": "front",
    "load_model": "pretrained.find",
    "load_results": "results.results",
    "Results": "results.results",
    "train": "front",
}
"""The module that a public name comes from, where it is not `smoothing`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "objectives":
        return importlib.import_module("macer.objectives")
    return getattr(importlib.import_module(f"macer.{_HOMES.get(name, 'smoothing')}"), name)


def __dir__() -> list[str]:
    return __all__
