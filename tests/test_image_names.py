"""The names of a person's pictures and classes, from the folder to the exported rows."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from data_sets import encoded, smooth, write
from torch import nn

import macer
from macer.certification.merge import merge_directories

FILES = ["ant/a b.png", 'ant/é,"1".png', "bee/c.png", "bee/d\ufffde.png"]  # one name has a tab in it
FEW: dict[str, Any] = {"sigma": 0.25, "n": 100, "n0": 10, "seed": 0, "device": "cpu", "progress": False}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, file in enumerate(FILES):
        write(tmp_path / "data/test" / file.replace("\ufffd", "\t"), encoded(smooth(8, 8, seed=number)))
    return tmp_path / "data"


def bee() -> nn.Module:
    """A network that answers bee."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    nn.init.zeros_(network[1].weight)
    network[1].bias = nn.Parameter(torch.tensor([0.0, 5.0]))
    return network


def check(frame: pd.DataFrame) -> None:
    assert frame.file.tolist() == FILES
    assert frame.label_name.tolist() == ["ant", "ant", "bee", "bee"]
    assert frame.predict_name.tolist() == ["bee"] * 4


def test_pictures_and_classes_keep_their_names(root: Path, tmp_path: Path) -> None:
    """In memory, in a run that was interrupted, in parts that are merged, and in what is written for others."""
    macer.certify(bee(), "folder", root=root, out=tmp_path / "run", num_img=2, **FEW)
    run = macer.certify(bee(), "folder", root=root, out=tmp_path / "run", **FEW)
    for part in (0, 1):
        out = tmp_path / f"part{part}"
        macer.certify(bee(), "folder", root=root, out=out, start_img=part, skip=2, num_img=2, **FEW)
    merge_directories([tmp_path / "part0", tmp_path / "part1"], tmp_path / "merged")
    for results in (
        run,
        macer.certify(bee(), "folder", root=root, **FEW),
        macer.load_results(tmp_path / "run"),
        macer.load_results(tmp_path / "merged"),
    ):
        check(results.frame())
    run.save(tmp_path / "rows.csv") if hasattr(run, "save") else run.frame().to_csv(tmp_path / "rows.csv")
    check(pd.read_csv(tmp_path / "rows.csv"))


def test_images_without_names_have_no_such_columns() -> None:
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])
    frame = macer.certify(bee(), (images, labels), **FEW).frame()
    assert not {"file", "label_name", "predict_name"} & set(frame.columns)
