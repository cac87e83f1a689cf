"""Every reader of files that somebody names: what is no regular file, too large or damaged is one line, at once."""

import gzip
import io
import json
import os
import pickle
import random
import resource
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from scipy.io import savemat

from macer.certification import CertificationSettings
from macer.data.files import read_bytes as read_data
from macer.data.idx import read_idx
from macer.data.parquet import ParquetPictures
from macer.data.pickles import read_pickle
from macer.data.pictures import decode
from macer.errors import MacerError, SettingsError
from macer.files.toml import read_toml
from macer.pretrained.find import find_network
from macer.results.reading import read_records
from macer.runs.checkpoint import load_checkpoint
from macer.runs.metrics import read_metrics
from macer.runs.settings import from_table
from macer.runs.teacher import read_teacher_votes

SECONDS = 10
"""Far more than any reader needs, on a machine with other work."""
MEMORY = 2**30
"""Bytes that a reader may take beyond those of the process: /dev/zero would take all."""


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(stream, "png")
    return stream.getvalue()


def of_torch(content: object, **options: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def mat() -> bytes:
    stream = io.BytesIO()
    savemat(stream, {"hard": np.array([0.1, -1.0])}, do_compression=True)
    return stream.getvalue()


def parquet() -> bytes:
    stream = io.BytesIO()
    rows = {"image": [{"bytes": picture()}] * 2, "label": [0, 1]}
    pq.write_table(pa.table(rows), stream)
    return stream.getvalue()


WEIGHTS = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}
OURS = {"format": "macer-checkpoint-1", "network": WEIGHTS, "settings": {"training": {}}}
IDX = bytes((0, 0, 8, 1)) + struct.pack(">I", 5) + bytes(5)
ROWS = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t0:00:01.5\n1\t2\t-1\t0.0\t0\t0:00:01.5\n"

# A file's name, what reads it, and a valid content (empty: mutated elsewhere, or by nobody).
READERS: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "settings.toml": (read_toml, b'[training]\nlr = 0.1\nname = "x"\nmilestones = [1, 2]\n'),
    "weights.pt": (find_network, of_torch({"state_dict": WEIGHTS, "epoch": 3})),
    "legacy.pth": (find_network, of_torch({"net": WEIGHTS}, _use_new_zipfile_serialization=False)),
    "weights.pkl": (find_network, pickle.dumps({name: value.numpy() for name, value in WEIGHTS.items()})),
    "model.safetensors": (find_network, save(WEIGHTS, metadata={"format": "pt"})),
    "model.safetensors.index.json": (find_network, json.dumps({"weight_map": {"fc.weight": "a.safetensors"}}).encode()),
    "network.onnx": (find_network, b""),
    "network.pt2": (find_network, b""),
    "last.pt": (load_checkpoint, of_torch(OURS)),
    "hard.tsv": (read_records, ROWS.encode()),
    "hard.mat": (read_records, mat()),
    "metrics.tsv": (read_metrics, b"epoch\tloss\n1\t0.5\n2\t0.25\n"),
    "teacher.safetensors": (read_teacher_votes, b""),
    "labels-idx1-ubyte": (lambda file: read_idx(file, 1), IDX),
    "labels-idx1-ubyte.gz": (lambda file: read_idx(file, 1), gzip.compress(IDX)),
    "train.parquet": (lambda file: ParquetPictures([file], ("a", "b")).read(0), parquet()),
    "picture.png": (lambda file: decode(read_data(file), str(file)), picture()),
    "data_batch_1": (
        lambda file: read_pickle(read_data(file), str(file)),
        pickle.dumps({b"data": np.zeros((2, 2), "u1")}),
    ),
}


