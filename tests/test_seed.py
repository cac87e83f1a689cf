"""The seed of certificates: given, recorded, or drawn when the network is fixed; shards agree on one."""

import multiprocessing
import secrets
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from journals import OPTIONS, rows
from torch import nn

import macer as package
from macer import data
from macer.certification import CertificationSettings
from macer.certification.seed import with_seed
from macer.certification.settings import fingerprint
from macer.errors import SettingsError
from macer.files.toml import read_toml, write_toml
from macer.runs.certificates import KINDS, read_journal, write_journal
from macer.smoothing import SmoothedClassifier
from macer.smoothing.words import SCHEME, SEED_BITS, random_words
from macer.training.validation import acr_estimate

pytest_plugins = ["command"]

SETTINGS = CertificationSettings(dataset="digits", checkpoint="", network="", digest="", total=500)
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def entropy(monkeypatch):
    """Drawn seeds as they are outside of tests; the list of those that were drawn."""
    drawn: list[int] = []

    def draw(bits: int) -> int:
        drawn.append(secrets.SystemRandom().getrandbits(bits))
        return drawn[-1]

    monkeypatch.setattr(secrets, "randbits", draw)
    return drawn


def test_a_classifier_draws_its_seed_when_noise_is_needed(entropy):
    first, second = (SmoothedClassifier(NETWORK, 0.25, 10) for _ in range(2))
    assert entropy == []
    made = first.certify(IMAGES, n=100), second.certify(IMAGES, n=100)
    assert [each.seed for each in made] == entropy == [first.seed, second.seed]
    assert len(set(entropy)) == 2
    assert all(2**40 < seed < 2**SEED_BITS for seed in entropy)  # below once in 2^23
    assert made[0][1:].seed == first.seed
    again = SmoothedClassifier(NETWORK, 0.25, 10, seed=first.seed)
    assert again.certify(IMAGES, n=100) == made[0]
    assert len(entropy) == 2


def test_a_certification_in_memory_records_the_seed_that_it_drew(entropy):
    images = (IMAGES, torch.tensor([0, 1]))

    def certify(model, **options):
        (records,) = package.certify(model, images, n=100, progress=False, **options)
        return records

    made = certify(NETWORK, sigma=0.25)
    assert made.seed == entropy[0]
    assert certify(NETWORK, sigma=0.25, seed=made.seed).radius.tolist() == made.radius.tolist()
    assert certify(SmoothedClassifier(NETWORK, 0.25, seed=5)).seed == 5


def test_a_run_goes_on_with_the_seed_that_it_recorded(macer, trained, tmp_path, entropy):
    """Half of the images, then all: the rows of the first half stay, and another seed is refused."""
    out = tmp_path / "certificates"
    words = [*OPTIONS[: OPTIONS.index("--seed")], "--out", out]
    assert macer("certify", trained, *words, "--num-img", 2).code == 0
    recorded = read_toml(out / "settings.toml")["certification"]
    assert recorded["seed"] in entropy
    assert (recorded["noise"], recorded["sound"]) == (SCHEME, True)
    before = rows(out, "hard")
    assert macer("certify", trained, *words, "--num-img", 3).code == 0
    assert rows(out, "hard")[:3] == before[:3]
    assert read_toml(out / "settings.toml")["certification"]["seed"] == recorded["seed"]
    said = macer.refuses("certify", trained, *words, "--num-img", 3, "--seed", 1)
    assert f"seed: {recorded['seed']} there, 1 here" in said


def test_certificates_of_another_noise_are_read_and_not_continued(macer, trained, tmp_path):
    out = tmp_path / "certificates"
    words = ("certify", trained, *OPTIONS, "--num-img", 2, "--out", out)
    assert macer(*words).code == 0
    tables = read_toml(out / "settings.toml")
    tables["certification"]["noise"] = SCHEME + 1
    write_toml(out / "settings.toml", tables)
    bound = fingerprint(tables["certification"])
    for kind in KINDS:
        rows = read_journal(out / f"{kind}.tsv")
        write_journal(out / f"{kind}.tsv", {idx: replace(row, settings=bound) for idx, row in rows.items()})
    assert "noise of another version of macer: they can be read, but not continued" in macer.refuses(*words)
    assert [len(records) for records in package.load_results(out)] == [2, 2]


