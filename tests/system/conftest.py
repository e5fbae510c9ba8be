"""What all tests of a whole cloud share: the machine image, clouds, and their logs where a test fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from gureum.images.builder import build_tiny
from gureum.images.manifest import ImageManifest

from .realcloud import CLOUDS, RealCloud, opened


@pytest.fixture(scope="session")
def tiny_image() -> ImageManifest:
    """Kept between runs, and made again when its recipe changed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return asyncio.run(build_tiny(cache / "gureum-tests/images", lambda _step, _share: None))


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest) -> Iterator[RealCloud]:
    """A cloud that runs, the same one for all tests of a module."""
    with opened(tiny_image) as made:
        made.start()
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for cloud in CLOUDS:
            for name, text in cloud.logs().items():
                report.sections.append((f"{name}.log of {cloud.config.name}", text))
    return report
