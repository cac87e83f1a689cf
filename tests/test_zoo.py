"""The zoo: the weights that were certified are the weights that are shipped, and the certificates are found again."""

import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from add_to_zoo import add
from safetensors.torch import load_file, save_file

import macer as package
from macer import data
from macer.certification.prepare import digest
from macer.cli.export import export_command
from macer.errors import CheckpointError, MacerError, RecordsError, SettingsError
from macer.files.toml import read_toml, write_toml
from macer.pretrained import zoo
from macer.pretrained.exported import export, portable, read_header
from macer.pretrained.find import find_network, load_model
from macer.report.commands import certify_command
from macer.report.sources import source_of
from macer.results import average_certified_radius, read_records
from macer.runs.run import Run
from macer.smoothing.kinds import Hard
from macer.smoothing.spending import scores_of
from macer.smoothing.words import Stage

pytest_plugins = ["command"]

OPTIONS = ("--device", "cpu", "--n", 600, "--skip", 25)


@pytest.fixture(scope="module")
def exported(macer, trained, tmp_path_factory) -> Path:
    """Weights of a network of the digits, with their certificates beside them in `certificates`."""
    file = tmp_path_factory.mktemp("exported") / "tiny.safetensors"
    assert macer("export", trained, file).code == 0
    assert macer("certify", file, *OPTIONS, "--out", file.parent / "certificates").code == 0
    return file


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory) -> Path:
    """A zoo with one network, tiny."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "FOLDER", folder)
        add(exported, exported.parent / "certificates", "tiny")
    return folder


@pytest.fixture
def our_zoo(folder, monkeypatch, tmp_path) -> None:
    """Make `folder` the zoo, and an empty directory the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zoo, "FOLDER", folder)


def rows(file: Path) -> list[list[str]]:
    """The lines of a journal, header first, without the time."""
    return [[*cells[:5], *cells[6:-1]] for cells in (line.split("\t") for line in file.read_text().splitlines())]


def test_exported_weights_are_the_trained_ones_rounded_once(trained, exported):
    weights = find_network(trained).weights
    rounded = load_file(exported)
    assert rounded.keys() == weights.keys()
    assert all(value.dtype == torch.float16 for value in rounded.values())
    network = find_network(exported).build(10, (1, 8, 8))
    changed = False
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights[name].half().float())
        changed |= not torch.equal(value, weights[name])
    assert changed, "a network that rounding leaves alone would test nothing"


def test_the_header_says_how_it_was_trained_and_names_no_place(trained, exported):
    header = read_header(exported)
    assert header is not None
    made = read_toml(trained / "settings.toml")
    machine = {"device", "devices", "num_nodes", "root", "compile", "checkpoint_every"}
    assert header["training"] == {key: value for key, value in made["training"].items() if key not in machine}
    assert header["objective"] == made["objective"]
    assert (header["network"]["num_classes"], header["network"]["shape"]) == (10, [1, 8, 8])
    assert header["network"]["epoch"] == 4
    assert header["network"]["images"] == Run(trained).checkpoint().images
    lines = [line.split("\t") for line in (trained / "metrics.tsv").read_text().splitlines()]
    seconds = sum(float(line[lines[0].index("seconds")]) for line in lines[1:])
    assert header["network"]["training_seconds"] == pytest.approx(seconds, abs=0.051)
    noisy = [int(line[lines[0].index("noisy_images")]) for line in lines[1:]]
    assert header["network"]["noisy_images"] == sum(noisy) > 0
    assert str(trained) in made["environment"]["command"]
    assert made["environment"].keys() - header["environment"].keys() == {"command", "platform"}
    assert not re.search(r"[ '\"]/\w", json.dumps(header))


def test_certificates_of_exported_weights_name_the_method(exported):
    """There is no run around them that would say it."""
    (records,) = read_records(exported.parent / "certificates")
    assert records.method == "cohen"


