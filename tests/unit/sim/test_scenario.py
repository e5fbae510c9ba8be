from __future__ import annotations

import re
from pathlib import Path

import pytest

from gureum.sim.scenario import ScenarioError, golden, parse, play, read

HEAD = "# It shows something.\n+0 hosts 2 shared\n"


def failure(text: str) -> str:
    with pytest.raises(ScenarioError) as error:
        parse("x", text)
    return str(error.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("kill manager", r"3: 'kill manager': a line is +SECONDS COMMAND"),
        ("+0", "3: '+0': a line is"),
        ("+9999 advance 1", "3: +9999: at most 7200 s"),
        ("+0 kil manager", "3: there is no command 'kil'; is it kill?"),
        ("+0 frobnicate", "3: there is no command 'frobnicate'; commands are: "),
        ("+0 kill agent host-7", "3: 'kill agent host-7': a host named 'host-7' is not known; is it host-"),
        ("+0 kill agent", "HOST is missing"),
        ("+0 start web", "an instance named 'web' is not known; there is none yet"),
        ("+0 launch Web", "'Web' is no name: small letters, digits and '-'"),
        ("+0 launch host-0", "host-0 is the name of a host already"),
        ("+0 launch web web", "web is named twice"),
        ("+0 launch web size=3", "size is no option of it"),
        ("+0 launch web type", "type is given as type=WORD"),
        ("+0 launch web keep=1", "keep takes no value"),
        ("+0 launch web zone=c", "there is no zone c: they are a and b"),
        ("+0 advance long", "'long' is no number"),
        ("+0 advance 1 2", "'2' is too much"),
        ("+0 power up host-0", "'up' is none of off|on|cycle"),
        ("+0 wait-for host-0 asleep within 3", "host-0 is never 'asleep', but: down, draining,"),
        ("+0 wait-for nobody up within 3", "nothing is named 'nobody'"),
        ("+0 fail san put_record", "'put_record' is no step of san"),
        ("+0 refused X kill manager", "asks nothing of the cloud that could be refused"),
    ],
)
def test_a_wrong_line_is_told_with_its_number_and_what_it_should_be(line: str, said: str) -> None:
    assert said in failure(f"{HEAD}{line}\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("+0 hosts 1\n", "1: begin with a comment"),
        ("# It shows.\n", "1: there is no command"),
        ("# It shows.\n+0 launch a\n", "2: the first command is: hosts N"),
        ("# It shows.\n+0 hosts 0\n", "2: the first command is: hosts N"),
        ("# It shows.\n+0 hosts 1 shared\n", "2: with a shared pool there are at least 2 hosts"),
    ],
)
def test_what_a_scenario_begins_with(text: str, said: str) -> None:
    assert said in failure(text)


def test_what_a_line_says() -> None:
    scenario = parse(
        "x",
        "# One.\n# Two.\n\n+0 hosts 3 ha seed=9\n# so\n+0 launch web\n+1.5 refused Nope stop web force\n",
    )
    assert (scenario.about, scenario.hosts, scenario.shared, scenario.ha, scenario.seed) == (
        "One. Two.",
        3,
        True,
        True,
        9,
    )
    launch, stop = scenario.lines
    assert launch.words == ("web",)
    assert (stop.number, stop.after, stop.verdict, stop.words) == (7, 1.5, "Nope", ("web",))
    assert stop.options == {"force": ""}


def test_what_is_refused_makes_no_name() -> None:
    text = f"{HEAD}+0 refused InsufficientInstanceCapacity launch web\n"
    assert "an instance named 'web' is not known" in failure(f"{text}+0 stop web\n")
    parse("x", f"{text}+0 launch web\n+0 stop web\n")


def test_devices_of_instances_are_volumes() -> None:
    parse("x", f"{HEAD}+0 launch web\n+0 snapshot s web/sdf\n")
    assert "a volume named 'db/sdf'" in failure(f"{HEAD}+0 launch web\n+0 snapshot s db/sdf\n")


def test_it_goes_the_same_way_each_time_and_says_what_happens() -> None:
    scenario = parse(
        "x", f"{HEAD}+3 launch web\n+0 wait-for web running within 30\n+0 kill manager\n+9 advance 1"
    )
    first, second = play(scenario), play(scenario)
    assert first == second
    assert first.failure == ""
    assert "  >         launch web\n" in first.log
    assert "instance  web: running" in first.log
    assert "process   manager is dead" in first.log
    assert re.search(r"\b(i|vol|eni)-[0-9a-f]{17}", first.log) is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("+3 launch web\n+0 expect web stopped", "line 4, 'expect web stopped': web is pending"),
        ("+3 launch web\n+0 wait-for web stopped within 4", "after 4 s: web is running"),
        ("+3 refused Nope launch web", "it is to be Nope, and is granted"),
        ("+3 launch web\n+0 stop web", "it is to be granted, and is IncorrectInstanceState"),
        ("+3 kill manager for=9\n+1 launch web", "it is to be granted, and is no answer"),
        ("+3 launch web\n+1 expect web not on host-0\n+0 expect web not on host-1", "web runs on host-"),
        ("+3 launch web\n+1 power off host-0 host-1", "not at rest 180 s after the end"),
    ],
)
def test_what_is_not_as_it_says_is_told_with_its_line(lines: str, said: str) -> None:
    assert said in play(parse("x", f"{HEAD}{lines}\n")).failure


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=f"{tmp_path}/commands"):
        read(tmp_path)
    (tmp_path / "commands").write_text("# It shows.\n+0 hosts 1\n+0 launch\n")
    with pytest.raises(ScenarioError, match=f"{tmp_path}/commands:3: 'launch': NEW-INSTANCE... is missing"):
        read(tmp_path)
    assert golden(tmp_path) == ""