@pytest.fixture(autouse=True)
def bounds() -> Iterator[None]:
    """Limits of time and memory, within which a test ends."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} seconds")

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


def refusal(read: Callable[[Path], object], file: Path) -> str | None:
    """The one line with which a reader refuses a file; None if it reads it."""
    started, said = time.monotonic(), None
    signal.alarm(SECONDS)
    try:
        read(file)
    except (MacerError, OSError) as error:
        said = str(error)
    finally:
        signal.alarm(0)
    assert time.monotonic() - started < SECONDS
    assert "\n" not in (said or "")
    return said


@pytest.mark.parametrize("name", READERS)
def test_only_regular_files_of_some_size_are_read(name: str, tmp_path: Path) -> None:
    read, _ = READERS[name]
    for folder in ("zero", "pipe", "directory", "empty", "sparse"):
        (tmp_path / folder).mkdir()
    (tmp_path / "zero" / name).symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe" / name)
    (tmp_path / "directory" / name).mkdir()
    (tmp_path / "empty" / name).touch()
    with (tmp_path / "sparse" / name).open("wb") as stream:
        stream.truncate(2**40)
    for kind, words in {"zero": "device", "pipe": "pipe", "directory": "", "empty": "", "sparse": ""}.items():
        said = refusal(read, tmp_path / kind / name)
        if kind == "empty" and name == "settings.toml":
            assert said is None  # no settings
            continue
        assert said is not None, kind
        assert name in said
        assert words in said or "no such file" in said


@pytest.mark.parametrize("name", [name for name, (_, content) in READERS.items() if content])
def test_mutations_of_valid_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    """Bytes changed, cut out, put in, doubled: 40 each, always the same."""
    read, content = READERS[name]
    chance, file = random.Random(name), tmp_path / name
    file.write_bytes(content)
    assert (
        refusal(read, file) is None
        or "give its `network`" in str(refusal(read, file))
        or name.startswith(("last", "model"))
    )
    for _ in range(40):
        mutated = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            at, length = chance.randrange(len(mutated)), chance.randint(1, 9)
            new = chance.choice([chance.randbytes(length), b"\xff" * length, bytes(length), b"", mutated[at:] * 2])
            mutated[at : at + length * chance.randint(0, 1)] = new
            mutated = mutated or bytearray(b"x")
        file.write_bytes(mutated)
        refusal(read, file)


TOML = {
    "nested lists": "a = " + "[" * 30_000,
    "nested tables": "a = " + "{a = " * 10_000,
    "a name of many parts": ".".join("a" * 30_000) + " = 1",
    "a number of 5,000 digits": "a = " + "1" * 5_000,
    "a number of 4,000 digits": "a = " + "1" * 4_000,
    "a large file": "#" * 70_000,
    "not text": "a = '\x00'",
}


@pytest.mark.parametrize("name", TOML)
def test_hostile_toml_is_refused_at_once(name: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(TOML[name])
    assert str(file) in str(refusal(read_toml, file))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("alpha", 1e-320, "alpha must be at least 1e-200"),
        ("n", 10**11, r"n must lie in \[1, 1e\+09\]"),
        ("n", 10**4200, "n must be a number of at most 64 bits"),
        ("sigma", 10**400, "sigma must be a number of at most 64 bits"),
        ("sigma", float("inf"), "sigma must be a finite number"),
        ("skip", 10**30, "skip must be a number of at most 64 bits"),
        ("seed", -(10**4200), "seed must be a number of at most 64 bits"),
        ("total", 10**30, "total must be a number of at most 64 bits"),
    ],
)
def test_impossible_numbers_are_refused_in_one_line(name: str, value: float, words: str) -> None:
    table = {"dataset": "digits", "checkpoint": "x", "network": "lenet", "digest": "0", "total": 300, "mode": "both"}
    with pytest.raises(SettingsError, match=words) as caught:
        from_table(CertificationSettings, table | {name: value}, "here").spending.check(0.25)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_named_in_settings_is_not_read_without_end(tmp_path: Path) -> None:
    with pytest.raises(MacerError, match="/dev/zero: a device, not a regular file"):
        load_checkpoint(Path("/dev/zero"))
    with pytest.raises(SettingsError, match="a device, not a regular file"):
        read_toml(Path("/dev/zero"))


def test_a_small_mat_file_of_many_radii_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "hard.mat"
    savemat(file, {"hard": np.zeros(2**22)}, do_compression=True)
    assert file.stat().st_size < 100_000
    assert "4,194,304 values of hard; at most 100,000 are read" in str(refusal(read_records, file))
