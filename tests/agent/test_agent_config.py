"""Settings: which source wins, and what a mistake reads like."""

from pathlib import Path

import pytest

from vtprof_agent.config import Config, merge, read_file
from vtprof_schemas.errors import ConfigError


def test_flags_beat_environment_beats_file_beats_defaults_and_origins_are_kept() -> None:
    file = {"out_dir": "from-file", "poll_min_s": 0.02, "batch_spans": 9}
    environment = {"VTPROF_AGENT_POLL_MIN_S": "0.03", "VTPROF_AGENT_OUT_DIR": "from-env", "HOME": "/root"}
    settings = merge({"out_dir": Path("from-flag"), "metrics": None}, environment, file, "agent.toml")
    assert settings.config == Config(out_dir=Path("from-flag"), poll_min_s=0.03, batch_spans=9)
    assert settings.origins["out_dir"] == "--out"
    assert settings.origins["poll_min_s"] == "VTPROF_AGENT_POLL_MIN_S"
    assert settings.origins["batch_spans"] == "agent.toml"
    assert settings.origins["flush_s"] == "default"


def test_flags_are_named_as_the_user_typed_them() -> None:
    settings = merge({"ring_dir": Path("r"), "otlp_endpoint": "http://c"}, {})
    assert settings.origins["ring_dir"] == "--ring-dir"
    assert settings.origins["otlp_endpoint"] == "--otlp-endpoint"


def test_an_unknown_key_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(
        ConfigError, match=r"agent.toml: unknown setting rotate_byte; did you mean rotate_bytes\?"
    ):
        merge({}, {}, {"rotate_byte": 1}, "agent.toml")
    with pytest.raises(
        ConfigError, match="VTPROF_AGENT_RINGDIR: unknown setting ringdir; did you mean ring_dir"
    ):
        merge({}, {"VTPROF_AGENT_RINGDIR": "x"})


def test_an_unknown_key_like_none_is_an_error_with_the_list() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown setting zzz; there are ring_dir, out_dir, .*, log_level$"
    ):
        merge({}, {"VTPROF_AGENT_ZZZ": "1"})


def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_setting() -> None:
    assert (
        merge({}, {"VTPROF_AGENT_SERVICE_HOST": "10.0.0.1", "VTPROF_AGENT_PORT_9464_TCP": "x"}).config
        == Config()
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rotate_bytes", "many"),
        ("rotate_bytes", 0),
        ("flush_s", -1),
        ("poll_min_s", "nan"),
        ("out_dir", 5),
        ("log_level", "loud"),
        ("calibrate_host", "maybe"),
        ("batch_spans", 1.5),
        ("flush_s", 1e9),
        ("stop_s", 1e300),
        pytest.param("gpu_time_hold_s", 10**400, id="gpu_time_hold_s-overflow"),
        ("poll_max_s", 61),
        pytest.param("scan_s", 10**5000, id="scan_s-digits"),
        ("max_open_requests", 2**63),
        ("out_dir", "a\0b"),
        ("ring_dir", "a\0b"),
        ("metrics", "host\0:1"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        merge({}, {}, {key: value}, "agent.toml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_toml_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("out_dir = \n")
    with pytest.raises(ConfigError, match=r"agent.toml: not TOML: .*line 1"):
        read_file(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_file(tmp_path / "missing.toml")
