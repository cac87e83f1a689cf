"""Settings: the same through TOML and back, one line for what is impossible; and the record of a run."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from macer.certification import CertificationSettings
from macer.errors import SettingsError
from macer.files.toml import read_toml, write_toml
from macer.objectives import OBJECTIVES, Cohen, Macer, SmoothAdv
from macer.recipes import read_recipe, recipe_names
from macer.runs.settings import ImageChoice, Settings, differences, from_table, option, take, to_table
from macer.training import TrainingSettings, resolve

CPU = torch.device("cpu")


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=lambda each: each.name)
def test_training_settings_survive_their_file(tmp_path, objective):
    network = "dncnn" if objective.denoises else "lenet"
    chosen = TrainingSettings(
        objective=objective(sigma=0.5), network=network, lr_milestones=(), root='a "b"\n', average=0.5
    )
    write_toml(tmp_path / "settings.toml", chosen.tables())
    assert resolve(read_toml(tmp_path / "settings.toml"), None, {}, where="here") == chosen


@given(
    st.floats(1e-3, 10),
    st.integers(1, 64),
    st.lists(st.integers(0, 500), max_size=3),
    st.booleans(),
    st.text(max_size=9),
)
def test_settings_survive_their_tables(sigma, gauss_num, milestones, deferred, root):
    objective = Macer(sigma=sigma, gauss_num=gauss_num, deferred=deferred)
    chosen = TrainingSettings(objective=objective, lr_milestones=tuple(milestones), root=root)
    assert resolve(chosen.tables(), None, {}, where="here") == chosen


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_possible_and_says_its_source(name):
    tables = read_recipe(name)
    chosen = resolve(tables, None, {}, where=name)
    assert name.startswith(f"{chosen.dataset}/")
    assert chosen.objective.name in name or name.startswith(("cifar10/fast-", "cifar10/wide-"))
    assert tables["recipe"]["source"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("micro_batch", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("schedule", "steps"),
        ("lr_decay", 0.0),
        ("lr_decay", 1.5),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("clip", -1.0),
        ("average", 1.0),
        ("average", float("nan")),
    ],
)
def test_impossible_training_settings_name_themselves(field, value):
    chosen: dict[str, Any] = {field: value}
    with pytest.raises(
        SettingsError,
        match=rf"{field} must .*{re.escape(format(value, 'g') if isinstance(value, float) else str(value))}",
    ):
        from_table(TrainingSettings, {"objective": Cohen(), **chosen}, "here")


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs momentum"),
        ({"objective": SmoothAdv(), "backward_fraction": 0.5}, "methods without attacks, not for smoothadv"),
        ({"precision": "16-mixed"}, "give `precision=bf16-mixed`"),
        ({"epochs": 3, "start_epoch": 3}, "epochs 3 leaves nothing to train after start_epoch 3"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(chosen, says):
    with pytest.raises(SettingsError, match=says):
        TrainingSettings(**{"objective": Cohen(), **chosen})


POSSIBLE = {"dataset": "digits", "checkpoint": "a.pt", "network": "convnet", "digest": "0", "total": 500, "num_img": 5}


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": float("inf")}, "sigma"),
        ({"mode": "warm"}, "mode must be hard, soft or both, not 'warm'"),
        ({"split": "validation"}, "split must be test or train"),
        ({"skip": 0}, "skip must be at least 1"),
        ({"num_img": -1}, "num_img must not be negative"),
        ({"start_img": -1}, "start_img must not be negative"),
        ({"start_img": 496}, "reach image 500; digits test has images 0 to 499"),
        ({"skip": 125}, "reach image 500; digits test has images 0 to 499"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"n0": -1}, "n0 must lie in"),
        ({"n": 0}, "n must lie in"),
        ({"n": 9}, "need n of at least 10"),
        ({"n": 36, "mode": "both"}, "soft certificates need n of at least 37"),
        ({"mode": "soft", "beta": 0.0}, "beta"),
        ({"batch_size": -1}, "batch_size"),
    ],
)
def test_impossible_certification_settings_name_themselves(chosen, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        from_table(CertificationSettings, {**POSSIBLE, **chosen}, "here")


def test_the_images_are_those_of_the_original():
    chosen = CertificationSettings(**{**POSSIBLE, "start_img": 3, "num_img": 5, "skip": 124})
    assert list(chosen.indices) == [3, 127, 251, 375, 499]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(Settings):
    prefix = "my_"
    share: float = option(0.5, "Share.", above=0, most=1)
    rate: float = option(0.1, "Rate.", least=0, below=1)
    count: int = option(1, "Count.", least=1)
    more: int = option(0, "More.", least=0)
    length: float | None = option(None, "Length.", above=0)
    way: Literal["here", "there"] = option("here", "Way.")
    places: tuple[int, ...] = option((1, 2), "Places.")
    root: str | None = option(None, "Root.")
    free: float = option(0.0, "Free.")


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"share": 0.0}, "my_share must lie in (0, 1], not 0"),
        ({"share": 1.5}, "my_share must lie in (0, 1], not 1.5"),
        ({"rate": 1.0}, "my_rate must lie in [0, 1), not 1"),
        ({"rate": float("nan")}, "my_rate must lie in [0, 1), not nan"),
        ({"count": 0}, "my_count must be at least 1, not 0"),
        ({"more": -1}, "my_more must not be negative, not -1"),
        ({"length": 0.0}, "my_length must be positive, not 0"),
        ({"free": float("inf")}, "my_free must be a finite number, not inf"),
        ({"way": "nowhere"}, "way must be here or there, not 'nowhere'"),
        ({"count": 1.5}, "count must be of type int, not 1.5"),
        ({"count": True}, "count must be of type int, not True"),
        ({"rate": "x"}, "rate must be of type float, not 'x'"),
        ({"places": 3}, "places must be of type tuple, not 3"),
    ],
)
def test_ranges_choices_and_types_are_declared_with_the_fields(chosen, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        from_table(Mine, chosen, "here")


def test_values_become_what_the_fields_are():
    found = from_table(
        Mine, {"rate": 0, "count": np.int64(3), "share": np.float32(0.5), "places": [3], "root": Path("a")}, "here"
    )
    assert found == Mine(rate=0.0, count=3, share=0.5, places=(3,), root="a")
    assert [type(each) for each in (found.rate, found.count, found.share)] == [float, int, float]
    assert take(Mine, {"my_count": 2, "count": 5}) == (Mine(count=2), {"count": 5})


@pytest.mark.parametrize(
    ("choice", "count"), [((0, 0, 1), 500), ((500 - 7, 0, 3), 3), ((0, 2, 499), 2), ((499, 1, 9), 1)]
)
def test_a_choice_of_images_counts_those_that_exist(choice, count):
    start_img, num_img, skip = choice
    images = ImageChoice(start_img=start_img, num_img=num_img, skip=skip)
    assert images.count(500, "digits test") == count


@pytest.mark.parametrize("choice", [(500, 0, 1), (500, 1, 1), (0, 2, 500), (496, 5, 1)])
def test_images_that_do_not_exist_are_named(choice):
    start_img, num_img, skip = choice
    with pytest.raises(SettingsError, match=r"reach image 500; digits test has images 0 to 499"):
        ImageChoice(start_img=start_img, num_img=num_img, skip=skip).count(500, "digits test")


def test_single_settings_go_over_a_recipe():
    recipe = {"training": {"epochs": 7, "lr": 1}, "objective": {"name": "macer", "sigma": 0.5, "lbd": 3.0}}
    chosen = resolve(recipe, None, {"lr": 0.2, "gamma": 4.0}, where="recipe")
    assert (chosen.epochs, chosen.lr) == (7, 0.2)
    assert chosen.objective == Macer(sigma=0.5, lbd=3.0, gamma=4.0)
    # Another method keeps the noise, and nothing else of the recipe's method.
    assert resolve(recipe, "cohen", {}, where="recipe").objective == Cohen(sigma=0.5)
    assert resolve({}, None, {}, where="recipe").objective == Macer()


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"objective": {"name": "magic"}}, "here: no training method is named 'magic'"),
        ({"objective": {"name": "cohen", "lbd": 1.0}}, "here: cohen: unknown setting 'lbd'; known are sigma"),
        ({"training": {"lr": "fast"}}, "here: lr must be of type float, not 'fast'"),
        ({"training": {"epochs": 1.5}}, "here: epochs must be of type int, not 1.5"),
        ({"training": {"nesterov": 1}}, "here: nesterov must be of type bool, not 1"),
        ({"training": {"colour": 1}}, "here: unknown setting 'colour'"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tables, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        resolve(tables, None, {}, where="here")


def test_a_file_that_is_not_toml_is_refused(tmp_path):
    for name, content in (("a.toml", b"= 3"), ("b.toml", b"\xff\xfe")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SettingsError, match=rf"{name}: not TOML") as caught:
            read_toml(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match=r"c\.toml: No such file"):
        read_toml(tmp_path / "c.toml")


def test_a_text_that_is_not_utf_8_is_refused_before_anything_is_written(tmp_path):
    """Python holds the bytes of such a file's name as surrogates; TOML has no way to write them."""
    file = tmp_path / "a.toml"
    write_toml(file, {"training": {"root": "d/\u00ff\u2028x"}})
    before = file.read_bytes()
    with pytest.raises(SettingsError) as caught:
        write_toml(file, {"training": {"lr": 1.0, "root": "d/\u2028\udcff", "seed": 0}})
    assert str(caught.value) == f'{file}: cannot be written, because this is not UTF-8: root = "d/\u2028\udcff"'
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@dataclasses.dataclass(frozen=True)
class Small:
    number: float = 1.0
    words: tuple[str, ...] = ("a",)
    place: str | None = None


def test_a_dataclass_and_its_table():
    assert to_table(Small()) == {"number": 1.0, "words": ["a"]}
    assert from_table(Small, {"number": 2, "words": ["b", "c"], "place": "x"}, "here") == Small(2.0, ("b", "c"), "x")
    assert differences({"a": 1, "b": 2}, {"b": 3, "c": 4}, ignored=frozenset("c")) == [
        "a: 1 there, unset here",
        "b: 2 there, 3 here",
    ]
