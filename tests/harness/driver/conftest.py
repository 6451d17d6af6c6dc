"""What official runs need, for their tests."""

from __future__ import annotations

from collections.abc import Iterator

import official_site
import pytest
from official_site import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        official_site.small_official(patch)
        official_site.remember_meshes(patch)
        yield official_site.write_site(tmp_path_factory.mktemp("site"))
