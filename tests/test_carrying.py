"""Certificates that are carried over to a changed network: valid, of the very same noise, and of the right run.

Statistical tests have fixed seeds and fail a correct certifier with probability 1e-3 each (chosen before looking).
"""

import base64
import runpy
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from journals import rows
from scipy import special, stats
from torch import Tensor, nn

import macer as package
from macer.certification import settings, verify
from macer.data import load
from macer.errors import RecordsError, SettingsError
from macer.files.toml import read_toml, write_toml
from macer.runs.certificates import Journal, Row, read_journal
from macer.runs.remembered import read_remembered
from macer.smoothing import Certificate
from macer.smoothing.bounds import clopper_pearson_lower
from macer.smoothing.carrying import HardCarried, unpacked
from macer.smoothing.grid import GridNoiseSource
from macer.smoothing.noise import BLOCK
from macer.smoothing.spending import level
from macer.smoothing.words import Stage

pytest_plugins = ["command"]

ERROR_RATE = 1e-3
ALPHA, N, N_Z, IMAGES = 0.05, 300, 80, 1000
JOINT = {
    "nothing changes": [[0.9, 0, 0], [0, 0.06, 0], [0, 0, 0.04]],
    "a tenth is lost": [[0.7, 0.1, 0], [0, 0.2, 0], [0, 0, 0]],
    "as much is won": [[0.6, 0.1, 0], [0.1, 0.2, 0], [0, 0, 0]],
    "nearly a tie": [[0.52, 0.02, 0.01], [0, 0.45, 0], [0, 0, 0]],
    "two alike": [[0.49, 0.01, 0], [0.01, 0.49, 0], [0, 0, 0]],
    "a rare loss": [[0.97, 0.01, 0], [0, 0.02, 0], [0, 0, 0]],
}
"""The probability of each class of f (row) together with each class of f' (column)."""


@pytest.mark.parametrize("n0", [100, 0])
@pytest.mark.parametrize("joint", JOINT.values(), ids=JOINT)
def test_carried_certificates_are_wrong_no_more_often_than_alpha(joint, n0):
    """12,000 certificates in all, against the true probability of the class under the changed network."""
    joint = np.array(joint, float)
    generator = np.random.default_rng(0)
    few, more = (generator.multinomial(size, joint.ravel(), IMAGES).reshape(-1, 3, 3) for size in (N_Z, N - N_Z))
    votes = (few + more).sum(2)
    selecting = generator.multinomial(n0, joint.sum(1), IMAGES) if n0 else votes
    wrong, wrong_before, answered = 0, 0, 0
    for lost, each, selected in zip(few, votes, selecting.argmax(1), strict=True):
        losing = float(lost[selected].sum() - lost[selected, selected])
        kind, may_fail = HardCarried(N_Z, ALPHA / 2, n0), level(ALPHA, n0)
        bound = kind.bound_again(float(each[selected]), losing, N, 3, may_fail).p_a_lower
        before = clopper_pearson_lower(int(each[selected]), N, may_fail)
        truth = joint.sum(0)[selected]
        assert bound <= before
        wrong += 0.5 < bound > truth
        wrong_before += 0.5 < before > truth
        answered += bound > 0.5
    assert stats.binomtest(wrong, IMAGES, ALPHA, alternative="greater").pvalue > ERROR_RATE
    if joint[0, 1] >= 0.1 and joint[1, 0] == 0:  # had the loss not been taken off
        assert wrong_before > IMAGES / 2
    if joint[0, 0] >= 0.9:
        assert answered > 0.99 * IMAGES


