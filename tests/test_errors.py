"""Errors: a name that nobody knows is a KeyError as well, and any error of ours a ValueError."""

from collections.abc import Callable

import pytest

from macer import data, models, recipes
from macer.errors import MacerError, SettingsError, UnknownName
from macer.models.normalization import normalisation_named
from macer.pretrained import zoo
from macer.training.settings import resolve


@pytest.mark.parametrize(
    "look_up",
    [
        lambda name: models.build(name, 10, (1, 28, 28)),
        lambda name: data.load(name, None, "test"),
        recipes.read_recipe,
        normalisation_named,
        zoo.card,
        lambda name: resolve({"objective": {"name": name}}, None, {}, where="here"),
    ],
    ids=["network", "data set", "recipe", "normalisation", "zoo", "method"],
)
def test_unknown_names_are_key_errors_with_a_plain_message(look_up: Callable[[str], object]) -> None:
    with pytest.raises(KeyError) as caught:
        look_up("nonesuch")
    assert isinstance(caught.value, UnknownName)
    message = str(caught.value)
    assert "'nonesuch'" in message
    assert message[0] not in "\"'"


def test_every_error_of_ours_is_a_value_error() -> None:
    assert issubclass(MacerError, ValueError)
    assert issubclass(UnknownName, SettingsError)
