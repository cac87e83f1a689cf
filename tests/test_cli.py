"""The command line: names as in the original, one line for every mistake, nothing imported in vain."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from macer.cli import results
from macer.cli.app import app
from macer.cli.options import with_options
from macer.files.toml import read_toml
from macer.objectives import OBJECTIVES

pytest_plugins = ["command"]

DIGITS = ("train", "--dataset", "digits", "--network", "convnet", "--device", "cpu")


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


ORIGINAL = {
    "sigma": ("--sigma", 0.5),
    "gauss_num": ("--gauss-num", 3),
    "lbd": ("--lbd", 2.5),
    "gamma": ("--gamma", 4.0),
    "beta": ("--beta", 8.0),
    "epochs": ("--epochs", 1),
    "batch_size": ("--batch-size", 700),
    "lr": ("--lr", 0.125),
}


@pytest.mark.parametrize("spell", [str, lambda name: "--" + name[2:].replace("-", "_")], ids=["dashes", "underscores"])
def test_training_is_named_as_in_the_original(macer, spell):
    words = [spell(word) if isinstance(word, str) else word for pair in ORIGINAL.values() for word in pair]
    result = macer(*DIGITS, *words, "--root", ".", "--out", "my_run")
    assert result.code == 0, result
    tables = read_toml(Path("my_run/settings.toml"))
    told = {**tables["training"], **tables["objective"]}
    assert {name: told[name] for name in ORIGINAL} == {name: value for name, (_, value) in ORIGINAL.items()}
    assert told["root"] == "."
    assert told["name"] == "macer"


@pytest.mark.parametrize("spell", [str, lambda name: "--" + name[2:].replace("-", "_")], ids=["dashes", "underscores"])
@pytest.mark.parametrize("checkpoint", [[], ["checkpoints", "last.pt"]], ids=["run", "file"])
def test_certification_is_named_as_in_the_original(macer, trained, spell, checkpoint):
    words = ("--out", "my_mat", spell("--start-img"), 5, spell("--num-img"), 2, "--skip", 3, "--n", 200)
    result = macer("certify", trained.joinpath(*checkpoint), *words, "--device", "cpu")
    assert result.code == 0, result
    rows = Path("my_mat/hard.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ["5", "8"]
    assert Path("my_mat/certificates.mat").exists()


def test_init_starts_training_from_weights(macer, trained):
    options = ("--epochs", 1, "--lr", 1e-30, "--gauss-num", 1, "--weight-decay", 0, "--out", "run")
    assert macer(*DIGITS, *options, "--init", trained / "checkpoints" / "last.pt").code == 0
    start, end = (torch.load(run / "checkpoints" / "last.pt")["network"] for run in (trained, Path("run")))
    assert all(torch.equal(start[name], end[name]) for name in start)


def test_underscores_in_values_stay(macer, trained):
    words = ("--out=a_directory", "--num-img=1", "--n=200", "--device=cpu")
    assert macer("certify", trained, *words).code == 0
    assert Path("a_directory/hard.tsv").exists()


RUN = "RUN"  # stands for the trained run's directory
REFUSED = [
    ([*DIGITS, "--sigma", "0"], "sigma"),
    ([*DIGITS, "--sigma", "-1"], "sigma"),
    ([*DIGITS, "--sigma", "nan"], "sigma"),
    ([*DIGITS, "--gauss-num", "0"], "gauss_num must be at least 1, not 0"),
    ([*DIGITS, "--lbd", "-1"], "lbd"),
    ([*DIGITS, "--gamma", "0"], "gamma"),
    ([*DIGITS, "--beta", "0"], "beta"),
    ([*DIGITS, "--epochs", "0"], "epochs"),
    ([*DIGITS, "--lr", "0"], "lr must be positive"),
    ([*DIGITS, "--batch-size", "0"], "batch_size"),
    ([*DIGITS, "--batch-size", "1298"], "batch_size 1298 is more than the 1297 training images"),
    ([*DIGITS, "--average", "1"], "average"),
    ([*DIGITS, "--clip", "-1"], "clip"),
    ([*DIGITS, "--schedule", "steps"], "'steps' is not one of 'milestones', 'one-cycle'"),
    ([*DIGITS, "--lr-milestones", "a,b"], "--lr-milestones takes whole numbers"),
    ([*DIGITS, "--precision", "7"], "precision '7'"),
    ([*DIGITS, "--device", "abacus"], "'abacus'"),
    ([*DIGITS, "--method", "magic"], "macer: no training method is named 'magic'"),
    (
        [*DIGITS, "--method", "mine:Magic"],
        "macer: method mine:Magic: ModuleNotFoundError: No module named 'mine', installed or ",
    ),
    ([*DIGITS, "--method", "catrs"], "of your own; similar names: cat-rs"),
    ([*DIGITS, "--method", "cohen", "--lbd", "3"], "lbd is no setting of cohen, which has sigma"),
    (
        ["train", "--recipe", "digits/cohen-0.25", "--gamma", "3"],
        "macer: gamma is no setting of cohen, which has sigma",
    ),
    ([*DIGITS, "--recipe", "magic"], "no recipe is named 'magic'"),
    ([*DIGITS, "--network", "magic"], "no network is named 'magic'"),
    ([*DIGITS, "--network", "no_module:here"], "no_module"),
    ([*DIGITS, "--init", "missing.pt"], "missing.pt: no checkpoint there"),
    ([*DIGITS, "--out", "a-file"], "a-file"),
    (["train", "--dataset", "magic"], "no data set is named 'magic'"),
    (["train", "--dataset", "mnist"], "mnist: give --root, the directory of its files"),
    (["train", "--dataset", "mnist", "--root", "missing"], "root missing is not a directory"),
    (["train", "--dataset", "mnist", "--root", "."], "found no train-images-idx3-ubyte"),
    (["certify"], "say what to certify: macer certify TARGET"),
    (["certify", "--network", "lenet"], "lenet is a network without weights: say what to certify"),
    (["certify", "missing"], "missing: no checkpoint there"),
    (["certify", "."], "no checkpoint there"),
    (["certify", "a-file"], "a-file: damaged, cut off, or not a checkpoint"),
    (["certify", RUN, "--sigma", "0"], "sigma"),
    (["certify", RUN, "--alpha", "0"], "alpha"),
    (["certify", RUN, "--alpha", "1"], "alpha"),
    (["certify", RUN, "--alpha", "nan"], "alpha"),
    (["certify", RUN, "--n", "0"], "n must lie in [1, 1e+09], not 0"),
    (["certify", RUN, "--n0", "-1"], "n0 must lie in [0, 1e+09], not -1"),
    (["certify", RUN, "--n0", "0", "--hard-bound", "auto"], "n0 = 0 is for hard certificates with the one-class"),
    (["certify", RUN, "--n0", "0", "--spend", "for-table"], "n0 of samples spent for a table must be at least 1"),
    (["certify", RUN, "--n", "9"], "(hard certificates need n of at least 10)"),
    (["certify", RUN, "--n", "30", "--mode", "soft"], "(soft certificates need n of at least 37)"),
    (["certify", RUN, "--mode", "warm"], "'warm' is not one of 'hard', 'soft', 'both'"),
    (["certify", RUN, "--mode", "soft", "--beta", "0"], "beta"),
    (["certify", RUN, "--batch-size", "-1"], "batch_size"),
    (["certify", RUN, "--start-img", "500"], "start_img 500, num_img 0 and skip 1 reach image 500"),
    (["certify", RUN, "--num-img", "501"], "images 0 to 499"),
    (["certify", RUN, "--num-img", "-1"], "num_img"),
    (["certify", RUN, "--skip", "0"], "skip must be at least 1, not 0"),
    (["certify", RUN, "--split", "middle"], "split"),
    (["certify", RUN, "--dataset", "magic"], "no data set is named 'magic'"),
    (["certify", RUN, "--network", "magic"], "no network is named 'magic'"),
    (["certify", RUN, "--network", "lenet"], "28 x 28"),
    (["certify", RUN, "--network", "resnet20"], "not the weights of network 'resnet20'"),
    (["certify", RUN, "--device", "abacus"], "'abacus'"),
    (["certify", RUN, "--out", "a-file"], "a-file"),
    (["table", "missing"], "missing: no such file or directory"),
    (["table", "."], "no certificates in it"),
    (["table", "a-file"], "a-file"),
    (["plot", "missing"], "missing: no such file or directory"),
    (["times", "missing"], "missing: no such directory"),
    (["times", RUN, "missing"], "missing: no such directory"),
    (["merge", "a-file", "--out", "merged"], "a-file: not a directory of certificates"),
    (["certify", RUN, "--certify-every", "5"], "No such option: --certify-every"),
    ([*DIGITS, "--certify-every", "5"], "certified during training without --certify-from-epoch"),
    ([*DIGITS, "--network", "./net:build"], "./net:build: is named as Python imports it"),
    ([*DIGITS, "--network", "torch.nn:Identity"], "the network returned shape (8, 1, 8, 8) for 8 images of 10 classes"),
]


@pytest.mark.parametrize(("arguments", "says"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_a_mistake_gets_one_line_and_exit_code_2(macer, trained, arguments, says):
    Path("a-file").write_text("neither a checkpoint nor a directory nor certificates\n")
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*")}
    assert says in macer.refuses(*(trained if word == RUN else word for word in arguments))
    assert {file: file.stat().st_mtime_ns for file in trained.rglob("*")} == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train --unknown 1", "No such option: --unknown; see macer train --help"),
        (
            "certify run --batch 400",
            "No such option: --batch (Possible options: --batch-size, --beta); see macer certify",
        ),
        ("train --sigma abc", "Invalid value for '--sigma'"),
        ("train --epochs 1.5", "Invalid value for '--epochs'"),
        ("certify run --num-img", "Option '--num-img' requires an argument"),
        ("magic", "No such command 'magic'"),
        ("foo", "Did you mean 'zoo'? See"),
        ("table", "Missing argument 'paths'; see macer table --help"),
        ("table x --format word", "'word' is not one of"),
    ],
)
def test_a_mistyped_command_is_one_line(macer, words, says):
    assert says in macer.refuses(*words.split())


def test_debug_shows_the_traceback_wherever_it_stands(macer):
    for arguments in (
        ["--debug", "table", "missing"],
        ["table", "--debug", "missing"],
        ["table", "missing", "--debug"],
    ):
        result = macer(*arguments)
        assert result.code == 1
        assert "Traceback" in result.err
        assert "RecordsError: missing: no such file or directory" in result.err


def fail(monkeypatch, error):
    def read(*_):
        raise error

    monkeypatch.setattr(results, "read_trained", read)


def test_a_defect_is_one_line_too_and_exits_1(macer, monkeypatch):
    fail(monkeypatch, ZeroDivisionError("first\nsecond"))
    result = macer("table", "x")
    assert (result.code, result.err) == (
        1,
        "macer: a defect in macer, or in code that it was given: ZeroDivisionError: first (--debug shows where)\n",
    )


def test_memory_that_does_not_suffice_says_what_to_choose(macer, monkeypatch):
    fail(monkeypatch, torch.OutOfMemoryError("x"))
    assert "--batch-size" in macer.refuses("table", "x")


def test_version_and_help(macer):
    assert macer("--version").out.startswith("macer 0.1.0, torch 2.")
    for command in ("train", "certify", "table", "times", "plot", "demo", "recipes", "main", "ablate", "zoo", "export"):
        assert command in macer("--help").out
        assert macer(command, "--help").code == 0
    text = macer("train", "--help").out
    for objective in OBJECTIVES:
        assert objective in text


@pytest.mark.parametrize("command", app.registered_commands, ids=lambda command: command.name)
def test_summaries_of_commands_fit_a_line_of_80_columns(command):
    assert 20 < len((command.help or "").split("\n\n")[0]) <= 66


@pytest.mark.parametrize("command", app.registered_commands, ids=lambda command: command.name)
def test_help_names_only_options_of_its_own_command(command):
    own = typer.main.get_command_from_info(command, pretty_exceptions_short=True, rich_markup_mode="rich")
    names = {name for each in own.params for name in (*each.opts, *each.secondary_opts)}
    text = " ".join([command.help or "", *(getattr(each, "help", None) or "" for each in own.params)])
    text = re.sub(r"macer [a-z]+[^.;]*|a run of --method denoiser", "", text)  # of another command
    assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", text)) <= names


@pytest.mark.parametrize("name", ["", *(command.name or "" for command in app.registered_commands)])
def test_help_cuts_no_option_off_at_80_columns(name):
    group = typer.main.get_command(app)
    options = group.commands.get(name, group).params
    text = CliRunner().invoke(app, [*filter(None, [name]), "--help"], env={"COLUMNS": "80"}).output
    names = {each for option in options for each in (*option.opts, *option.secondary_opts) if each.startswith("-")}
    assert names <= set(re.findall(r"--?[\w-]+", text))


@pytest.mark.parametrize("command", ["table", "times"])
def test_the_column_that_help_gives_as_an_example_can_be_left_out(macer, command):
    (example,) = re.findall(r"such as (\w+)\.", results.Without.__metadata__[0].help)
    titles, fewer = (
        macer(command, "zoo:mnist-macer-0.5", "--format", "csv", *words).out.splitlines()[0]
        for words in ((), ("--without", example))
    )
    assert f",{example}," in titles
    assert f",{example}," not in fewer


def test_help_shows_what_is_needed_most_first(macer):
    titles = ("Train", "Certify", "Results", "From the paper")
    text = macer("--help").out
    assert sorted(map(text.index, titles)) == [text.index(title) for title in titles]
    for command in ("train", "certify"):
        text = macer(command, "--help").out
        names = (" Data ", "--dataset", "--root", "--image-size", " Images" if command == "certify" else " Network ")
        assert sorted(map(text.index, names)) == [text.index(name) for name in names]


def test_macer_alone_says_what_it_can_do(macer):
    assert macer() == macer("--help")


def test_recipes_are_listed(macer):
    out = macer("recipes").out
    (line,) = [line.split() for line in out.splitlines() if "cifar10/cohen-0.5" in line]
    assert line[:3] == ["cifar10/cohen-0.5", "150", "0.525"]
    assert 'command = "macer train --recipe cifar10/cohen-0.5' in macer("recipes", "cifar10/cohen-0.5").out
    assert "no recipe is named 'nothing'" in macer.refuses("recipes", "nothing")
    assert "there is no recipe for fashion-mnist" in macer.refuses("recipes", "fashion-mnist")
    digits = macer("recipes", "digits").out
    assert "digits/cohen-0.5" in digits
    assert "mnist/" not in digits


def test_table_and_plot_of_a_run_and_of_its_files(macer, trained):
    words = ("--num-img", 4, "--n", 200, "--mode", "both", "--out", "run/certificates", "--device", "cpu")
    assert macer("certify", trained, *words).code == 0
    assert "--radii takes numbers" in macer.refuses("table", "run", "--radii", "a")
    assert "not negative" in macer.refuses("table", "run", "--radii", "0,-1")
    for paths in (["run"], ["run/certificates/hard.tsv"], ["run/certificates/certificates.mat"], ["run", "run"]):
        for form in ("terminal", "markdown", "latex", "csv"):
            result = macer("table", *paths, "--format", form, "--radii", "0,0.1")
            assert result.code == 0
            assert ("has no interval" in result.err) is (form == "csv")  # of four images; the others say it below
            assert "0.10" in result.out
            assert macer("table", *paths, "--format", form, "--radii", "0,0.1", "--out", "table").code == 0
            assert Path("table").read_text().split() == result.out.split()
        assert macer("plot", *paths, "--out", "a.png", "--out", "b.svg").code == 0
        assert Path("a.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in Path("b.svg").read_text()


def test_the_rows_of_a_table_are_named_as_a_paper_names_them(macer):
    paths = ("zoo:mnist-macer-*", "zoo:mnist-cohen-0.25")
    named = macer("table", *paths, "--label", "Ours", "--label", "[Cohen]", "--format", "csv").out.splitlines()
    plain = macer("table", *paths, "--format", "csv").out.splitlines()
    assert [line.split(",")[0] for line in named] == ["", "[Cohen]", "Ours", "Ours", "Ours"]
    assert [line.split(",", 1)[1] for line in named] == [line.split(",", 1)[1] for line in plain]
    assert "one --label per path: 1 for 2" in macer.refuses("table", *paths, "--label", "a")
    pair = ("zoo:mnist-macer-0.25", "zoo:mnist-cohen-0.25")
    assert macer("compare", *pair, "--label", "Ours", "--label", "[Cohen]").out.split()[:2] == ["Ours", "[Cohen]"]
    assert "one --label per network, in their order: 1 for 2" in macer.refuses("compare", *pair, "--label", "a")


@pytest.mark.parametrize("command", [("table",), ("compare", "zoo:mnist-cohen-0.25"), ("times",)])
def test_the_suffix_of_a_table_decides_its_form(macer, command):
    words = (*command, "zoo:mnist-macer-0.25")
    for name, form in {
        "a.txt": "terminal",
        "a.md": "markdown",
        "a.TEX": "latex",
        "a.csv": "csv",
        "a": "terminal",
    }.items():
        assert macer(*words, "--out", name).code == 0
        assert Path(name).read_text().split() == macer(*words, "--format", form).out.split()
    assert macer(*words, "--out", "a.md", "--format", "csv").code == 0
    assert Path("a.md").read_text() == Path("a.csv").read_text()
    said = macer.refuses(command[0], "missing", "missing", "--out", "a.xlsx")
    assert "a.xlsx: a table's name ends in .txt, .md, .tex or .csv, or give --format" in said


def test_table_and_plot_of_published_files(macer, shared):
    files = sorted(path for path in (shared / "reference" / "certificates").rglob("*") if path.is_file())
    files = [file for file in files if file.suffix in ("", ".tsv", ".mat")][:3]
    assert files
    result = macer("table", *files, "--format", "csv")
    assert (result.code, result.err) == (0, "")
    assert len(result.out.splitlines()) == 1 + len(files)
    assert macer("plot", *files).code == 0
    assert Path("radius-accuracy.png").exists()


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()} | set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import macer",
        "from macer.cli.app import app\nfrom typer.testing import CliRunner\nCliRunner().invoke(app, '--help')",
    ],
    ids=["import", "help"],
)
def test_nothing_is_imported_in_vain(code):
    heavy = {"lightning_fabric", "torch._dynamo", "scipy.stats", "dask", "distributed", "transformers"}
    optional = {"matplotlib", "plotly", "jinja2", "PIL", "pandas", "pyarrow", "tensorboard", "sklearn", "onnxruntime"}
    assert not modules_after(code) & (heavy | optional)


@pytest.mark.parametrize(
    ("library", "extra", "words"),
    [
        ("sklearn.datasets", "data", ["certify", RUN, "--device", "cpu", "--n", "200", "--num-img", "1"]),
        ("distributed", "dask", ["certify", RUN, "--device", "cpu", "--devices", "2", "--out", "certificates"]),
        ("sklearn.datasets", "data", [*DIGITS, "--epochs", "1"]),
        ("matplotlib", "report", ["plot", RUN]),
        ("jinja2", "report", ["report", RUN]),
        ("pandas", "report", ["export", "zoo:mnist-cohen-0.25", "all.parquet"]),
    ],
)
def test_a_missing_library_is_one_line_that_names_its_extra(macer, trained, monkeypatch, library, extra, words):
    before = set(trained.rglob("*"))
    for module in ("report", "report.page", "results.plots", "results.writing", "results.frame"):
        monkeypatch.delitem(sys.modules, f"macer.{module}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    said = macer.refuses(*(trained if word == RUN else word for word in words))
    assert f'{library} is not installed; it comes with the extra {extra!r}: pip install ".[{extra}]"' in said
    assert set(trained.rglob("*")) == before


WITHOUT_EXTRAS = """
import sys
for name in "matplotlib plotly jinja2 PIL pandas pyarrow tensorboard sklearn onnxruntime dask distributed".split():
    sys.modules[name] = None