@pytest.mark.parametrize(("n", "n_z"), [(12, 12), (20, 8), (24, 2)])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.9])
def test_no_probabilities_make_a_carried_bound_fail_more_often_than_alpha(n, n_z, alpha):
    """By enumeration, with no chance in it: votes kept and lost among n_z, and votes among the other samples."""
    kind = HardCarried(n_z, alpha / 2, 100)
    steps = np.arange(21) / 20
    kept, lost = np.array([(a, b) for a in steps for b in steps if a + b <= 1 + 1e-9]).T
    probabilities = np.stack([kept, lost, np.maximum(0, 1 - kept - lost)], 1)
    wrong, forgetful = np.zeros((2, len(kept)))
    for a in range(n_z + 1):
        for b in range(n_z - a + 1):
            first = stats.multinomial.pmf([a, b, n_z - a - b], n_z, probabilities)
            for more in range(n - n_z + 1):
                bound, without = (
                    kind.bound_again(float(a + b + more), each, n, None, alpha).p_a_lower for each in (float(b), 0.0)
                )
                probability = first * stats.binom.pmf(more, n - n_z, kept + lost)
                wrong += (bound > kept + 1e-12) * probability
                forgetful += (without > kept + 1e-12) * probability
    assert wrong.max() <= alpha + 1e-12
    assert forgetful.max() > alpha  # had the lost samples not been counted


def test_the_bound_is_the_difference_of_two_at_levels_that_sum_to_alpha():
    lower = stats.beta.ppf(0.0006, 950, 51)
    lost = stats.beta.ppf(1 - 0.0004, 4, 97)
    assert HardCarried(100, 0.0004, 100).bound_again(950.0, 3.0, 1000, 10, 0.001).p_a_lower == pytest.approx(
        lower - lost
    )
    lower = stats.beta.ppf(0.0003, 950, 51)  # half of it, where the samples themselves select the class
    found = HardCarried(100, 0.0004, 0).bound_again(950.0, 3.0, 1000, 10, level(0.001, 0))
    assert found.p_a_lower == pytest.approx(lower - lost)
    assert HardCarried(100, 0.0004, 100).bound_again(950.0, 100.0, 1000, 10, 0.001).p_a_lower == 0.0


OPTIONS = ("--device", "cpu", "--n", 730, "--skip", 25, "--num-img", 16, "--seed", 5, "--n0", 50)


@pytest.fixture(scope="module")
def first(macer, trained, tmp_path_factory) -> Path:
    """Certificates with remembered votes, made by a process that nobody disturbed."""
    directory = tmp_path_factory.mktemp("first") / "certificates"
    result = macer("certify", trained, *OPTIONS, "--remember", "--out", directory)
    assert (result.code, result.err) == (0, "")
    return directory


@pytest.fixture(scope="module")
def carried(macer, trained, first, tmp_path_factory) -> Path:
    """The same, carried over to the network in bfloat16."""
    directory = tmp_path_factory.mktemp("carried") / "certificates"
    assert macer("certify", trained, *carrying(first), "--out", directory).code == 0
    return directory


def carrying(run: Path) -> tuple[object, ...]:
    return ("--device", "cpu", "--precision", "bf16-true", "--carry", run, "--n-z", 250)


