"""macer main: the original program's command line, unchanged."""

from pathlib import Path
from typing import Any

from macer.certification import CertificationDuringTraining
from macer.cli.options import with_options
from macer.cli.results import print_results
from macer.experiments.original import OriginalOptions, original_test, original_train
from macer.files.printable import Terminal
from macer.runs.settings import require


@with_options(OriginalOptions)
def main_command(*, chosen: dict[str, Any]) -> None:
    """Run the command line of the original program, main.py.

    Options, defaults and files are the same: in a script, replace `python main.py` by `macer main`.
    """
    options = OriginalOptions(**chosen)
    ckptdir, matdir, checkpoint = (options.path(name) for name in ("ckptdir", "matdir", "resume_ckpt"))
    out = None if options.out is None else Path(options.out)
    console = Terminal()
    if options.task == "train":
        beside = ckptdir or matdir
        original_train(
            options.training,
            CertificationDuringTraining(from_epoch=200, start_img=options.start_img, num_img=options.num_img, skip=1),
            run=out or (beside / "run" if beside else Path(f"runs/main-{options.dataset}-{options.sigma:g}")),
            ckptdir=ckptdir,
            matdir=matdir,
            resume_ckpt=checkpoint,
            console=console,
        )
        return
    require(checkpoint is not None, "--task test needs --resume_ckpt FILE")
    assert checkpoint is not None
    run = original_test(
        options.certification,
        dataset=options.dataset,
        run=out,
        matdir=matdir,
        resume_ckpt=checkpoint,
        console=console,
    )
    print_results(console, [run])
