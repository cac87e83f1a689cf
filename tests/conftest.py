"""Shared fixtures. Array shapes and types in signatures are checked at run time while testing."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: here, and in the commands that tests start
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # no test needs the network

import secrets
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import config, install_import_hook

install_import_hook("macer", "beartype.beartype")

# Seeds that would be drawn from the system's entropy are 0: no test may fail by chance. tests/test_seed.py draws some.
secrets.randbits = lambda bits: 0

SHARED = Path(os.environ.get("MACER_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture
def shared() -> Path:
    """The directory with real data and published results beside the project; tests skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the shared data at {SHARED}; set MACER_SHARED to point to it")
    return SHARED


@pytest.fixture
def unchecked_shapes():
    """Signatures are not checked: for compilers, which pass what only stands for a tensor, and for wrong arguments."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


# Shared machines are slow at times, and a test must not depend on chance.
settings.register_profile("macer", deadline=None, derandomize=True)
settings.load_profile("macer")