def answers(network: nn.Module, index: int, n: int) -> np.ndarray:
    """The literal way: all noisy copies of an image at once, in PyTorch alone."""
    image, _ = load("digits", None, "test")[index]
    noisy = GridNoiseSource(0.25, 5).blocks(image, index, Stage.ESTIMATION, 0, -(-n // BLOCK))[:n]
    with torch.no_grad():
        return network(noisy).argmax(1).numpy()


def test_every_number_is_that_of_the_literal_way(trained, first, carried):
    network = package.load_model(trained).network.eval()
    changed = package.load_model(trained).network.eval().to(torch.bfloat16)
    before, after = read_journal(first / "hard.tsv"), read_journal(carried / "hard.tsv")
    votes = read_remembered(first / "hard.votes", before)
    lost = []
    for index, row in after.items():
        if before[index].predict == -1:
            assert (row.predict, row.n, row.count, row.radius, row.second) == (-1, 0, 0, 0, None)
            continue
        voted = answers(network, index, 730) == before[index].predict
        assert (unpacked(votes[index], 730) == voted).all()
        assert voted.sum() == before[index].count == row.count
        kept = answers(lambda noisy: changed(noisy.bfloat16()), index, 250) == before[index].predict
        lost.append(int((voted[:250] & ~kept).sum()))
        assert row.second == lost[-1]
        p_a_lower = stats.beta.ppf(0.0005, row.count, 730 - row.count + 1) if row.count < 730 else 0.0005 ** (1 / 730)
        p_a_lower -= stats.beta.ppf(0.9995, lost[-1] + 1, 250 - lost[-1])
        assert row.p_a_lower == pytest.approx(max(0, p_a_lower), rel=1e-9)
        assert row.radius == pytest.approx(max(0, 0.25 * special.ndtri(max(0, p_a_lower))), abs=1e-9)
        assert row.predict == (before[index].predict if row.radius > 0 else -1)
    assert max(lost) > 0, "bfloat16 is to lose some samples"
    assert -1 in {row.predict for row in before.values()}, "an image is to be an abstention"


@pytest.mark.parametrize("more", [(), ("--n0", 0, "--no-sound")], ids=str)
def test_remembering_changes_no_certificate(macer, trained, tmp_path, more):
    for name, option in (("a", ()), ("b", ("--remember",))):
        assert macer("certify", trained, *OPTIONS, *more, *option, "--out", tmp_path / name).code == 0
    without, remembering = ([row[:-1] for row in rows(tmp_path / name, "hard")] for name in "ab")
    assert without == remembering  # but for the fingerprints of the settings
    assert macer("certify", trained, *carrying(tmp_path / "b"), "--out", tmp_path / "c").code == 0
    before, after = (read_journal(tmp_path / name / "hard.tsv") for name in "bc")
    assert all(0 <= row.radius <= before[idx].radius for idx, row in after.items())
    assert sum(row.predict == before[idx].predict != -1 for idx, row in after.items()) > 8


def test_the_noise_is_the_same_to_the_bit(monkeypatch, tmp_path):
    """In other batches, and for another network; none of it selects a class."""
    seen: dict[tuple[int, int, int], Tensor] = {}
    blocks = GridNoiseSource.blocks
    new: list[tuple[int, int, int]] = []

    def spy(self, image, image_index, stage, first, count):
        noisy = blocks(self, image, image_index, stage, first, count)
        for block, values in enumerate(noisy.view(count, BLOCK, -1), first):
            key = (image_index, int(stage), block)
            if stage != Stage.COMPARISON:
                new.append(key)
                assert torch.equal(seen.setdefault(key, values.clone()), values)
        return noisy

    monkeypatch.setattr(GridNoiseSource, "blocks", spy)
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2)]
    told = {"sigma": 0.25, "progress": False, "device": "cpu"}
    package.certify(networks[0], "digits", n=730, skip=100, remember=True, out=tmp_path / "a", batch_size=200, **told)
    made = set(new)
    new.clear()
    package.certify(networks[1], carry=tmp_path / "a", n_z=430, out=tmp_path / "b", batch_size=300, **told)
    sure = {row.idx for row in read_journal(tmp_path / "a" / "hard.tsv").values() if row.predict != -1}
    assert {index for index, _, _ in made} == set(range(0, 500, 100))
    assert set(new) == {(index, int(Stage.ESTIMATION), block) for index in sure for block in range(5)}
    assert set(new) < made
    assert sure


