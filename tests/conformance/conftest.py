from __future__ import annotations

from collections.abc import Iterator

import pytest

from gureum.gateway.catalogue import Catalogue

from .exchange import Cloud


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    opened = Catalogue.open(tmp_path_factory.mktemp("catalogue"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def cloud(catalogue: Catalogue) -> Cloud:
    return Cloud(catalogue)


@pytest.fixture(autouse=True)
def _punctual(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.skew = 0.0
