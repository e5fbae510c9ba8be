from gureum.agent.settled import Settled


def test_new_changed_and_gone_things_need_work() -> None:
    settled = Settled[str]()
    assert settled.take({"a": "1", "b": "1"}, 5) == ["a", "b"]
    assert settled.settle("a", "1")
    assert settled.settle("b", "1")
    assert settled.take({"a": "1", "c": "1"}, 6) == ["b", "c"]
    assert settled.settled("a") == 6


def test_an_unsettled_thing_needs_work_again_with_the_same_spec() -> None:
    settled = Settled[str]()
    settled.take({"a": "1"}, 5)
    assert settled.take({"a": "1"}, 6) == ["a"]
    settled.settle("a", "1")
    settled.unsettle("a")
    assert settled.settled("a") == 0
    assert settled.take({"a": "1"}, 7) == ["a"]


def test_agreement_with_an_old_spec_is_no_agreement() -> None:
    settled = Settled[str]()
    settled.take({"a": "1"}, 5)
    settled.take({"a": "2"}, 6)
    assert not settled.settle("a", "1")
    assert settled.settled("a") == 0
    assert settled.settle("a", "2")
    assert settled.settled("a") == 6
