"""The documentation: its commands parse, its names and files exist, its links lead somewhere, README's Python runs."""

import ast
import dataclasses
import importlib
import importlib.util
import io
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from published_names import NETWORKS, random_weights
from rich.console import Console
from scipy.io import savemat
from typer.testing import CliRunner

import macer
from macer.cli.app import app
from macer.data import InMemoryImages
from macer.models import build
from macer.objectives import Consistency
from macer.runs.run import Run
from macer.training import TrainingSettings, load_checkpoint, train

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NUMBERS = {"S": "1", "E": "0.5", "B": "0.5"}  # what the pages write where a person puts a number

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the language ("" for an indented block) and the text of each code block."""
    text = page.read_text(encoding="utf-8")
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for match in fence.finditer(text):
        yield match[1], match[2]
    for block in re.findall(r"(?<=\n\n)(?:    .*\n|\n(?=    ))+", fence.sub("", text)):
        yield "", textwrap.dedent(block)


def code_spans(page: Path) -> list[str]:
    """Return the text of each `...` outside code blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands(script: str, directory: Path) -> list[list[str]]:
    """Return the arguments of each call of macer in a shell script, run with nothing but the shell's own commands."""
    stubs = """
    PATH=
    macer() { printf '%s\\0' "$@"; echo; }
    torchrun() { while [ $# -gt 0 ] && [ "$1" != macer ]; do shift; done; "$@"; }
    srun() { torchrun "$@"; }
    """
    script = stubs + script.replace(".venv/bin/macer", "macer")
    shell = subprocess.run(
        ["/bin/bash", "-c", script], cwd=directory, capture_output=True, text=True, check=False, timeout=60
    )
    return [line.split("\0")[:-1] for line in shell.stdout.splitlines()]


@pages
def test_commands_parse(page: Path, tmp_path: Path) -> None:
    group = typer.main.get_command(app)
    with group.make_context("macer", ["demo"]) as context:
        for language, block in code_blocks(page):
            if language not in ("", "bash"):
                continue
            for name, *arguments in commands(block, tmp_path):
                command = group.get_command(context, name)  # type: ignore[attr-defined]
                assert command is not None, f"{page.name}: macer {name}"
                given = [NUMBERS.get(argument, argument) for argument in arguments]
                command.make_context(name, given, parent=context)  # raises what it refuses


ONLY_PARSED = {
    **dict.fromkeys(("train", "main", "ablate", "demo", "teacher"), "they train, for minutes or days"),
    **dict.fromkeys(("certify", "merge", "verify"), "they need the networks, data and journals of real runs"),
}
"""The commands that no test of the documentation runs, and why. Tests of their own run each of them."""


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with tiny runs and files under the names that the pages use."""
    directory = tmp_path_factory.mktemp("examples")
    runs = ("demo/macer-consistency", "demo/cohen", "macer", "cohen", "mnist-macer")
    runs += ("cifar10-macer-0.25", "cifar10-cohen-0.25")
    others = (
        "cohen",
        "smoothadv",
        "macer",
        "run",
        *(f"certificates-{kind}" for kind in ("pt2", "pt", "onnx", "bare", "denoised")),
    )
    published = ("noise_0.25", "cohen/noise_0.25", "macer/noise_0.25", "mnist-lenet/noise_0.25")
    published += ("cifar10-cohen-resnet110/noise_1.00", "cifar10-macer-resnet110/noise_1.0")
    rows = "".join(f"{idx}\t{idx % 10}\t{idx % 10}\t{idx % 60 / 100}\t1\t0.5\n" for idx in range(100))
    for run in (*(f"runs/{name}" for name in runs), *others):
        certificates = directory / run / "certificates"
        certificates.mkdir(parents=True)
        certificates.joinpath("hard.tsv").write_text(f"idx\tlabel\tpredict\tradius\tcorrect\ttime\n{rows}")
        facts = 'sigma = 0.25\nn = 1000\nalpha = 0.001\ntotal = 100\ndataset = "mnist"\nnetwork = "lenet"\n'
        certificates.joinpath("settings.toml").write_text(f"[certification]\n{facts}")
        (directory / run / "settings.toml").write_text("[training]\nepochs = 1\n")
        (directory / run / "metrics.tsv").write_text("epoch\tseconds\n1\t3.5\n")
    for name in published:
        file = directory / "published" / f"{name}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(rows)
    savemat(directory / "440.mat", {"hard": [0.5, -1.0]})
    return directory


@pages
def test_commands_on_records_run(page: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command that reads records runs as it is printed, in a directory with what it names."""
    monkeypatch.chdir(examples)
    for language, block in code_blocks(page):
        for name, *arguments in commands(block, examples) if language in ("", "bash") else []:
            if name in ONLY_PARSED or any(each.endswith(".safetensors") for each in arguments):  # that is a network
                continue
            result = CliRunner().invoke(app, [name, *arguments])
            assert result.exit_code == 0, f"{page.name}: macer {name} {' '.join(arguments)}: {result.exception!r}"


