from pathlib import Path

import pytest

from gureum.transport import authority


@pytest.fixture(scope="session")
def authority_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import time

    directory = tmp_path_factory.mktemp("authority")
    authority.ensure(directory, "test", time.time())
    return directory