def test_the_data_sets_place_is_no_part_of_the_header(macer, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    words = (*digits.options, "--epochs", 1, "--method", "cohen", "--gauss-num", 1, "--out", "run")
    assert macer("train", *words, "--root", "here").code == 0
    export(Path("run"), Path("x.safetensors"))
    header = read_header(Path("x.safetensors"))
    assert header is not None
    assert "root" not in header["training"]


def test_a_start_from_other_weights_is_named_without_its_place(macer, digits, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (*digits.options, "--epochs", 1, "--method", "cohen", "--gauss-num", 1, "--out", "run")
    assert macer("train", *words, "--init", exported).code == 0
    export(Path("run"), Path("x.safetensors"))
    header = read_header(Path("x.safetensors"))
    assert header is not None
    assert header["training"]["init"] == "tiny.safetensors"


def test_no_setting_that_names_a_file_is_exported_with_its_place():
    training = {key: f"/home/someone/{key}.pt" for key in ("init", "teacher", "classifier")}
    assert portable({"training": {**training, "root": "/home"}})["training"] == {key: f"{key}.pt" for key in training}


def test_a_card_says_what_was_certified(folder, our_zoo):
    assert zoo.names() == ["tiny"]
    card = zoo.card("tiny")
    records = read_records(zoo.certificates_file("tiny"))[0]
    acr = average_certified_radius(records)
    assert card["result"]["acr"] == pytest.approx(acr.value, abs=5e-5)
    assert card["result"]["acr"] > 0.05
    assert card["result"]["acr_interval"] == pytest.approx([acr.low, acr.high], abs=5e-5)
    assert card["result"]["images"] == "every 25th from 0 to 475 (20 of 500)"
    assert card["result"]["certified_on"].startswith("cpu")
    told = card["certification"]
    assert (told["dataset"], told["n"], told["n0"], told["alpha"], told["sigma"]) == ("digits", 600, 100, 0.001, 0.25)
    assert told["digest"] == digest(find_network("zoo:tiny").build(10, (1, 8, 8)).state_dict())
    assert not {"checkpoint", "root"} & told.keys()
    assert {key: card[key] for key in ("network", "training", "objective", "environment")} == read_header(
        zoo.weights_file("tiny")
    )
    assert {file.name for file in folder.iterdir()} == {"tiny.safetensors", "tiny.toml", "tiny.tsv"}


@pytest.mark.parametrize("words", [["zoo:tiny"], ["tiny"], ["--network", "zoo:tiny"]])
def test_certifying_it_finds_its_recorded_certificates_again(macer, our_zoo, words):
    result = macer("certify", *words, *OPTIONS)
    assert (result.code, result.err) == (0, "")
    assert "found convnet trained by cohen at sigma 0.25, epoch 4, rounded to half precision" in result.out
    found = rows(Path("runs/zoo/tiny/certificates/hard.tsv"))
    assert len(found) == 21
    assert found == rows(zoo.certificates_file("tiny"))


@pytest.mark.parametrize("network", [[], ["--network", "builds:convnet"]], ids=["its own", "somebody's"])
def test_its_certificates_verify_wherever_they_and_the_package_lie(macer, our_zoo, network, tmp_path, monkeypatch):
    code = "def convnet():\n    from macer import models\n    return models.build('convnet', 10, (1, 8, 8))\n"
    Path("builds.py").write_text(code)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert macer("certify", "zoo:tiny", *network, *OPTIONS, "--skip", 100, "--out", "made").code == 0
    told = read_toml(Path("made/settings.toml"))["certification"]
    assert told["checkpoint"] == "zoo:tiny"
    (tmp_path / "elsewhere").mkdir()
    moved = Path("made").rename(tmp_path / "elsewhere" / "made")
    result = macer("verify", moved, *network)
    assert (result.code, result.err) == (0, "")
    shutil.copytree(zoo.FOLDER, tmp_path / "package")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "package")
    assert macer("verify", moved, *network).code == 0
    command = certify_command(source_of(moved / "hard.tsv", read_records(moved / "hard.tsv")[0]))
    assert str(command).startswith(f"macer certify zoo:tiny --out {moved}")


def test_what_is_shipped_is_verified_where_it_lies(macer, our_zoo, folder):
    result = macer("verify", "zoo:tiny", "--images", 2, "--device", "cpu")
    assert (result.code, result.err) == (0, "")
    assert "2 of 20 images evaluated again" in result.out
    assert result.out.endswith("holds\n")
    assert "no network of the zoo is named 'huge'" in macer.refuses("verify", "zoo:huge")
    file = zoo.certificates_file("tiny")
    whole = file.read_text()
    header, first, *rest = whole.splitlines(keepends=True)
    file.write_text("".join([header, first.replace("\t", "\t1", 1), *rest]))  # another label
    assert macer("verify", "zoo:tiny", "--images", 0).code == 1
    file.write_text(whole)


def test_load_smoothed_certifies_the_same(our_zoo):
    assert load_model(Path("tiny")).sigma == 0.25
    smoothed = package.load_model("tiny")
    assert isinstance(smoothed, package.SmoothedClassifier)
    images = data.load("digits", None, "test")
    records = read_records(zoo.certificates_file("tiny"))[0]
    assert records.idx is not None
    assert records.predict is not None
    for position, index in enumerate(records.idx.tolist()):
        certificate = smoothed.certify(images[index][0], n=600, image_index=index)
        assert certificate.predict == records.predict[position]
        assert certificate.radius == records.radius[position]


def test_training_starts_from_it(macer, digits, our_zoo):
    words = (
        "--init",
        "zoo:tiny",
        "--epochs",
        1,
        "--lr",
        1e-30,
        "--weight-decay",
        0,
        "--method",
        "cohen",
        "--out",
        "run",
    )
    result = macer("train", *digits.options, *words)
    assert (result.code, result.err) == (0, "")
    start, end = find_network("zoo:tiny").weights, find_network("run").weights
    assert all(torch.equal(start[name].float(), end[name]) for name in start)


def test_training_of_a_zoos_network_says_how_to_start_from_it(macer, our_zoo):
    words = ("train", "--dataset", "digits", "--device", "cpu", "--network")
    said = macer.refuses(*words, "zoo:tiny")
    assert said == "macer: zoo:tiny has weights: to start from them, give --network convnet and --init zoo:tiny"
    assert "no network of the zoo is named 'magic'" in macer.refuses(*words, "zoo:magic")
    assert not Path("runs").exists()


def test_a_changed_file_of_the_zoo_is_refused(our_zoo, folder, tmp_path, monkeypatch):
    """A safetensors file has no checksum: any one bit of the weights, and what the header says of the training."""
    ours = tmp_path / "zoo"
    shutil.copytree(folder, ours)
    monkeypatch.setattr(zoo, "FOLDER", ours)
    file = ours / "tiny.safetensors"
    good = file.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")
    for place in range(start, len(good), len(good) // 20):
        changed = bytearray(good)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"tiny\.safetensors: damaged: it differs") as caught:
            find_network("zoo:tiny")
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model("tiny")
    with pytest.raises(CheckpointError, match="damaged"):
        export_command([Path("zoo:tiny")], tmp_path / "mine.safetensors")
    assert not (tmp_path / "mine.safetensors").exists()
    assert good.count(b'\\"sigma\\": 0.25') == 1
    file.write_bytes(good.replace(b'\\"sigma\\": 0.25', b'\\"sigma\\": 0.35'))
    with pytest.raises(CheckpointError, match="damaged"):
        find_network("zoo:tiny")
    file.write_bytes(good)
    assert find_network("zoo:tiny").sigma == 0.25


def test_a_place_that_is_not_utf_8_is_refused_before_any_work(macer, our_zoo):
    said = macer.refuses("certify", "zoo:tiny", *OPTIONS, "--out", "x\udcff")
    assert re.search(r"x\ufffd/settings\.toml: cannot be written, because this is not UTF-8: command = ", said)
    assert not list(Path("x\udcff").iterdir())


def test_the_layer_of_a_training_is_named_and_no_other_is_put_in_front(trained, exported, tmp_path):
    header = read_header(exported)
    assert header is not None
    header["training"]["normalisation"] = "cifar10"
    file = tmp_path / "x.safetensors"
    save_file(load_file(exported), file, metadata={"macer": json.dumps(header)})
    content = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    content["settings"]["training"]["normalisation"] = "cifar10"
    torch.save(content, tmp_path / "x.pt")
    for each in (file, tmp_path / "x.pt"):
        said = "convnet behind CIFAR-10 normalisation trained by cohen at sigma 0.25, epoch 4"
        assert find_network(each).description.startswith(said)
        assert find_network(each, normalisation="cifar10").description.startswith(said)
        with pytest.raises(SettingsError, match=r": was trained behind CIFAR-10 normalisation, not behind ImageNet"):
            find_network(each, normalisation="imagenet")
    for bare in (exported, trained):
        with pytest.raises(SettingsError, match=r": was trained without a normalisation, not behind CIFAR-10 centring"):
            find_network(bare, normalisation="cifar10-center")


def test_a_network_of_the_zoo_is_exported_as_it_is(macer, our_zoo):
    assert macer("export", "zoo:tiny", "mine.safetensors").code == 0
    assert Path("mine.safetensors").read_bytes() == zoo.weights_file("tiny").read_bytes()


def test_the_zoo_is_listed(macer, our_zoo):
    result = macer("zoo")
    assert result.code == 0
    (line,) = [line.split() for line in result.out.splitlines() if "tiny" in line]
    acr = zoo.card("tiny")["result"]["acr"]
    assert line[:5] == ["tiny", "convnet", "Gaussian", "0.25", f"{acr:.3f}"]
    assert "digits, test images: every 25th from 0 to 475 (20 of 500); n = " in " ".join(result.out.split())


def test_results_are_read_from_the_zoo_as_from_a_run(macer, our_zoo, trained):
    """With method and sigma from the card. A pattern names several networks."""
    records = read_records(Path("zoo:t*"))
    assert [each.name for each in records] == ["tiny"]
    assert (records[0].method, records[0].sigma, records[0].n, records[0].dataset) == ("cohen", 0.25, 600, "digits")
    assert records[0].radius.tolist() == read_records(zoo.certificates_file("tiny"))[0].radius.tolist()
    acr = f"{zoo.card('tiny')['result']['acr']:.3f}"
    table = macer("table", "zoo:*", "--format", "csv")
    assert table.out.splitlines()[1].startswith("tiny,")
    assert acr in table.out
    times = macer("times", "zoo:tiny", trained, "--format", "csv").out.splitlines()
    assert [line.split(",")[0] for line in times[1:]] == ["tiny", trained.name]

    def column(name: str) -> list[float]:
        place = times[0].split(",").index(name)
        return [float(line.split(",")[place]) for line in times[1:]]

    seconds, noisy = column("seconds per epoch"), column("million noisy images")
    assert seconds[0] == pytest.approx(seconds[1], rel=0.1)
    assert noisy[0] == noisy[1] > 0
    assert acr in times[1]
    compared = macer("compare", "zoo:tiny", "--with", "zoo:tiny")
    assert compared.code == 0
    assert macer("report", "zoo:tiny", "--out", "report.html").code == 0
    page = Path("report.html").read_text()
    assert "tiny" in page
    assert "cohen" in page
    for words in (["table"], ["times"], ["plot"], ["report"], ["compare", "zoo:tiny", "--with"]):
        assert "no network of the zoo is named 'magic*'" in macer.refuses(*words, "zoo:magic*")


def test_what_cannot_be_added(exported, trained, macer, our_zoo, folder, tmp_path):
    before = {file: file.read_bytes() for file in folder.iterdir()}
    certificates = exported.parent / "certificates"
    for name in ("../tiny", "Tiny", "", "a/b", ".hidden", "tiny\n"):
        with pytest.raises(SettingsError, match="a name has"):
            add(exported, certificates, name)
    # of the network before rounding
    assert macer("certify", trained, *OPTIONS, "--num-img", 1, "--out", tmp_path / "unrounded").code == 0
    for wrong in (tmp_path / "unrounded", trained):
        with pytest.raises(RecordsError, match="certificates of another network"):
            add(exported, wrong, "other")
    with pytest.raises(SettingsError, match="No such file"):
        add(exported, tmp_path / "missing", "other")
    shutil.copytree(certificates, tmp_path / "unfinished")
    lines = (certificates / "hard.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "unfinished" / "hard.tsv").write_text("".join(lines[:-1]))
    with pytest.raises(RecordsError, match="19 of 20 images"):
        add(exported, tmp_path / "unfinished", "other")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="does not say how it was made"):
        add(tmp_path / "foreign.safetensors", certificates, "other")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_adding_leaves_no_place_of_a_machine(exported, our_zoo, tmp_path):
    """Not even of a file whose header holds some. The weights stay what they were."""
    header = read_header(exported)
    assert header is not None
    header["training"] |= {"root": "/home/me/mnist", "init": "/home/me/start.pt", "device": "cuda"}
    header["environment"]["platform"] = "Linux-/home-kernel"
    header["environment"]["command"] = "macer train --root=/home/me/mnist --init /home/me/start.pt --lr 0.1"
    file = tmp_path / "x.safetensors"
    save_file(load_file(exported), file, metadata={"macer": json.dumps(header)})
    certificates = tmp_path / "certificates"
    shutil.copytree(exported.parent / "certificates", certificates)
    settings = read_toml(certificates / "settings.toml")
    assert settings["certification"]["checkpoint"] == str(exported)
    settings["certification"]["root"] = "/home/me/mnist"
    write_toml(certificates / "settings.toml", settings)
    add(file, certificates, "moved")
    try:
        card = zoo.card("moved")
        assert card["training"] == zoo.card("tiny")["training"] | {"init": "start.pt"}
        assert read_header(zoo.weights_file("moved")) == {key: card[key] for key in header}
        for each in zoo.FOLDER.glob("moved.*"):
            for place in ("/home", str(tmp_path), str(exported.parent)):
                assert place.encode() not in each.read_bytes()
        weights = load_file(zoo.weights_file("moved"))
        assert all(torch.equal(value, weights[name]) for name, value in load_file(exported).items())
    finally:
        for each in list(zoo.FOLDER.glob("moved.*")):
            each.unlink()


def test_what_was_exported_is_added_byte_for_byte(exported, folder):
    assert (folder / "tiny.safetensors").read_bytes() == exported.read_bytes()
    assert (folder / "tiny.tsv").read_bytes() == (exported.parent / "certificates" / "hard.tsv").read_bytes()


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_full_disk_leaves_no_card_of_other_files(exported, folder, tmp_path, monkeypatch, writes):
    """A network that stands there already is replaced; the disk is full after so many of the three files."""
    ours = tmp_path / "zoo"
    shutil.copytree(folder, ours)
    monkeypatch.setattr(zoo, "FOLDER", ours)
    replace, done = os.replace, []

    def full(source, target):
        if len(done) == writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="could not be written: No space left on device"):
        add(exported, exported.parent / "certificates", "tiny")
    assert zoo.names() == []
    assert not list(ours.glob("*.tmp"))
    monkeypatch.undo()
    monkeypatch.setattr(zoo, "FOLDER", ours)
    add(exported, exported.parent / "certificates", "tiny")
    assert {file.name: file.read_bytes() for file in ours.iterdir()} == {
        file.name: file.read_bytes() for file in folder.iterdir()
    }


