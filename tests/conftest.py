"""Fixtures that several test modules share."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder of real samples in the public layouts; the test is skipped where there is none."""
    folder = os.environ.get("RENAISSANCE_TEST_DATA")
    if not folder:
        pytest.skip("RENAISSANCE_TEST_DATA is not set: it names a folder of real samples in the public layouts")
    return Path(folder)
