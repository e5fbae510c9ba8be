"""One world for all tests of VPCs: six guests take their time to boot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gureum.images.manifest import ImageManifest

from .world import World, made_world


@pytest.fixture(scope="package")
def world(tiny_image: ImageManifest) -> Iterator[World]:
    with made_world(tiny_image) as made:
        yield made