def test_certificates_that_do_not_say_what_computed_them(exported, our_zoo, tmp_path):
    certificates = tmp_path / "certificates"
    shutil.copytree(exported.parent / "certificates", certificates)
    settings = read_toml(certificates / "settings.toml")
    del settings["environment"]
    write_toml(certificates / "settings.toml", settings)
    with pytest.raises(RecordsError, match=r"settings\.toml does not say what computed the certificates"):
        add(exported, certificates, "other")
    assert zoo.names() == ["tiny"]


def test_the_commands_say_what_they_did_and_refuse_in_one_line(macer, trained, our_zoo, tmp_path):
    said = macer("export", trained, "x.safetensors").out
    assert said.startswith(f"x.safetensors: {Path('x.safetensors').stat().st_size:,} bytes; next: macer certify ")
    assert "no network of the zoo is named 'magic'" in macer.refuses("certify", "zoo:magic")
    assert "no network of the zoo is named 'tinny'; similar names: tiny; " in macer.refuses("certify", "zoo:tinny")
    assert "no network of the zoo is named '../x'" in macer.refuses("certify", "zoo:../x")
    assert "say what to certify, once" in macer.refuses("certify", "run", "--network", "zoo:tiny")
    assert "ends in .safetensors" in macer.refuses("export", trained, "x.pt")
    assert "not the directory of a training run" in macer.refuses("export", tmp_path, "x.safetensors")
    (tmp_path / "settings.toml").write_text("[certification]\n")  # a directory of certificates
    assert "not the directory of a training run" in macer.refuses("export", tmp_path, "x.safetensors")


