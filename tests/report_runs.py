"""Two small runs for the tests of the report, trained and certified through the public functions."""

import io
from functools import partial
from pathlib import Path

from rich.console import Console

from macer import data
from macer.certification import CertificationDuringTraining, certify_images, prepare
from macer.objectives import Cohen, Macer
from macer.pretrained.find import find_network
from macer.training import TrainingSettings, train

QUIET = Console(file=io.StringIO())
SAMPLES = 200
SKIP = 10


def make_runs(directory: Path, names: tuple[str, str] = ("macer", "cohen")) -> list[Path]:
    """A run of MACER and one of Gaussian augmentation on the digits, 50 certificates each at n = 200; ACR estimates
    of the second one between epochs."""
    objectives = (Macer(sigma=0.25, gauss_num=2, lbd=1.0, beta=4.0), Cohen(sigma=0.25, gauss_num=2))
    during = CertificationDuringTraining(from_epoch=1, every=1, num_img=10, skip=50, n=SAMPLES)
    images = data.load("digits", None, "train")
    runs = []
    for name, objective in zip(names, objectives, strict=True):
        run = directory / name
        settings = TrainingSettings(
            objective=objective, dataset="digits", network="convnet", epochs=3, lr=0.05, clip=1.0, device="cpu"
        )
        between = partial(
            during.certify, directory=run / "certificates", network="convnet", device="cpu", console=QUIET
        )
        train(settings, images, run, console=QUIET, after_epoch=between if isinstance(objective, Cohen) else None)
        chosen = {"n": SAMPLES, "skip": SKIP, "mode": "both"}
        plan = prepare(find_network(run), dataset=None, chosen=chosen)
        certify_images(plan, run / "certificates", console=QUIET)
        runs.append(run)
    return runs
