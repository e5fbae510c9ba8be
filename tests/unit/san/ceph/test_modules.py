from pathlib import Path

import pytest

from gureum.san.ceph import modules


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "library"
    made.mkdir()
    for name in ("mgr_module.py", "mgr_util.py", "object_format.py"):
        (made / name).write_text("import bcrypt")
    monkeypatch.setattr(modules, "MGR_LIBRARY", made)
    return made


def test_ceph_s_own_but_what_cannot_be_loaded(library: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    modules.make(made)
    assert modules.are_in(made)
    assert (made / "object_format.py").resolve() == library / "object_format.py"
    assert "bcrypt" not in (made / "mgr_util.py").read_text()
    (library / "more.py").touch()  # of a newer Ceph
    assert not modules.are_in(made)


def test_those_of_an_older_gureum_are_made_anew(library: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    modules.make(made)
    (made / "mgr_util.py").unlink()
    (made / "mgr_util.py").symlink_to(library / "mgr_util.py")
    assert not modules.are_in(made)
