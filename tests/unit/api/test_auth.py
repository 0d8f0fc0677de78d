"""API keys, quotas, and the rule for binding."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from forebay.api.auth import ANONYMOUS, Gate, Keys, Quota, check_bind, is_loopback, key_line, new_secret
from forebay.core.errors import AdmissionError, SetupError

ALICE, BOB = "fb_alice-secret-alice-secret", "fb_bob-secret-bob-secret"


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


@pytest.fixture
def keys() -> Keys:
    return Keys({"alice": digest(ALICE), "bob": digest(BOB)})


def test_new_secrets_differ_and_fit_their_line() -> None:
    first, second = new_secret(), new_secret()
    assert first != second
    assert first.startswith("fb_")
    assert len(first) == 46
    line = key_line("alice", first)
    assert first not in line
    assert Keys.parse(line, "here").authenticate(f"Bearer {first}".encode()) == "alice"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "-a", "x" * 65, "anonymous", "a\nb", "ä"])
def test_names_that_cannot_be_keys(name: str) -> None:
    with pytest.raises(SetupError, match="cannot be used; accepted: 1 to 64 letters"):
        key_line(name, ALICE)


@pytest.mark.parametrize(
    ("header", "tenant"),
    [
        (f"Bearer {ALICE}", "alice"),
        (f"bearer {ALICE}", "alice"),
        (f"BEARER   {BOB} ", "bob"),
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        (ALICE, None),
        (f"Basic {ALICE}", None),
        (f"Bearer {ALICE[:-1]}", None),
        (f"Bearer {ALICE}x", None),
        (f"Bearer {ALICE} {BOB}", None),
        (f"Bearer {digest(ALICE).hex()}", None),
        (f"Bearer {ALICE}" + " " * 2000, None),
    ],
)
def test_authenticate(keys: Keys, header: str | None, tenant: str | None) -> None:
    raw = None if header is None else header.encode()
    assert keys.authenticate(raw) == tenant
    assert keys.authenticate(raw) == tenant, "the second answer comes from what was remembered"


def test_bytes_that_are_no_text_prove_nothing(keys: Keys) -> None:
    assert keys.authenticate(b"Bearer \xff\x00\xfe") is None


def test_without_keys_everybody_is_anonymous() -> None:
    assert Keys({}).authenticate(None) == ANONYMOUS
    assert Keys({}).authenticate(b"Bearer whatever") == ANONYMOUS


def test_what_is_remembered_is_bounded_and_only_what_was_right(keys: Keys) -> None:
    for spaces in range(500):
        assert keys.authenticate(b"Bearer " + b" " * spaces + ALICE.encode()) == "alice"
        assert keys.authenticate(b"Bearer wrong%d" % spaces) is None
    assert len(keys._verified) == 128
    assert set(keys._verified.values()) == {"alice"}


def test_parse_skips_comments_and_takes_either_case() -> None:
    text = f"# who\r\n\r\n  alice:{digest(ALICE).hex().upper()}  \r\nbob:{digest(BOB).hex()}"
    parsed = Keys.parse(text, "keys.txt")
    assert parsed.names() == ["alice", "bob"]
    assert len(parsed) == 2
    assert parsed.authenticate(f"Bearer {ALICE}".encode()) == "alice"


GOOD = f"alice:{digest(ALICE).hex()}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{GOOD}\n{BOB}", "keys.txt line 2: is not NAME:SHA256HEX; make one with: forebay keys new NAME"),
        (f"bob:{BOB}", "keys.txt line 1: is not NAME:SHA256HEX"),
        ("bob:" + "a" * 63, "keys.txt line 1: is not NAME:SHA256HEX"),
        ("bob:" + "a" * 65, "keys.txt line 1: is not NAME:SHA256HEX"),
        ("bob: " + "a" * 64, "keys.txt line 1: is not NAME:SHA256HEX"),
        ("anonymous:" + "a" * 64, "keys.txt line 1: is not NAME:SHA256HEX"),
        (f"{GOOD} # alice", "keys.txt line 1: is not NAME:SHA256HEX"),
        (f"{GOOD}\nalice:" + "b" * 64, "keys.txt line 2: the name 'alice' stands twice; remove one line"),
        (f"{GOOD}\nbob:{digest(ALICE).hex()}", "keys.txt line 2: 'bob' has the same secret as a line above"),
        ("", "keys.txt: holds no key; make one with: forebay keys new NAME"),
        ("# none yet\n", "keys.txt: holds no key"),
    ],
)
def test_bad_lines_are_named_by_number_never_by_text(text: str, message: str) -> None:
    with pytest.raises(SetupError) as caught:
        Keys.parse(text, "keys.txt")
    assert caught.value.message.startswith(message)
    assert "secret-" not in caught.value.message
    assert digest(ALICE).hex() not in caught.value.message


def test_load(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("\ufeff" + GOOD, encoding="utf-8")
    assert Keys.load(file, None).names() == ["alice"]
    assert Keys.load(file, f"bob:{digest(BOB).hex()},{GOOD}").names() == ["bob", "alice"]
    assert len(Keys.load(None, None)) == 0
    for empty in ("", " \n", ","):
        with pytest.raises(SetupError, match="FOREBAY_API_KEYS: holds no key"):
            Keys.load(None, empty)


def test_load_from_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="nope' cannot be read: No such file or directory"):
        Keys.load(tmp_path / "nope", None)
    deep = tmp_path / ("long " * 20)
    deep.mkdir()
    (deep / "binary").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SetupError, match="binary' cannot be read: it is not a text file"):
        Keys.load(deep / "binary", None)
    with pytest.raises(SetupError) as caught:
        Keys.load(Path(new_secret()), None)
    assert "fb_" not in caught.value.message


class HandClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_quota_is_a_bucket_for_each_tenant() -> None:
    clock = HandClock()
    quota = Quota(4.0, clock)
    assert [quota.take("a") for _ in range(6)] == [0.0, 0.0, 0.0, 0.0, 0.25, 0.25]
    assert quota.take("b") == 0.0
    clock.now_s += 0.25
    assert [quota.take("a"), quota.take("a")] == [0.0, 0.25]
    clock.now_s += 3600.0
    assert [quota.take("a") for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.25], "an idle hour is worth one second"


def test_a_quota_below_one_a_second_lets_one_through() -> None:
    clock = HandClock()
    quota = Quota(0.5, clock)
    assert [quota.take("a"), quota.take("a")] == [0.0, 2.0]
    clock.now_s += 1.0
    assert quota.take("a") == 1.0
    clock.now_s += 1.0
    assert quota.take("a") == 0.0


def test_no_quota_never_reads_the_clock() -> None:
    def clock() -> float:
        raise AssertionError("read")

    assert Quota(None, clock).take("a") == 0.0


def test_gate(keys: Keys) -> None:
    clock = HandClock()
    gate = Gate(keys, Quota(1.0, clock))
    assert gate.enter(f"Bearer {ALICE}".encode()) == "alice"
    with pytest.raises(AdmissionError, match="'alice' is used up") as spent:
        gate.enter(f"Bearer {ALICE}".encode())
    assert (spent.value.code, spent.value.retry_after_s) == ("over_quota", 1.0)
    with pytest.raises(AdmissionError, match="an API key is needed") as missing:
        gate.enter(None)
    with pytest.raises(AdmissionError, match="no valid API key") as wrong:
        gate.enter(f"Bearer {ALICE}x".encode())
    assert {missing.value.code, wrong.value.code} == {"unauthorized"}
    assert ALICE not in str(wrong.value)
    assert gate.enter(f"Bearer {BOB}".encode()) == "bob", "strangers used nobody's quota up"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LocalHost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_bind(host, Keys({}), False)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org", "localhost.example.org", "2130706433"]
)
def test_a_reachable_bind_needs_keys_or_the_flag(host: str, keys: Keys) -> None:
    assert not is_loopback(host)
    with pytest.raises(SetupError, match=r"no API keys; make one with `forebay keys new .*--insecure-no-auth"):
        check_bind(host, Keys({}), False)
    check_bind(host, keys, False)
    check_bind(host, Keys({}), True)


def test_keys_and_no_auth_contradict(keys: Keys) -> None:
    with pytest.raises(SetupError, match="both set; drop --insecure-no-auth or the keys"):
        check_bind("127.0.0.1", keys, True)