def test_weights_beyond_half_precision_are_refused(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    content["network"]["fc2.bias"][0] = 1e5
    torch.save(content, run / "checkpoints" / "last.pt")
    with pytest.raises(CheckpointError, match="too large for half precision"):
        export(run, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_file_with_code_for_a_network_runs_none_unless_told(exported, tmp_path):
    """A file that is passed around must not choose which function of the machine is called."""
    header = read_header(exported)
    assert header is not None
    header["training"]["network"] = "os:abort"
    file = tmp_path / "x.safetensors"
    save_file(load_file(exported), file, metadata={"macer": json.dumps(header)})
    with pytest.raises(CheckpointError, match="to allow that it is run"):
        find_network(file)
    assert find_network(file, "convnet").network == "convnet"


@pytest.mark.parametrize(
    "change",
    [
        lambda header: "[" * 100_000,
        lambda header: "[]",
        lambda header: "{}",
        lambda header: "not JSON",
        *(
            lambda header, table=table, key=key, value=value: json.dumps(
                {**header, table: {**header[table], key: value}}
            )
            for table, key, value in [
                ("network", "num_classes", "10"),
                ("network", "num_classes", True),
                ("network", "shape", [1, 8]),
                ("network", "shape", [1, -8, 8]),
                ("network", "shape", 3),
                ("network", "epoch", None),
                ("training", "network", 5),
                ("training", "dataset", ["digits"]),
                ("training", "root", ["x"]),
                ("training", "normalisation", {"a": 1}),
                ("training", "unknown", 1),
                ("objective", "name", "magic"),
                ("objective", "name", ["macer"]),
                ("objective", "sigma", "0.25"),
                ("objective", "sigma", -1),
                ("environment", "command", 3),
            ]
        ),
        lambda header: json.dumps({**header, "training": 3}),
        lambda header: json.dumps({**header, "network": None}),
        lambda header: json.dumps({"network": header["network"]}),
    ],
)
def test_a_hostile_header_is_one_line(exported, tmp_path, change):
    file = tmp_path / "x.safetensors"
    save_file(load_file(exported), file, metadata={"macer": change(read_header(exported))})
    with pytest.raises(MacerError, match="its header is not one that macer writes") as caught:
        find_network(file)
    assert "\n" not in str(caught.value)


def test_a_cut_off_file_is_refused_at_every_length(exported, tmp_path):
    content = exported.read_bytes()
    file = tmp_path / "x.safetensors"
    for length in (0, 7, 8, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="damaged, cut off, or not a safetensors file"):
            find_network(file)


@pytest.mark.parametrize("name", zoo.names())
def test_a_shipped_network_gives_its_recorded_certificates(name, shared):
    """The image with the smallest radius, where other weights would show first: its votes differ by chance alone.

    They were recorded with another seed: the two counts are independent. One
    network with all n samples, the others with 2,000: 5 standard errors, at a fixed seed.
    """
    card = zoo.card(name)
    told, result = card["certification"], card["result"]
    smoothed = load_model(name)
    assert digest(smoothed.network.state_dict()) == told["digest"]
    assert smoothed.sigma == told["sigma"]
    records = read_records(zoo.certificates_file(name))[0]
    acr = average_certified_radius(records)
    assert [acr.value, acr.low, acr.high] == pytest.approx([result["acr"], *result["acr_interval"]], abs=5e-5)

    images = data.load(told["dataset"], shared / "data" / told["dataset"], "test")
    lines = [line.split("\t") for line in zoo.certificates_file(name).read_text().splitlines()]
    recorded = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    row = min((row for row in recorded if row["predict"] != "-1"), key=lambda row: float(row["radius"]))
    index, votes, n = int(row["idx"]), int(row["count"]), int(row["n"])
    few = n if name == zoo.names()[0] else 2000
    image, label = images[index]
    assert label == int(row["label"])
    (again,) = smoothed.sums(image, index, Stage.ESTIMATION, few, [scores_of(Hard())])
    share = votes / n
    spread = np.sqrt(share * (1 - share) * (1 / few + 1 / n))
    assert abs(float(again[int(row["predict"])]) / few - share) <= 5 * spread


def test_a_note_on_a_network_of_the_zoo_names_it_as_its_row_does():
    (records,) = read_records(Path("zoo:cifar10-consistency-1.0"))
    assert [note.split(":")[0] for note in records.notes] == [records.name]


def test_the_zoo_is_no_burden_to_install():
    assert sum(zoo.weights_file(name).stat().st_size for name in zoo.names()) < 20_000_000


@pytest.mark.parametrize("words", [("--precision", "bf16-true"), ("--spend", "for-table")])
def test_other_certificates_are_added(macer, exported, monkeypatch, tmp_path, words):
    """In bfloat16 the batch size decides votes too, so that the card keeps it: the rows are held against the card.

    Certificates for a table keep their note on the images that were not estimated.
    """
    ours = tmp_path / "zoo"
    ours.mkdir()
    monkeypatch.setattr(zoo, "FOLDER", ours)
    certificates = tmp_path / "certificates"
    assert macer("certify", exported, *OPTIONS, *words, "--out", certificates).code == 0
    add(exported, certificates, "half")
    (records,) = read_records(Path("zoo:half"))
    assert [note.partition(" ")[2] for note in records.notes] == [
        note.partition(" ")[2] for note in read_records(certificates / "hard.tsv")[0].notes
    ]
    assert records.radius.tolist() == read_records(certificates / "hard.tsv")[0].radius.tolist()
