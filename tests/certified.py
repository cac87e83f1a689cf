"""Certificates of a small run that nobody disturbed, for tests of what disturbs one. A plugin; see also journals.py."""

from pathlib import Path

import pytest
from journals import OPTIONS


@pytest.fixture(scope="module")
def whole(macer, trained, tmp_path_factory) -> Path:
    """Certificates of both kinds by one process."""
    directory = tmp_path_factory.mktemp("whole") / "certificates"
    result = macer("certify", trained, *OPTIONS, "--out", directory)
    assert (result.code, result.err) == (0, "")
    return directory
