"""The state file: whole or not at all, private, held by one watcher, and never gone on from when damaged or another's."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from vtprof_analyzer.watch.state_file import StateFile, default_path
from vtprof_schemas.errors import BackendError, ConfigError, DataError, VtprofError

IDENTITY = {"path": "/traces", "base": "abc"}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "below" / "state.json"


def saved(path: Path, **content: object) -> None:
    file = StateFile(path)
    file.save(IDENTITY, content)
    file.close()


@given(
    content=st.dictionaries(
        st.text(max_size=5).filter(lambda name: name != "identity"), JSON_VALUES, max_size=4
    )
)
def test_what_was_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]
) -> None:
    file = StateFile(tmp_path_factory.mktemp("s") / "state.json")
    file.save(IDENTITY, content)
    loaded = file.load(IDENTITY)
    file.close()
    assert loaded == {**content, "identity": IDENTITY}


def test_where_there_is_none_nothing_is_loaded(path: Path) -> None:
    assert StateFile(path).load(IDENTITY) is None


def test_it_is_private_and_nothing_else_is_left(path: Path) -> None:
    os.umask(0o022)
    saved(path, a=1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(one.name for one in path.parent.iterdir()) == ["state.json", "state.json.lock"]


@settings(max_examples=300)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_any_damage_is_one_line_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("s") / "state.json"
    saved(path, book={"entries": [1, 2.5, "x"]}, follower={"offset": 123456})
    text = bytearray(path.read_bytes())
    at %= len(text)
    text = text[:at] if cut else text
    if not cut:
        text[at] ^= 1 << bit
    path.write_bytes(bytes(text))
    file = StateFile(path)
    try:
        loaded = file.load(IDENTITY)
    except VtprofError as error:
        assert "\n" not in str(error) and str(path) in str(error) and "--fresh" in str(error)
    else:
        assert loaded is not None
        assert loaded["book"] == {"entries": [1, 2.5, "x"]} and loaded["follower"] == {"offset": 123456}
    finally:
        file.close()


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{}", b"[" * 100_000, b'{"format": NaN}', b"\xff\xfe", b"1e999"]
)
def test_what_is_no_state_is_refused_in_one_line(path: Path, text: bytes) -> None:
    file = StateFile(path)
    path.write_bytes(text)
    with pytest.raises(DataError, match="--fresh"):
        file.load(IDENTITY)


def test_a_state_of_another_base_is_refused_and_says_so(path: Path) -> None:
    saved(path, a=1)
    with pytest.raises(ConfigError, match="is of another base; give --fresh"):
        StateFile(path).load({**IDENTITY, "base": "other"})


def test_a_newer_version_is_refused(path: Path) -> None:
    saved(path, a=1)
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "schema_version": 2}))
    with pytest.raises(DataError, match="has version 2, this vtprof knows 1"):
        StateFile(path).load(IDENTITY)


def test_a_failed_save_leaves_the_state_before(path: Path) -> None:
    saved(path, a=1)
    file = StateFile(path)
    with pytest.raises(ValueError, match="JSON"):
        file.save(IDENTITY, {"a": float("nan")})
    assert (file.load(IDENTITY) or {})["a"] == 1
    assert len(list(path.parent.iterdir())) == 2


def test_a_second_watcher_on_the_same_file_is_refused_until_the_first_ends(path: Path) -> None:
    first = StateFile(path)
    program = (
        "from pathlib import Path\nfrom vtprof_analyzer.watch.state_file import StateFile\n"
        f"StateFile(Path({str(path)!r}))"
    )
    second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "another vtprof watch keeps its state there" in second.stderr
    with pytest.raises(ConfigError, match="another vtprof watch"):
        StateFile(path)
    first.close()
    StateFile(path).close()


def test_a_place_where_nothing_can_be_kept_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "state.json"):
        with pytest.raises((ConfigError, BackendError), match="--state"):
            StateFile(place)


def test_the_default_place_depends_on_what_is_watched_and_against_what(tmp_path: Path) -> None:
    place = default_path(tmp_path, IDENTITY)
    assert place.parts[:2] == (".vtprof", "watch")
    assert place == default_path(tmp_path, dict(reversed(IDENTITY.items())))
    assert place != default_path(tmp_path / "x", IDENTITY)
    assert place != default_path(tmp_path, {**IDENTITY, "base": "other"})
