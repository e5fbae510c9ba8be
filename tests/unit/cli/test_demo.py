from pathlib import Path

import pytest

from gureum.cli import demo
from gureum.cli.output import USAGE, CliError
from gureum.cli.story import DemoError, Story, expect


@pytest.mark.parametrize(("hosts", "san"), [(3, None), (None, "ceph"), (1, "ceph"), (3, "local")])
def test_a_fleet_has_hosts_and_a_storage_cluster(hosts: int | None, san: str | None, tmp_path: Path) -> None:
    with pytest.raises(CliError, match="a host can only be lost") as refused:
        demo.run(tmp_path, hosts, san, keep=False, as_json=False)
    assert refused.value.exit_code == USAGE
    assert not list(tmp_path.iterdir())


def test_a_step_is_only_right_with_a_result() -> None:
    story = Story()
    with story.step("said") as says:
        says("seen")
    with story.step("not said"):
        pass
    with pytest.raises(DemoError, match="it is not so"), story.step("failed"):
        expect(False, "it is not so")
    assert [(step.title, step.ok, step.result) for step in story.steps] == [
        ("said", True, "seen"),
        ("not said", False, ""),
        ("failed", False, "it is not so"),
    ]