def test_shards_take_the_seed_of_the_first(tmp_path, entropy):
    shards = [replace(SETTINGS, shard=f"{part}/3") for part in (1, 2, 3)]
    seeds = [with_seed(each, tmp_path / f"shard-{part}-of-3").seed for part, each in enumerate(shards, start=1)]
    assert len(set(seeds)) == 1
    assert read_toml(tmp_path / "seed.toml") == {"seed": seeds[0], "network": "", "digest": ""}
    assert with_seed(replace(shards[0], seed=seeds[0]), tmp_path / "shard-1-of-3").seed == seeds[0]
    with pytest.raises(SettingsError, match=f"the seed of the other shards is {seeds[0]}, not 1"):
        with_seed(replace(shards[1], seed=1), tmp_path / "shard-2-of-3")
    assert [file.name for file in tmp_path.iterdir()] == ["seed.toml"]
    elsewhere = with_seed(replace(shards[0], seed=7), tmp_path / "other" / "shard-1-of-3")
    assert elsewhere.seed == with_seed(shards[1], tmp_path / "other" / "shard-2-of-3").seed == 7
    (tmp_path / "seed.toml").write_text("seed = 'x'\n")
    with pytest.raises(SettingsError, match="holds no seed"):
        with_seed(shards[2], tmp_path / "shard-3-of-3")


def test_shards_join_certificates_that_are_there(tmp_path):
    """The directory above holds a certification, such as one that was merged before."""
    write_toml(tmp_path / "settings.toml", {"certification": SETTINGS.tables()["certification"] | {"seed": 12}})
    assert with_seed(replace(SETTINGS, shard="1/2"), tmp_path / "shard-1-of-2").seed == 12


@pytest.mark.parametrize("other", [{"digest": "x"}, {"network": "lenet"}, {"code": "x"}, {"denoiser_digest": "x"}])
def test_another_network_never_takes_a_seed_that_was_drawn_before_it_was_fixed(other, tmp_path, entropy):
    one, another = (replace(SETTINGS, shard="1/2", **facts) for facts in ({}, other))
    seed = with_seed(one, tmp_path / "a" / "shard-1-of-2").seed
    assert with_seed(another, tmp_path / "b" / "shard-1-of-2").seed != seed
    for settings, place in ((another, "a"), (one, "b")):
        with pytest.raises(SettingsError, match=r"seed\.toml: .* another network, .* delete this file$") as refusal:
            with_seed(replace(settings, shard="2/2"), tmp_path / place / "shard-2-of-2")
        assert "\n" not in str(refusal.value)
    for settings in (another, one):  # the directory above holds a whole certification of one of them
        table = {"seed": 12, "noise": SCHEME, **settings.tables()["certification"]}
        (tmp_path / "a" / "seed.toml").unlink()
        write_toml(tmp_path / "a" / "settings.toml", {"certification": table})
        assert (with_seed(one, tmp_path / "a" / "shard-1-of-2").seed == 12) == (settings is one)


def _seed_of_a_shard(directory: Path, part: int) -> int | None:
    secrets.randbits = secrets.SystemRandom().getrandbits  # type: ignore[assignment]
    return with_seed(replace(SETTINGS, shard=f"{part}/8"), directory / f"shard-{part}-of-8").seed


def test_shards_that_start_at_once_agree(tmp_path):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        for attempt in range(5):
            places = [(tmp_path / str(attempt), part) for part in range(1, 9)]
            assert len(set(pool.starmap(_seed_of_a_shard, places))) == 1


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_has_63_bits(seed):
    with pytest.raises(SettingsError, match="seed must"):
        replace(SETTINGS, seed=seed)


def test_training_looks_at_noise_that_no_certificate_of_its_seed_has(monkeypatch):
    """A network is chosen on the validation's noise: a certification with the training's seed draws other noise."""
    asked = []

    def words(seed, image_index, stage, first, count, device):
        asked.extend([seed] * count)
        return random_words(seed, image_index, stage, first, count, device)

    monkeypatch.setattr("macer.smoothing.grid.random_words", words)
    images = data.load("digits", None, "train")
    acr_estimate(NETWORK, NETWORK.state_dict(), images, torch.tensor([0]), sigma=0.25, seed=0)
    assert len(asked) >= 11  # blocks of 100 samples
    assert 0 not in asked
