"""Settings: which source wins, and what a mistake reads like."""

from pathlib import Path

import pytest

from vtprof_agent import config as config_module
from vtprof_agent.config import Config, load, merge, read_file, without_secrets
from vtprof_agent.export.spool import LEAST_BYTES
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
        ("keep_ratio", 0),
        ("keep_ratio", 1.5),
        ("keep_ttft_above_s", 0),
        ("budget_probe_ratio", 2),
        ("budget_cpu_ratio", -0.1),
        ("budget_rss_bytes", 1.5),
        ("gpu_sample_s", 0),
        ("spool_bytes", -1),
        ("spool_bytes", 1),
        ("rotate_bytes", 10),
        ("flush_s", 0),
        ("gpu_sample_s", 0.01),
        ("budget_rss_bytes", 1000),
        ("keep_bytes", 5),
        ("otlp_protocol", "http"),
        ("samplers", ["host", "nvlm"]),
        ("insecure_listen", "perhaps"),
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


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (
            "otlp_protocol",
            "gprc",
            r"otlp_protocol = 'gprc': not one of http/protobuf, grpc; did you mean grpc\?",
        ),
        ("samplers", ["nvlm"], r"not one of host, .*nvml.*; did you mean nvml\?"),
        ("log_level", "loud", "not one of debug, info, warning, error; correct it"),
    ],
)
def test_a_word_that_is_no_choice_is_told_the_choices(key: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        merge({}, {}, {key: value}, "agent.toml")


def test_limits_of_zero_are_none_and_lists_come_from_the_environment() -> None:
    file = {"budget_cpu_ratio": 0, "budget_rss_bytes": 0, "budget_probe_ratio": 0, "spool_bytes": 0}
    config = merge({}, {"VTPROF_AGENT_SAMPLERS": "host, nvml"}, file, "agent.toml").config
    assert (
        config.budget_cpu_ratio,
        config.budget_rss_bytes,
        config.budget_probe_ratio,
        config.spool_bytes,
    ) == (0, 0, 0, 0)
    assert config.samplers == ("host", "nvml")


def test_the_file_of_the_machine_is_read_unless_another_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine, own = tmp_path / "machine.toml", tmp_path / "own.toml"
    monkeypatch.setattr(config_module, "DEFAULT_FILE", machine)
    assert load({}, {}).config == Config()
    machine.write_text("keep_ratio = 0.1\n")
    own.write_text("flush_s = 2.0\n")
    settings = load({}, {})
    assert (settings.config.keep_ratio, settings.origins["keep_ratio"]) == (0.1, str(machine))
    assert load({}, {}, own).config == Config(flush_s=2.0)
    assert load({"keep_ratio": 0.5}, {}).origins["keep_ratio"] == "--keep-ratio"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:pw@host:4318/v1?token=x#y", "http://host:4318/v1"),
        ("https://host", "https://host"),
        ("host:4318", "host:4318"),
        ("http://pw@h", "http://h"),
        ("not a url?", "not a url?"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_a_tilde_is_the_users_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert merge({}, {}, {"ring_dir": "~/rings"}, "f").config.ring_dir == Path("/home/somebody/rings")


def test_the_least_that_makes_sense_is_taken() -> None:
    least = {
        "spool_bytes": LEAST_BYTES, "rotate_bytes": 65_536, "keep_bytes": 65_536, "flush_s": 0.01, "gpu_sample_s": 0.1,
        "budget_rss_bytes": 32_000_000,
    }  # fmt: skip
    assert merge({}, {}, least, "agent.toml").config == Config(**least)  # type: ignore[arg-type]
    everything = merge({}, {"VTPROF_AGENT_KEEP_BYTES": "0"}, {"rotate_bytes": 1 << 40}, "agent.toml")
    assert everything.config.keep_bytes == 0


def test_files_that_would_be_deleted_at_once_blame_what_was_set() -> None:
    with pytest.raises(ConfigError, match=r"^VTPROF_AGENT_KEEP_BYTES = 65536: .* \(65536 and 67108864\)"):
        merge({}, {"VTPROF_AGENT_KEEP_BYTES": "65536"})
    with pytest.raises(ConfigError, match=r"^agent.toml: rotate_bytes = 1099511627776: "):
        merge({}, {}, {"rotate_bytes": 1 << 40}, "agent.toml")


def test_a_table_is_told_as_one(tmp_path: Path) -> None:
    for text in ("[agent]\nkeep_ratio = 0.5\n", "agent.keep_ratio = 0.5\n", "[agent]\n"):
        (tmp_path / "agent.toml").write_text(text)
        with pytest.raises(
            ConfigError, match=r"agent.toml: \[agent\]: settings stand in no \[table\]; move those"
        ):
            load({}, {}, tmp_path / "agent.toml")


def test_a_message_that_begins_with_a_flag_names_where_the_value_came_from() -> None:
    settings = merge({"otlp_endpoint": "c"}, {"VTPROF_AGENT_OUT_DIR": "/x"}, {"metrics": "1"}, "/etc/my.toml")
    assert settings.named("--metrics '1': no") == "/etc/my.toml: metrics '1': no"
    assert settings.named("--out /x: no") == "VTPROF_AGENT_OUT_DIR /x: no"
    for as_it_is in (
        "--otlp-endpoint 'c': no",
        "--ring-dir /dev/shm: no",
        "--nothing: no",
        "token_file x: --metrics",
    ):
        assert settings.named(as_it_is) == as_it_is
