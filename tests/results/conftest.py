from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("results_make", Path(__file__).with_name("make.py"))
_MAKE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MAKE)


@pytest.fixture(scope="session")
def make():
    """The functions of make.py."""
    return _MAKE
