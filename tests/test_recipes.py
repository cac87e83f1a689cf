"""Every recipe is loaded and trained for two steps; the published ones agree with the published settings."""

import io
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from macer.data import InMemoryImages
from macer.errors import SettingsError
from macer.recipes import read_recipe, recipe_names
from macer.training import load_checkpoint, resolve, train

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "imagenet": (3, 224, 224)}


@pytest.mark.parametrize("name", recipe_names())
def test_two_steps_of_every_recipe(name: str, tmp_path: Path) -> None:
    # Two images a step: what is tested is that the settings fit together, not what they attain.
    settings = resolve(
        read_recipe(name), None, {"epochs": 1, "batch_size": 2, "num_images": 0, "device": "cpu"}, where=name
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
        assert 0 < recipe["expected_acr"] < 4
        assert recipe["expected_images"]
        assert recipe["command"].startswith(f"macer train --recipe {name}")


def test_recipes_expect_the_published_results(shared: Path) -> None:
    """Every published ACR on a whole test set, and every training time, stands in the recipe of its row."""
    published = tomllib.loads((shared / "reference" / "published.toml").read_text())
    recipes = {name: read_recipe(name)["recipe"] for name in recipe_names()}
    methods = {"cohen", "smoothadv", "macer", "consistency", "stability"}
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
    assert checked == 30 + 6


def test_recipes_carry_the_published_settings(shared: Path) -> None:
    """Each published row is found again in a recipe of its data set, method and sigma, number for number."""
    published = tomllib.loads((shared / "reference" / "published.toml").read_text())["recipe"]
    recipes = [resolve(read_recipe(name), None, {}, where=name) for name in recipe_names() if "short" not in name]
    renamed = {"lr_step": "lr_milestones"}
    # The released SmoothAdv code takes a batch of 256 in noise_samples parts with a step each.
    checked = 0
    for row in published:
        for settings in row["settings"] if isinstance(row["settings"], list) else [row["settings"]]:
            sigmas = settings["sigma"] if isinstance(settings["sigma"], list) else [settings["sigma"]]
            for sigma in sigmas:
                wanted = {key: value for key, value in settings.items() if key in _FIELDS} | {"sigma": sigma}
                if row["method"] == "smoothadv":
                    wanted["batch_size"] //= settings["noise_samples"]
                if "lr_step" in settings:
                    steps = range(settings["lr_step"], settings["epochs"], settings["lr_step"])
                    wanted[renamed["lr_step"]] = tuple(steps)
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


_FIELDS = (
    *("sigma", "gauss_num", "lbd", "gamma", "beta", "deferred", "epsilon", "steps", "noise_samples", "warmup"),
    *("epochs", "batch_size", "lr", "momentum", "weight_decay", "lr_milestones", "lr_decay"),
)


def _value(settings, key: str):
    return getattr(settings, key) if hasattr(settings, key) else getattr(settings.objective, key)


def test_an_unknown_recipe_is_one_line() -> None:
    with pytest.raises(SettingsError, match="no recipe is named 'cifar10/nothing'"):
        read_recipe("cifar10/nothing")
