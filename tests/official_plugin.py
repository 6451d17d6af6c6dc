"""A plug-in: in the process that imports it, miniatures stand in the place of official networks, for good."""

from __future__ import annotations

import pytest
from official_site import small_official

small_official(pytest.MonkeyPatch())
