"""Every recipe is loaded and trained for two steps; the published ones agree with the published settings."""

import io
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from macer.data import InMemoryImages
from macer.errors import SettingsError
from macer.models import DENOISERS, NETWORKS
from macer.objectives import OBJECTIVES, Progress
from macer.recipes import read_recipe, recipe_names
from macer.training import load_checkpoint, resolve, train
from macer.training.schedule import has_dropped

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "imagenet": (3, 32, 32)}


@pytest.mark.parametrize("name", recipe_names())
def test_two_steps_of_every_recipe(name: str, tmp_path: Path) -> None:
    """With two images per step and a small ResNet: the settings fit together, whatever they attain."""
    tables = read_recipe(name)
    assert tables["training"]["network"] in NETWORKS | DENOISERS
    if tables["training"]["network"] in ("resnet110", "resnet50"):
        tables["training"]["network"] = "resnet20"
    few = {"steps": min(2, tables["objective"]["steps"])} if "steps" in tables["objective"] else {}  # of an attack
    settings = resolve(
        tables,
        None,
        {"epochs": 1, "batch_size": 2, "steps_per_batch": 1, "num_images": 0, "device": "cpu"} | few,
        where=name,
    )
    shape = SHAPES[settings.dataset]
    pixels = torch.randint(256, (4, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = InMemoryImages(settings.dataset, "train", pixels, torch.tensor([0, 1, 2, 3]), tuple("0123456789"))
    checkpoint = load_checkpoint(train(settings, images, tmp_path / "run", console=Console(file=io.StringIO())))
    assert checkpoint.epoch == 1
    assert all(bool(value.isfinite().all()) for value in checkpoint.weights.values())


def test_every_recipe_says_where_it_is_from_what_to_expect_and_how_to_run_it() -> None:
    for name in recipe_names():
        recipe = read_recipe(name)["recipe"]
        assert recipe["source"]
        if recipe["expected_images"] != "not measured yet":
            assert 0 < recipe["expected_acr"] < 4
        assert recipe["command"].startswith(f"macer train --recipe {name}")


def test_recipes_expect_the_published_results(shared: Path) -> None:
    """Every published ACR on a whole test set, and every training time, stands in the recipe of its row."""
    published = tomllib.loads((shared / "reference" / "published.toml").read_text())
    recipes = {name: read_recipe(name)["recipe"] for name in recipe_names()}
    methods = {"cohen", "smoothadv", "macer", "consistency", "stability", "cat-rs", "hard-data"}
    checked = 0
    for table in published["whole_test_set"]:
        for row in table["rows"]:
            for sigma, acr in zip(row["sigma"], row["acr"], strict=True) if row["method"] in methods else ():
                retuned = (table["dataset"], row["method"]) == ("cifar10", "macer")
                name = f"{table['dataset']}/{row['method']}{'-retuned' * retuned}-{sigma:g}"
                assert recipes[name]["expected_acr"] == acr
                checked += 1
    for row in published["training_time"][0]["rows"]:
        hours = recipes[f"{row['dataset']}/{row['method']}-0.25"]["expected_hours"]
        assert hours.startswith(f"{row['hours']:g} on ")
        checked += 1
    assert checked == 39 + 6


def test_recipes_carry_the_published_settings(shared: Path) -> None:
    """Each published row is found again in a recipe of its data set, method and sigma, number for number."""
    published = tomllib.loads((shared / "reference" / "published.toml").read_text())["recipe"]
    recipes = [resolve(read_recipe(name), None, {}, where=name) for name in recipe_names() if _published(name)]
    checked = 0
    for row in published:
        for settings in row["settings"] if isinstance(row["settings"], list) else [row["settings"]]:
            sigmas = settings["sigma"] if isinstance(settings["sigma"], list) else [settings["sigma"]]
            for sigma in sigmas:
                wanted = {key: value for key, value in settings.items() if key in _FIELDS} | {"sigma": sigma}
                if row["method"] == "smoothadv":  # as its released code does
                    wanted["gauss_num"] = wanted["steps_per_batch"] = settings["noise_samples"]
                if "lr_step" in settings:
                    steps = range(settings["lr_step"], settings["epochs"], settings["lr_step"])
                    wanted["lr_milestones"] = tuple(steps)
                if "lr_milestones" in wanted:
                    wanted["lr_milestones"] = tuple(wanted["lr_milestones"])
                same = [
                    recipe
                    for recipe in recipes
                    if (recipe.dataset, recipe.network) == (row["dataset"], row["network"])
                    and recipe.objective.name == row["method"]
                    and all(_value(recipe, key) == value for key, value in wanted.items())
                ]
                assert same, f"no recipe has {row['method']} on {row['dataset']} with {wanted}"
                checked += 1
    assert checked == 17


PRINTED = {  # epochs, and settings of the method, in the commands and logs of released code, at sigma 0.25, 0.5 and 1
    "mnist/stability": [(90, {"lbd": 2})] * 3,
    "mnist/consistency": [(90, {"gauss_num": 2, "lbd": lbd, "entropy_weight": 0.5}) for lbd in (10, 5, 5)],
    "mnist/smoothadv-consistency": [(90, {"epsilon": 255, "steps": 10, "gauss_num": 4, "consistency": 1})] * 3,
    "mnist/smoothmix": [
        (90, {"gauss_num": 4, "steps": steps, "climb_size": 1, "lbd": 5, "first_step": first})
        for steps, first in ((2, 1), (4, 0), (8, 1))  # of what is printed, the largest ACR in the released certificates
    ],
    "mnist/cat-rs": [(150, {"gauss_num": 4, "steps": 4, "noise_epsilon": 1, "lbd": 1})] * 3,
    "cifar10/stability": [(150, {"lbd": lbd}) for lbd in (2, 2, 1)],
    "cifar10/consistency": [(150, {"gauss_num": 2, "lbd": lbd, "entropy_weight": 0.5}) for lbd in (20, 10, 10)],
    "cifar10/smoothadv-consistency": [
        (150, {"epsilon": epsilon, "steps": 10, "gauss_num": m, "consistency": lbd})
        for epsilon, m, lbd in ((255, 4, 2), (512, 2, 1), (512, 2, 1))
    ],
    "cifar10/smoothmix": [
        (150, {"gauss_num": 2, "steps": 4, "climb_size": size, "lbd": 5, "first_step": first})
        for size, first in ((0.5, 0), (1, 1), (2, 1))
    ],
    "cifar10/cat-rs": [(150, {"gauss_num": 4, "steps": 4, "noise_epsilon": 1, "lbd": lbd}) for lbd in (0.5, 1, 2)],
    "cifar10/hard-data": [
        (150, {"gauss_num": 4, "hard_from": first, "drop_below": share, "climb_size": size, "steps": steps})
        for first, share, size, steps in ((60, 0.5, 0.25, 3), (70, 0.4, 0.25, 6), (60, 0.4, 0.5, 4))
    ],
}


@pytest.mark.parametrize(("name", "sigma"), [(name, index) for name in PRINTED for index in range(3)])
def test_recipes_of_later_methods_carry_what_their_released_code_prints(name: str, sigma: int) -> None:
    recipe = f"{name}-{(0.25, 0.5, 1)[sigma]:g}"
    settings = resolve(read_recipe(recipe), None, {}, where=recipe)
    epochs, printed = PRINTED[name][sigma]
    third = epochs // 3
    assert (settings.epochs, settings.batch_size, settings.lr_milestones) == (epochs, 256, (third, 2 * third))
    assert settings.lr == (0.01 if name.startswith("mnist") else 0.1)
    assert {key: getattr(settings.objective, key) for key in printed} == printed


def test_no_recipe_ends_before_its_method_trains_in_full() -> None:
    for name in recipe_names():
        settings = resolve(read_recipe(name), None, {}, where=name)
        last = settings.epochs - 1.0
        assert settings.objective.held_back_by(Progress(last, has_dropped(settings, last))) is None, name


def test_methods_that_take_steps_on_parts_of_a_batch_take_one_per_noisy_copy() -> None:
    for name in recipe_names():
        settings = resolve(read_recipe(name), None, {}, where=name)
        objective = settings.objective
        if not _published(name) or objective.name in ("cohen", "macer", "stability", "denoiser"):
            assert settings.steps_per_batch == 1, name
        else:
            assert settings.steps_per_batch == getattr(objective, "gauss_num", None), name


def test_every_method_has_a_short_recipe_per_sigma_and_the_short_name_means_a_quarter() -> None:
    for method in OBJECTIVES:
        for sigma in ("0.25", "0.5", "1"):
            tables = read_recipe(f"mnist/short-{method}-{sigma}")
            assert (tables["objective"]["name"], tables["objective"]["sigma"]) == (method, float(sigma))
        assert read_recipe(f"mnist/short-{method}") == read_recipe(f"mnist/short-{method}-0.25")


def test_fast_recipes_are_compared_at_as_many_noisy_images() -> None:
    """4 million with each method, which differ in nothing but epochs beside it."""
    settings = [resolve(read_recipe(name), None, {}, where=name) for name in recipe_names() if "/fast" in name]
    assert len(settings) == 9
    assert len({(each.network, each.num_images, each.batch_size, each.lr, each.precision) for each in settings}) == 1
    for each in settings:
        progress = (Progress(float(epoch), has_dropped(each, float(epoch))) for epoch in range(each.epochs))
        images = each.num_images * sum(map(each.objective.samples_at, progress))
        assert images == pytest.approx(4e6, rel=0.05), each.objective


def _published(name: str) -> bool:
    return not {"short", "fast", "wide"} & set(name.split("/")[1].split("-"))


_FIELDS = (
    *("sigma", "gauss_num", "lbd", "gamma", "beta", "deferred", "epsilon", "steps", "warmup"),
    *("epochs", "batch_size", "lr", "momentum", "weight_decay", "lr_milestones", "lr_decay"),
)


def _value(settings, key: str):
    return getattr(settings, key) if hasattr(settings, key) else getattr(settings.objective, key)


def test_an_unknown_recipe_is_one_line() -> None:
    with pytest.raises(SettingsError, match="no recipe is named 'cifar10/nothing'"):
        read_recipe("cifar10/nothing")
    with pytest.raises(SettingsError, match=r"no recipe is named 'mnist/macer-1\.0'; similar names: mnist/macer-1, "):
        read_recipe("mnist/macer-1.0")