def test_the_same_network_loses_nothing(macer, trained, first, tmp_path):
    options = (
        "--carry",
        first,
        "--device",
        "cpu",
        "--batch-size",
        300,
        "--n-z",
        730,
        "--alpha",
        0.01,
        "--alpha-z",
        0.004,
    )
    assert macer("certify", trained, *options, "--out", tmp_path / "c").code == 0
    before, after = read_journal(first / "hard.tsv"), read_journal(tmp_path / "c" / "hard.tsv")
    assert {row.second for row in after.values()} == {0.0, None}
    assert all(row.p_a_lower <= before[idx].p_a_lower for idx, row in after.items() if before[idx].count == 730)
    told = read_toml(tmp_path / "c" / "settings.toml")["certification"]
    assert (told["alpha"], told["alpha_z"], told["n_z"], told["seed"]) == (0.01, 0.004, 730, 5)
    assert told["carried"] == settings.fingerprint(read_toml(first / "settings.toml")["certification"])


def resumed(macer, trained, directory: Path, first: Path) -> None:
    assert macer("certify", trained, *OPTIONS, "--remember", "--out", directory).code == 0
    assert rows(directory, "hard") == rows(first, "hard")
    assert (directory / "hard.votes").read_bytes() == (first / "hard.votes").read_bytes()