def test_the_python_of_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks run one after the other as printed, but for fewer epochs and images."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    code = "\n".join(block for language, block in code_blocks(ROOT / "README.md") if language == "python")
    shorter = code.replace("epochs=10", 'epochs=1, device="cpu"').replace("skip=5", "skip=100")
    assert len(shorter) > len(code)
    exec(compile(shorter, "README.md", "exec"), names)
    assert Path("mine.png").exists()
    assert names["results"].names == ["mine"]  # type: ignore[attr-defined]


def test_the_row_for_predict_runs_as_printed(tmp_path: Path) -> None:
    """A checkpoint of locuslab/smoothing does not say its sigma: the row gives it."""
    weights = {f"module.1.{name}": value for name, value in random_weights(NETWORKS["resnet20"]).items()}
    torch.save({"state_dict": weights, "arch": "cifar_resnet20"}, tmp_path / "checkpoint.pth.tar")
    (row,) = [line for line in (ROOT / "docs/moving.md").read_text().splitlines() if line.startswith("| `predict.py`")]
    names = {"macer": macer, "FILE": tmp_path / "checkpoint.pth.tar", "image": torch.full((3, 32, 32), 0.5)}
    with pytest.warns(UserWarning, match=r"normalisation \(assumed\)"):
        assert eval(re.findall("`([^`]+)`", row)[1], names) in range(-1, 10)


@pages
def test_options_in_sentences_exist(page: Path) -> None:
    group = typer.main.get_command(app)
    known = {name: _options(command) for name, command in group.commands.items()}  # type: ignore[attr-defined]
    anywhere = set().union(*known.values())
    foreign = {
        "--train-multi-noise",
        "--num-noise-vec",
        "--time",
        "--memory-limit",
        "--signal",
    }  # of SmoothAdv, Slurm and Dask
    for span in code_spans(page):
        first, *others = span.split()
        options = {word.replace("_", "-") for word in (first, *others) if re.match(r"--\w", word)} - foreign
        if first == "macer" and others and not options & {others[0]}:
            assert others[0] in known, f"{page.name}: `{span}`"
            assert options <= known[others[0]], f"{page.name}: `{span}`"
        elif first in options:
            assert options <= anywhere, f"{page.name}: `{span}`"


def _options(command: typer.core.TyperCommand) -> set[str]:
    return {"--help"} | {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


@pages
def test_names_exist(page: Path) -> None:
    for language, block in code_blocks(page):
        if language == "python":
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "macer":
                    for alias in node.names:
                        _resolve(f"{node.module}.{alias.name}")
                elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("macer."):
                    _resolve(re.match(r"[\w.]+\w", ast.unparse(node))[0])  # type: ignore[index]
    for span in code_spans(page):
        if match := re.match(r"macer(\.[A-Za-z_]\w*)+(?=$|\()", span):
            _resolve(match[0])


def _resolve(name: str) -> None:
    """Import as much of a dotted name as is modules, and look the rest up."""
    found = importlib.import_module("macer")
    for end, part in enumerate(name.split(".")[1:], 2):
        if not hasattr(found, part):
            importlib.import_module(".".join(name.split(".")[:end]))
        found = getattr(found, part)


@pages
def test_source_files_exist(page: Path) -> None:
    for span in code_spans(page):
        if re.fullmatch(r"(src|tests|benchmarks|tools|examples|[a-z]+)/[\w./-]*\.(py|toml|safetensors)", span):
            if span.startswith(("runs/", "certificates/")):
                continue
            assert (ROOT / span).exists() or (ROOT / "src/macer" / span).exists(), f"{page.name}: `{span}`"


def test_the_method_of_the_page_on_extending_trains(tmp_path: Path) -> None:
    """Written to a file as the page says, it computes Consistency's loss (without the entropy) and trains."""
    page = ROOT / "docs" / "extending.md"
    (code,) = [block for language, block in code_blocks(page) if language == "python"]
    file = tmp_path / "added_method.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("added_method", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs, ours = (kind(sigma=0.25, lbd=3.0) for kind in (module.Consistency, Consistency))
    ours = dataclasses.replace(ours, entropy_weight=0.0)
    network = build("convnet", 10, (1, 8, 8))
    batch = torch.rand(6, 1, 8, 8), torch.arange(6)
    losses = [method(network, *batch, generator=torch.Generator().manual_seed(0)) for method in (theirs, ours)]
    torch.testing.assert_close(*(loss.total for loss in losses))
    torch.testing.assert_close(*(loss.terms for loss in losses))
    images = InMemoryImages("digits", "train", *batch, tuple("0123456789"))
    settings = TrainingSettings(
        objective=theirs, dataset="digits", network="convnet", epochs=1, batch_size=2, device="cpu"
    )
    checkpoint = load_checkpoint(train(settings, images, tmp_path / "run", console=Console(file=io.StringIO())))
    expected = {"name": "consistency", "sigma": 0.25, "gauss_num": 2, "lbd": 3.0}
    assert checkpoint.settings["objective"] == expected
    assert Run(tmp_path / "run").metrics().keys() >= {"classification", "consistency"}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file) if file else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in _anchors(linked), f"{page.name}: {target}"


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's titles, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
