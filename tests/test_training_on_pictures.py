"""Training and certifying pictures of one's own: what is noted, refused and recorded on the way."""

import io
import itertools
from pathlib import Path
from typing import Any

import datasets
import pytest
from data_sets import write_folders
from rich.console import Console

import macer
from macer.data import load
from macer.errors import CheckpointError, DataError, SettingsError
from macer.pretrained.exported import export
from macer.runs.run import Run

TINY: dict[str, Any] = {"network": "convnet", "method": "cohen", "epochs": 1, "gauss_num": 1, "device": "cpu"}
FEW: dict[str, Any] = {"n": 100, "n0": 10, "progress": False}


def test_a_batch_that_nobody_chose_is_no_larger_than_the_data(tmp_path: Path) -> None:
    write_folders(tmp_path / "data", [(8, 8)] * 3)
    console = Console(record=True, width=200, file=io.StringIO())
    words = {"images": "folder", "root": tmp_path / "data", **TINY}
    run = macer.train(out=tmp_path / "run", progress=console, **words)
    assert "batch_size 6, not 64: there are no more training images" in console.export_text()
    assert run.settings()["training"]["batch_size"] == 6
    assert macer.train(out=tmp_path / "run", progress=False, **words).checkpoint().epoch == 1  # goes on
    with pytest.raises(SettingsError, match="batch_size 7 is more than the 6 training images"):
        macer.train(out=tmp_path / "other", batch_size=7, progress=False, **words)


def test_training_without_a_split_for_tests_is_refused_before_it_begins(tmp_path: Path) -> None:
    write_folders(tmp_path / "data", [(8, 8)] * 3, splits=("train",))
    for images, root in (("folder", tmp_path / "data"), (f"hf:{tmp_path / 'data'}", None)):
        with pytest.raises(DataError, match="split_share"):
            macer.train(images=images, root=root, out=tmp_path / "run", progress=False, **TINY)
    assert not (tmp_path / "run").exists()


def test_a_run_records_how_its_images_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its certification makes them so: with a size, and of pictures without a split for tests."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path / "data", [(30, 20)] * 4, splits=("train",))
    for images, root, name in (("hf:data", None, "hf-data"), ("folder", "data", "folder")):
        options = {"image_size": 8, "split_share": 0.25}
        run = macer.train(images=images, root=root, progress=False, **options, **TINY)
        assert Path(str(run)) == Path(f"runs/{name}-cohen-0.25")
        frame = macer.certify(run, out=Path(str(run)) / "certificates", **FEW).frame()
        assert frame.file.map(lambda file: Path(file).name).tolist() == ["2.png", "2.png"]
        assert frame.label_name.tolist() == ["ant", "bee"]
        recorded = Run(Path(str(run))).certification.settings()["certification"]
        assert {key: recorded[key] for key in options} == options


def test_images_that_were_trained_on_are_not_certified_as_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_folders(folder, [(8, 8)] * 8, splits=("train",))
    words = {"images": "folder", "root": folder, "out": tmp_path / "run", "progress": False, "split_share": 0.25}
    run = macer.train(**words, **TINY)
    with pytest.raises(
        SettingsError, match=r"run.* was trained with split_share 0\.25: give `split_share=0\.25`, because"
    ):
        macer.certify(run, split_share=0.5, **FEW)
    folder.rename(moved := tmp_path / "moved")
    export(run.path, exported := tmp_path / "exported.safetensors")
    for model, root in itertools.product((run, exported), (moved, tmp_path / "run" / ".." / "moved")):
        with pytest.raises(
            SettingsError, match=r"was trained with split_share 0\.25: give `split_share=0\.25`, because"
        ):
            macer.certify(model, root=root, split_share=0.5, **FEW)
    moved.rename(folder)
    relative = {**words, "root": tmp_path / "run" / ".." / "data", "out": tmp_path / "on", "split_share": 0.5}
    with pytest.raises(SettingsError, match=r"was trained with split_share 0\.25: give `split_share=0\.25`, because"):
        macer.train(**relative, init=run, **TINY)
    with pytest.warns(UserWarning, match="was trained on a part of folder: whether these images are of that part is"):
        macer.certify(run, load("folder", folder, "test", split_share=0.5), **FEW)
    macer.certify(run, split="train", split_share=0.5, **FEW)  # nobody takes these for others
    macer.certify(run, **FEW)

    (folder / "train" / "ant" / "0.png").rename(folder / "train" / "ant" / "9.png")
    with pytest.warns(UserWarning, match="are others than at the time of training: some of those that are held out"):
        macer.certify(run, **FEW)
    with pytest.raises(CheckpointError, match=r"last\.pt: its training had other images than there are now: give the"):
        macer.train(**words, **TINY)
