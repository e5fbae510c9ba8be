from gureum.san.ceph import bootstrap


def test_last_words_are_errors_if_there_are_any() -> None:
    said = "2026-01-01T00:00:00.0 7f  0 set uid\n2026-01-01T00:00:00.1 7f -1 cannot open: (13) denied\n"
    assert bootstrap.last_words(said).endswith("cannot open: (13) denied")
    assert "set uid" not in bootstrap.last_words(said)
    assert bootstrap.last_words("") == "it said nothing"
