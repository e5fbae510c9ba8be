import base64
import struct

from gureum.san.ceph.keys import capabilities, keyring, new_key, new_keys, read_keyring, user_rights


def test_a_key_is_what_cephx_takes() -> None:
    kind, _seconds, _nanoseconds, length = struct.unpack("<HIIH", base64.b64decode(new_key())[:12])
    assert (kind, length, len(base64.b64decode(new_key()))) == (1, 16, 28)
    assert new_key() != new_key()


def test_the_cloud_may_do_what_disks_need_and_no_more() -> None:
    pool = "profile rbd pool=gureum"
    assert capabilities(3)["client.gureum"] == {"mon": "profile rbd", "mgr": pool, "osd": pool}
    assert user_rights(["a", "b"])["osd"] == "profile rbd pool=a, profile rbd pool=b"


def test_every_daemon_has_a_key_of_its_own() -> None:
    keys = new_keys(4)
    assert {"mon.", "mgr.x", "osd.0", "osd.3", "client.admin", "client.gureum"} <= keys.keys()
    assert len(set(keys.values())) == len(keys)


def test_a_keyring_for_the_monitor_has_rights_and_one_for_a_client_has_none() -> None:
    keys = new_keys(1)
    rights = capabilities(1)
    whole = keyring(keys, rights, rights)
    assert "[osd.0]\n\tkey = " in whole
    assert '\tcaps mon = "allow profile osd"\n' in whole
    assert keyring(keys, ["client.gureum"]) == f"[client.gureum]\n\tkey = {keys['client.gureum']}\n"
    assert read_keyring(whole) == keys


def test_keyrings_of_others_are_read() -> None:
    assert read_keyring('junk\n[client.x]\n key=abc==\n caps mon = "allow r"\n[client.y]\n') == {
        "client.x": "abc=="
    }
