from __future__ import annotations

from collections.abc import Iterator

import pytest

from gureum.gateway.catalogue import Catalogue


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    opened = Catalogue.open(tmp_path_factory.mktemp("catalogue"))
    yield opened
    opened.close()