import numpy as np, macer, macer.cli
own = np.random.default_rng(0).random((64, 1, 8, 8), np.float32), np.arange(64) % 2
settings = {"method": "cohen", "sigma": 0.25, "epochs": 1, "batch_size": 32}
run = macer.train(images=own, network="convnet", out="run", progress=False, **settings)
assert macer.certify(run, own, n=100, num_img=2, progress=False).names == ["run"]
assert macer.load_model(run).certify(own[0][:2], n=100).radius.shape == (2,)
sys.argv = ["macer", "table", "zoo:mnist-macer-*", "--format", "csv"]
macer.cli.main()
"""


def test_the_distribution_without_extras_trains_certifies_and_prints_tables():
    done = subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT_EXTRAS], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mnist-macer-0.25,0.25" in done.stdout
    assert Path("run/metrics.tsv").exists()


def test_an_objectives_own_options_reach_the_command_by_themselves():
    import dataclasses

    from macer.runs.settings import option

    @dataclasses.dataclass(frozen=True)
    class Toy:
        size_of_it: int = option(3, "how large")
        steep: bool = option(False, "whether steep")
        steps: tuple[int, ...] = option((1, 2), "when")
        hidden: int = 5

    seen = []
    small = typer.Typer(context_settings=app.info.context_settings)

    @small.command()
    @with_options(Toy)
    def command(*, chosen: dict) -> None:
        seen.append(chosen)

    for line in ("", "--size_of_it 4", "--steep --steps 3,4", "--no-steep"):
        assert CliRunner().invoke(small, line).exit_code == 0
    assert seen == [{}, {"size_of_it": 4}, {"steep": True, "steps": (3, 4)}, {"steep": False}]
    assert CliRunner().invoke(small, "--hidden 1").exit_code == 2
    assert "how large [default: 3]" in CliRunner().invoke(small, "--help").output
