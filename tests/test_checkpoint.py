"""Checkpoints: whole at every moment, free of code, and refused in one line when they are not what they should be."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from macer.errors import CheckpointError
from macer.models import torch_files
from macer.models.lenet import LeNet
from macer.pretrained.find import find_network
from macer.runs.checkpoint import save_checkpoint
from macer.training import Checkpoint, load_checkpoint

pytest_plugins = ["command"]

TABLES = {"training": {"network": "convnet"}, "objective": {"name": "cohen", "sigma": 0.25}}


def checkpoint(value: float = 1.0) -> Checkpoint:
    network = nn.Linear(2, 3)
    nn.init.constant_(network.weight, value)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return Checkpoint(
        settings=TABLES,
        num_classes=3,
        shape=(1, 8, 8),
        epoch=2,
        step=1,
        network=network.state_dict(),
        average=None,
        optimizer=optimizer.state_dict(),
        random={"cpu": torch.get_rng_state(), "cuda": []},
        sums={"loss": 0.5},
        image_weights=None,
        teacher=None,
        classifier=None,
        class_names=["a", "b", "c"],
        images="da7a",
    )


def test_a_checkpoint_comes_back_as_it_went(tmp_path):
    written = checkpoint()
    save_checkpoint(written, tmp_path / "a.pt")
    read = load_checkpoint(tmp_path / "a.pt")
    for name in ("settings", "num_classes", "shape", "epoch", "step", "average", "sums"):
        assert getattr(read, name) == getattr(written, name)
    torch.testing.assert_close(read.network, dict(written.network), rtol=0, atol=0)
    torch.testing.assert_close(read.optimizer["state"], written.optimizer["state"], rtol=0, atol=0)
    assert read.optimizer["param_groups"] == written.optimizer["param_groups"]
    assert torch.equal(read.random["cpu"], written.random["cpu"])
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_a_training_leaves_all_it_needs_and_no_code(trained):
    content = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    assert set(content) == {
        *("format", "settings", "num_classes", "shape", "epoch", "step"),
        *("network", "average", "optimizer", "random", "sums", "image_weights", "teacher", "classifier", "class_names"),
        *("images", "code"),
    }
    assert content["epoch"] == 4
    assert content["step"] == 0
    assert content["settings"]["training"]["network"] == "convnet"
    assert content["settings"]["objective"] == {"name": "cohen", "sigma": 0.25, "gauss_num": 2}
    assert len(content["optimizer"]["state"]) == len(content["network"]) == 8
    assert all("momentum_buffer" in state for state in content["optimizer"]["state"].values())
    assert content["random"]["cpu"].dtype == torch.uint8


def test_what_is_certified_is_the_average_where_there_is_one():
    plain = checkpoint()
    assert plain.weights is plain.network
    plain.average = {"weight": torch.zeros(1)}
    assert plain.weights is plain.average


@pytest.mark.parametrize("ours", [True, False])
def test_a_file_is_read_once(trained, tmp_path, monkeypatch, ours):
    file = tmp_path / "lenet.pt"
    torch.save(LeNet().state_dict(), file)
    read, reads = torch_files.read_torch, []
    monkeypatch.setattr("macer.models.weights.read_torch", lambda *words: reads.append(1) or read(*words))
    assert find_network(trained if ours else file).network == ("convnet" if ours else "lenet")
    assert len(reads) == 1


def test_until_the_rename_the_old_file_stays(tmp_path, monkeypatch):
    file = tmp_path / "a.pt"
    save_checkpoint(checkpoint(1.0), file)
    old = file.read_bytes()
    seen = []

    def replace(source, target):
        seen.append((Path(source).name, file.read_bytes() == old, load_checkpoint(Path(source)).epoch))
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="could not be written: Read-only file system"):
        save_checkpoint(checkpoint(2.0), file)
    assert seen == [("a.pt.tmp", True, 2)]
    assert file.read_bytes() == old
    assert [each.name for each in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("limit", [0, 1, 1000, 3000])
def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path, limit):
    """A limit on the size of files stops the writer midway, as a full disk does."""
    import resource

    file = tmp_path / "a.pt"
    save_checkpoint(checkpoint(1.0), file)
    old = file.read_bytes()
    assert len(old) > 3000
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="could not be written") as caught:
            save_checkpoint(checkpoint(2.0), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert caught.value.filename == str(file)
    assert file.read_bytes() == old
    assert [each.name for each in tmp_path.iterdir()] == ["a.pt"]


class Hostile:
    def __reduce__(self):
        return os.system, ("touch owned",)


def damaged(good: bytes, content: dict) -> dict[str, bytes]:
    def torch_bytes(value: object) -> bytes:
        import io

        stream = io.BytesIO()
        torch.save(value, stream)
        return stream.getvalue()

    flipped = bytearray(good)
    flipped[len(good) // 2 :] = bytes(255 - byte for byte in good[len(good) // 2 :])
    return {
        "empty": b"",
        "cut to 1": good[:1],
        "cut in half": good[: len(good) // 2],
        "cut by 1": good[:-1],
        "half inverted": bytes(flipped),
        "random bytes": bytes(torch.randint(256, (5000,), generator=torch.Generator().manual_seed(0)).tolist()),
        "text": b"idx\tlabel\n",
        "hostile pickle": pickle.dumps(Hostile()),
        "hostile, by torch": torch_bytes({"format": "macer-checkpoint-1", "network": Hostile()}),
        "hostile inside ours": torch_bytes({**content, "settings": Hostile()}),
        "a list": torch_bytes([1, 2]),
        "a number": torch_bytes(3),
        "nothing but the format": torch_bytes({"format": content["format"]}),
        "without optimizer": torch_bytes({key: value for key, value in content.items() if key != "optimizer"}),
        "settings of no use": torch_bytes({**content, "settings": [1]}),
        "empty settings": torch_bytes({**content, "settings": {}}),
        "sigma as text": torch_bytes({**content, "settings": {**content["settings"], "objective": {"sigma": "x"}}}),
        "weights of no use": torch_bytes({**content, "network": 3}),
        "an epoch of NumPy's": torch_bytes({**content, "epoch": np.int64(1)}),
        "classes of NumPy's": torch_bytes({**content, "num_classes": np.int64(10)}),
    }


NAMES = sorted(damaged(b"0" * 9, {"format": "macer-checkpoint-1", "settings": {}}))


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_or_hostile_file_is_refused_and_runs_nothing(trained, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    good = (trained / "checkpoints" / "last.pt").read_bytes()
    content = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    Path("bad.pt").write_bytes(damaged(good, content)[name])
    for read in (load_checkpoint, find_network):
        with pytest.raises(CheckpointError, match=r"bad\.pt") as caught:
            read(Path("bad.pt"))
        assert "\n" not in str(caught.value)
    assert not Path("owned").exists()


@pytest.mark.parametrize("name", ["empty", "cut in half", "random bytes", "hostile pickle", "hostile inside ours"])
def test_the_command_refuses_such_files_in_one_line(macer, trained, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    good = (trained / "checkpoints" / "last.pt").read_bytes()
    content = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    Path("bad.pt").write_bytes(damaged(good, content)[name])
    assert "bad.pt" in macer.refuses("certify", "bad.pt", "--dataset", "digits", "--device", "cpu")
    train = ("train", "--dataset", "digits", "--network", "convnet", "--device", "cpu", "--out", "run")
    assert "bad.pt" in macer.refuses(*train, "--init", "bad.pt")
    assert not Path("owned").exists()
    assert not Path("run").exists()


def test_a_file_cut_anywhere_is_refused(tmp_path):
    save_checkpoint(checkpoint(), tmp_path / "a.pt")
    good = (tmp_path / "a.pt").read_bytes()
    for length in range(0, len(good), 53):
        (tmp_path / "cut.pt").write_bytes(good[:length])
        with pytest.raises(CheckpointError, match=r"cut\.pt: damaged"):
            load_checkpoint(tmp_path / "cut.pt")


def test_weights_of_another_network_or_other_classes(macer, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    for name in ("fc2.weight", "fc2.bias"):
        content["network"][name] = content["network"][name][:7]
    torch.save(content, "seven-said-ten.pt")
    torch.save({**content, "num_classes": 7, "class_names": list("abcdefg")}, "seven.pt")
    certify = ("--dataset", "digits", "--device", "cpu", "--n", 200)
    assert "(7,)" in (said := macer.refuses("certify", "seven-said-ten.pt", *certify)) or "(7, 128)" in said
    assert "7 classes" in macer.refuses("certify", "seven.pt", *certify)
    assert "resnet20" in macer.refuses("certify", trained, "--network", "resnet20", *certify)
    train = ("train", "--dataset", "digits", "--device", "cpu", "--out", "run", "--init")
    assert "(7" in macer.refuses(*train, "seven.pt", "--network", "convnet")
    assert "resnet20" in macer.refuses(*train, trained / "checkpoints" / "last.pt", "--network", "resnet20")


def test_weights_that_changed_on_the_disk_are_refused(tmp_path):
    file = tmp_path / "a.pt"
    save_checkpoint(checkpoint(), file)
    content = bytearray(file.read_bytes())
    tensor = next(value for value in checkpoint().network.values() if value.is_floating_point()).numpy().tobytes()
    place = content.find(tensor[:16])
    assert place > 0
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt: damaged: the checksum of .* is wrong"):
        load_checkpoint(file)