def test_a_process_that_dies_between_votes_and_row_leaves_nothing_false(macer, trained, first, tmp_path, monkeypatch):
    directory = tmp_path / "c"
    write = Journal.write

    def die(journal, idx, *rest):
        if len(journal.done) == 7:
            raise RuntimeError("dead")
        write(journal, idx, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", die)
        assert macer("--debug", "certify", trained, *OPTIONS, "--remember", "--out", directory).code == 1
    done, votes = (len((directory / name).read_text().splitlines()) - 1 for name in ("hard.tsv", "hard.votes"))
    abstained = sum(row.predict == -1 for row in read_journal(directory / "hard.tsv").values())
    assert (done, votes) == (7, 8 - abstained), "the eighth image is to be certain, so that its votes were written"
    resumed(macer, trained, directory, first)


@pytest.mark.parametrize(("votes", "row"), [(-1, -200), (-40, -200), (0, -1), (0, -30), (-100_000, -100_000)])
def test_files_cut_anywhere_are_made_whole(macer, trained, first, tmp_path, votes, row):
    """The votes are on the disk before the row is begun, and so never cut before it."""
    directory = Path(shutil.copytree(first, tmp_path / "c"))
    for name, cut in (("hard.votes", votes), ("hard.tsv", row)):
        content = (first / name).read_bytes()
        (directory / name).write_bytes(content[: len(content) + cut] if cut else content)
    resumed(macer, trained, directory, first)


def test_shards_make_the_same_votes(macer, trained, first, tmp_path):
    options = (*OPTIONS, "--remember", "--out", tmp_path / "c")
    for part in (1, 2):
        assert macer("certify", trained, *options, "--shard", f"{part}/2").code == 0
    shards = [tmp_path / "c" / f"shard-{part}-of-2" for part in (2, 1)]
    for _ in range(2):  # a second time into what is there already
        assert macer("merge", *shards, "--out", tmp_path / "merged").code == 0
        assert rows(tmp_path / "merged", "hard") == rows(first, "hard")
        assert (tmp_path / "merged" / "hard.votes").read_bytes() == (first / "hard.votes").read_bytes()
    assert macer("certify", trained, *carrying(tmp_path / "merged"), "--out", tmp_path / "d").code == 0
    said = macer.refuses("certify", trained, *carrying(shards[0]), "--shard", "1/2", "--out", tmp_path / "e")
    assert "has no certificate of image 0: finish it, or choose among its images" in said


def test_carrying_goes_on_where_it_stopped(macer, trained, first, carried, tmp_path):
    directory = Path(shutil.copytree(carried, tmp_path / "c"))
    content = (directory / "hard.tsv").read_bytes()
    (directory / "hard.tsv").write_bytes(content[: len(content) // 2])
    assert macer("certify", trained, *carrying(first), "--out", directory).code == 0
    assert rows(directory, "hard") == rows(carried, "hard")


def changed_line(file: Path, number: int, change, *, honest: bool) -> None:
    lines = file.read_text().splitlines()
    text, _, end = lines[number].rpartition("\t")
    text = change(text)
    lines[number] = f"{text}\t{sha256(text.encode()).hexdigest()[:16] if honest else end}"
    file.write_text("\n".join(lines) + "\n")


def flipped(text: str) -> str:
    """One bit of the votes."""
    named, _, votes = text.rpartition("\t")
    content = bytearray(base64.b64decode(votes))
    content[3] ^= 16
    return f"{named}\t{base64.b64encode(content).decode()}"


DAMAGE = {
    "a bit": (flipped, False, "line 4, column checksum: the votes were changed"),
    "a bit, with its checksum": (flipped, True, "are not the"),
    "votes of another length": (lambda text: text[:-8], True, "are not the"),
    "no votes": (lambda text: text.rpartition("\t")[0] + "\t!", True, "are not the"),
    "those of another image": (lambda text: "7" + text, True, "lacks the votes of image"),
    "of another class": (lambda text: text.replace("\t", "\t1", 1), True, "lacks the votes of image"),
}


@pytest.mark.parametrize(("change", "honest", "says"), DAMAGE.values(), ids=DAMAGE)
def test_altered_votes_are_refused(macer, trained, first, tmp_path, change, honest, says):
    directory = Path(shutil.copytree(first, tmp_path / "c"))
    changed_line(directory / "hard.votes", 3, change, honest=honest)
    assert says in macer.refuses("certify", trained, *carrying(directory), "--out", tmp_path / "d")
    assert not (tmp_path / "d").exists()
    assert says in macer.refuses("certify", trained, *OPTIONS, "--remember", "--out", directory)
    verified = macer("verify", directory, "--images", 0)
    assert verified.code == 1
    assert says in verified.out


@pytest.mark.parametrize("content", [None, "", "idx\tlabel\n"])
def test_a_file_of_votes_that_is_none_is_refused(macer, trained, first, tmp_path, content):
    directory = Path(shutil.copytree(first, tmp_path / "c"))
    (directory / "hard.votes").unlink()
    if content is not None:
        (directory / "hard.votes").write_text(content)
    said = macer.refuses("certify", trained, *carrying(directory), "--out", tmp_path / "d")
    assert "hard.votes: missing, or no file of votes" in said


REFUSED = {
    "another sigma": (("--sigma", 0.5), "sigma: 0.25 there, 0.5 here"),
    "another seed": (("--seed", 6), "seed: 5 there, 6 here"),
    "another n": (("--n", 800), "n: 730 there, 800 here"),
    "another n0": (("--n0", 100), "n0: 50 there, 100 here"),
    "other noise": (("--no-sound",), "sound: True there, False here"),
    "images that it lacks": (("--start-img", 1, "--num-img", 2), "has no certificate of image 1"),
    "other images": (("--split", "train"), "column image: "),
    "soft": (("--mode", "soft"), "only hard certificates with the one-class bound and a fixed n"),
    "two classes": (("--hard-bound", "two-class"), "only hard certificates with the one-class bound and a fixed n"),
    "sequential": (("--spend", "sequential", "--within", 0.1), "only hard certificates"),
    "for a table": (("--spend", "for-table"), "only hard certificates"),
    "all of alpha": (("--alpha-z", 0.001), "alpha_z must lie strictly between 0 and alpha = 0.001"),
    "none of alpha": (("--alpha-z", 0), "alpha_z must lie strictly between 0 and alpha = 0.001"),
    "alpha": (("--alpha", 1.5), "alpha must lie strictly between 0 and 1"),
    "more samples than there are": (("--n-z", 731), "n_z = 731 is larger than n = 730"),
    "too few samples": (("--n-z", 5), "nothing can be carried even if all samples agree"),
    "to be remembered again": (("--remember",), "votes are remembered of a network that all n copies"),
}


@pytest.mark.parametrize(("options", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_carried_is_refused_and_nothing_is_lost(macer, trained, first, tmp_path, options, says):
    before = {file.name: file.read_bytes() for file in first.iterdir()}
    said = macer.refuses("certify", trained, *carrying(first), *options, "--out", tmp_path / "d")
    assert says in said
    assert not (tmp_path / "d").exists()
    assert {file.name: file.read_bytes() for file in first.iterdir()} == before


def test_a_sparser_choice_of_the_certified_images_is_carried(macer, trained, first, tmp_path):
    """Every 25th of 16 images was certified, every 50th is carried: 8 of them."""
    assert macer("certify", trained, *carrying(first), "--skip", 50, "--out", tmp_path / "d").code == 0
    assert sorted(read_journal(tmp_path / "d" / "hard.tsv")) == list(range(0, 400, 50))


def test_what_is_only_for_carrying_is_refused_without(macer, trained, tmp_path):
    for option in (("--n-z", 100), ("--alpha-z", 0.0001)):
        said = macer.refuses("certify", trained, *OPTIONS, *option, "--out", tmp_path / "d")
        assert "--n-z and --alpha-z are for certificates that are carried over: give --carry" in said
    with pytest.raises(SettingsError, match="votes are remembered in a directory: give `out`"):
        package.certify(trained, n=100, remember=True, progress=False)


def test_a_run_that_remembered_nothing_or_is_of_other_noise_is_refused(macer, trained, first, tmp_path):
    directory = Path(shutil.copytree(first, tmp_path / "c"))
    tables = read_toml(directory / "settings.toml")
    without = {key: value for key, value in tables["certification"].items() if key != "remember"}
    write_toml(directory / "settings.toml", tables | {"certification": without})
    said = macer.refuses("certify", trained, *carrying(directory), "--out", tmp_path / "d")
    assert "remembered no votes, which carrying needs" in said
    write_toml(directory / "settings.toml", tables | {"certification": tables["certification"] | {"noise": 1}})
    said = macer.refuses("certify", trained, *carrying(directory), "--out", tmp_path / "d")
    assert "noise: 1 there, 2 here" in said
    assert "no settings.toml there" in macer.refuses("certify", trained, *carrying(tmp_path), "--out", tmp_path / "d")
    said = macer.refuses("certify", trained, *OPTIONS, "--out", first)
    assert "remember: True there, unset here" in said


def test_other_classes_and_images_are_refused(trained, first, tmp_path):
    image, label = np.full((1, 1, 8, 8), 0.5, np.float32), np.zeros(1, int)
    told = {"carry": first, "progress": False, "num_img": 1, "n_z": 250, "device": "cpu"}
    torch.manual_seed(0)
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(SettingsError, match="classes: 10 there, 4 here"):
        package.certify(small, (image, label), out=tmp_path / "d", **told)
    with pytest.raises(RecordsError, match="column image: "):
        package.certify(trained, (image, label), out=tmp_path / "d", **told)


def test_your_own_arrays_are_carried_in_memory(trained, first):
    """The images are known by their digests, wherever they come from."""
    images = load("digits", None, "test")
    pixels = np.stack([images[index][0].numpy() for index in range(51)])
    labels = np.array([images[index][1] for index in range(51)])
    results = package.certify(trained, (pixels, labels), carry=first, num_img=3, n_z=250, device="cpu", progress=False)
    assert results.frame()["idx"].tolist() == [0, 25, 50]
    assert results.frame()["alpha"].tolist() == [0.001] * 3


@pytest.mark.filterwarnings("ignore")
def test_a_network_is_quantised_as_the_example_does_and_its_certificates_are_carried(macer, trained, first, tmp_path):
    pytest.importorskip("onnxruntime")
    quantise = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "quantise.py"))["quantise"]
    quantise(str(trained), tmp_path / "int8.onnx", "digits", None, 200)
    result = macer("certify", tmp_path / "int8.onnx", "--carry", first, "--n-z", 250, "--out", tmp_path / "d")
    assert (result.code, result.err) == (0, "")
    lost = [row.second for row in read_journal(tmp_path / "d" / "hard.tsv").values() if row.second is not None]
    assert 0 < max(lost) < 50


def test_carried_rows_are_verified(macer, trained, first, carried, tmp_path):
    result = macer("verify", carried, "--images", 4)
    assert (result.code, result.out.splitlines()[-1]) == (0, "holds")
    assert "with the same sums" in result.out
    assert macer("verify", first, "--images", 2).code == 0
    moved = carried
    after = read_journal(moved / "hard.tsv")
    line = next(number for number, idx in enumerate(after, start=1) if after[idx].second == 0)
    for second, says in (("1", "p_a_lower: "), ("", "count: a carried certificate needs the number of samples")):
        edited = Path(shutil.copytree(moved, tmp_path / f"second {second}"))

        def change(text: str, second: str = second) -> str:
            cells = text.split("\t")
            return "\t".join([*cells[:10], second, *cells[11:]])

        changed_line(edited / "hard.tsv", line, change, honest=True)
        assert f"line {line + 1}, column {says}" in macer.refuses("table", edited)


def test_votes_of_other_samples_are_found_where_the_same_noise_is_evaluated_again(macer, first, carried, tmp_path):
    """As many for the class as the row says: they would hide what a changed network loses."""
    directory = Path(shutil.copytree(first, tmp_path / "c"))
    sure = [row for row in read_journal(directory / "hard.tsv").values() if row.predict != -1]
    number, row = next((number, row) for number, row in enumerate(sure, start=1) if row.count < 0.95 * row.n)

    def backwards(text: str) -> str:
        named, _, votes = text.rpartition("\t")
        bits = unpacked(base64.b64decode(votes), row.n)
        return f"{named}\t{base64.b64encode(np.packbits(bits[::-1]).tobytes()).decode()}"

    changed_line(directory / "hard.votes", number, backwards, honest=True)
    assert macer("verify", directory, "--images", 0).code == 0
    found = macer("verify", directory, "--images", 16)
    assert found.code == 1
    assert f"image {row.idx} does not hold" in found.out
    assert "of the remembered votes are others" in found.out
    assert f"carried over from {first}, which was not evaluated again: verify it, too" in macer("verify", carried).out


def test_lost_samples_may_differ_by_a_share_of_those_that_were_looked_at():
    """Not of the n of the other network, which are ten times as many."""
    for lost, holds in ((1.0, True), (2.0, False)):
        there, here = (Certificate(1, 0.5, 0.9, 95_000.0, 100_000, second) for second in (0.0, lost))
        row = Row.of(0, 1, there, 1.0)
        assert verify._compared(row, here, None, betting=False, n_z=10_000)[0] is holds
        assert verify._compared(row, here, None, betting=False, n_z=None)[0]


def test_verifying_without_the_run_that_was_carried_says_so(macer, trained, first, carried, tmp_path):
    moved = Path(shutil.copytree(carried, tmp_path / "c"))
    tables = read_toml(moved / "settings.toml")
    tables["certification"]["carry"] = str(tmp_path / "gone")
    write_toml(moved / "settings.toml", tables)
    told = macer("verify", moved, "--images", 0)
    assert told.code == 0
    assert told.out.endswith("\nholds by arithmetic alone: neither network nor images were looked at\n")
    said = macer.refuses("verify", moved, "--images", 1)
    assert f"carried over from {tmp_path / 'gone'}, which is not here: only the arithmetic can be verified" in said
    tables["certification"]["carry"] = str(moved)
    write_toml(moved / "settings.toml", tables)
    assert "holds other certificates" in macer.refuses("verify", moved, "--images", 1)


def test_tables_read_carried_certificates(macer, first, carried):
    result = macer("table", first, carried)
    assert result.code == 0
    assert "this network was evaluated on" in result.out
    assert macer("compare", first, carried).code == 0
