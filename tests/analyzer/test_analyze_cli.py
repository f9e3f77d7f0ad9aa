"""`vtprof analyze` as a user runs it: exit codes, one line for a mistake, the same report every time."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from otlp_builder import document, line, request, span, write

from vtprof_analyzer.devices.measured import calibration_file
from vtprof_schemas import names

CONFIG = {
    "model_type": "qwen2_5_vl", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vision_config": {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "in_channels": 3, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1],
        "out_hidden_size": 64,
    },
}  # fmt: skip
MS = 1_000_000
RESOURCE = {
    names.SERVICE_INSTANCE_ID: "ring-1", names.ENGINE_NAME: "transformers", names.ENGINE_VERSION: "5.23.0",
    names.MODEL_CONFIG: json.dumps(CONFIG), names.WEIGHTS_DTYPE: "bfloat16", names.KV_DTYPE: "bfloat16",
    names.KV_BYTES_PER_TOKEN: 512, names.HW_NAME: "NVIDIA H200", names.DEVICE_KIND: "cuda",
}  # fmt: skip


def one_request(trace: int, visual: int = 80) -> list[dict[str, Any]]:
    """A request of 20 text and ``visual`` image tokens, 11 output tokens, with its step and window."""
    prompt = 20 + visual
    attrs = {
        names.TTFT_NS: 60 * MS, names.INPUT_TOKENS: prompt, names.OUTPUT_TOKENS: 11, names.TOKENS_TEXT: 20,
        names.TOKENS_IMAGE: visual, names.TOKENS_VIDEO: 0, names.TOKENS_AUDIO: 0, names.ITEMS_IMAGE: int(visual > 0),
        names.KV_BYTES: (prompt + 10) * 512, names.KV_VISUAL_BYTES: visual * 512,
    }  # fmt: skip
    phases = {"preprocess": (0, 10 * MS), "queue": (10 * MS, 12 * MS), "prefill": (30 * MS, 58 * MS)}
    phases |= {"encode": (12 * MS, 30 * MS)} if visual else {}
    step = {
        names.STEP_COUNT: 1, names.STEP_PREFILL_REQUESTS: 1, names.STEP_PREFILL_TOKENS: prompt,
        names.STEP_PREFILL_VISUAL_TOKENS: visual, names.STEP_PREFILL_ATTENTION_PAIRS: prompt * (prompt + 1) // 2,
        names.STEP_PREFILL_VISUAL_ATTENTION_PAIRS: visual * (visual + 1) // 2, names.STEP_KV_USED_TOKENS: prompt,
        names.STEP_KV_VISUAL_TOKENS: visual, names.STEP_ENCODE_PATCHES: 4 * visual,
        names.STEP_ENCODE_ATTENTION_PAIRS: 16 * visual * visual, names.GPU_TIME_NS: 40 * MS,
        names.STEP_ENCODE_GPU_TIME_NS: 15 * MS if visual else 0,
    }  # fmt: skip
    window = {
        names.STEP_COUNT: 10, names.STEP_DECODE_REQUESTS: 10, names.STEP_DECODE_CONTEXT_TOKENS: 10 * prompt + 45,
        names.STEP_DECODE_VISUAL_TOKENS: 10 * visual, names.STEP_KV_USED_TOKENS: prompt + 5,
        names.STEP_KV_VISUAL_TOKENS: visual, names.GPU_TIME_NS: 80 * MS,
    }  # fmt: skip
    return [
        *request(0, 160 * MS, attrs, trace=trace, **phases, decode=(60 * MS, 160 * MS)),
        span(names.SPAN_STEP, 12 * MS, 58 * MS, step, trace=1000 + trace),
        span(names.SPAN_WINDOW, 60 * MS, 160 * MS, window, trace=2000 + trace),
    ]


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    folder = tmp_path / "traces"
    folder.mkdir()
    for trace in (1, 2, 3):
        write(folder / f"{trace}.jsonl", document(*one_request(trace), resource=RESOURCE))
    return folder


Run = Callable[..., tuple[int, str, str]]


def report(run: Run, *words: object) -> dict[str, Any]:
    code, out, err = run("analyze", *words, "--format", "json")
    assert (code, err) == (0, "")
    parsed: dict[str, Any] = json.loads(out)
    return parsed


def test_the_json_report_follows_its_schema_and_its_numbers_can_be_worked_out(run: Run, traces: Path) -> None:
    found = report(run, traces)
    schema = json.loads(
        resources.files("vtprof_schemas").joinpath("analyze_report.schema.json").read_text("utf-8")
    )
    jsonschema.Draft202012Validator(schema).validate(found)
    assert found["summary"]["requests"] == 3
    assert (found["summary"]["input_tokens"], found["summary"]["visual_tokens"]) == (300, 240)
    assert found["summary"]["ttft_ms"]["p50"] == 60.0
    assert found["summary"]["tpot_ms"]["p99"] == 10.0
    shares = {row["phase"]: row["share"] for row in found["ttft_budget"]["phases"]}
    assert shares == pytest.approx(
        {"preprocess": 1 / 6, "queue": 1 / 30, "encode": 0.3, "prefill": 28 / 60, "unexplained": 1 / 30}
    )
    assert found["dominance"]["prompt_tokens"] == {"share": 0.8, "threshold": 0.5, "dominant": True}
    assert found["kv"]["bytes_total"] == 3 * 110 * 512
    assert found["kv"]["how"] == "recorded by the probe"
    # Steps of three requests at the same time hold 3 x 105 tokens in decode.
    assert found["kv"]["peak_held_bytes"] == 3 * 105 * 512
    by_modality = {row["modality"]: row["tokens"] for row in found["kv"]["by_modality"]}
    assert by_modality == {"text": 60, "image": 240, "video": 0, "audio": 0, "output": 30}
    phases = {row["phase"]: row for row in found["phases"]}
    assert phases["decode"]["steps"] == 30
    assert all(
        phases[p]["intensity"] > 0 and 0 < phases[p]["floor_ratio"] < 1
        for p in ("encode", "prefill", "decode")
    )
    assert found["deployment"]["cost_model"] is True


def test_the_same_folder_gives_the_same_report(run: Run, traces: Path) -> None:
    assert report(run, traces) == report(run, traces)


def test_by_default_the_report_is_shown_and_written_and_the_last_line_says_where(
    run: Run, traces: Path, tmp_path: Path
) -> None:
    code, out, err = run("analyze", traces)
    assert (code, err) == (0, "")
    assert out.rstrip().splitlines()[-1] == "Full report: report/index.html"
    assert json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))["summary"]["requests"] == 3
    assert (tmp_path / "report" / "index.html").read_text("utf-8").startswith("<!")


def test_without_a_model_the_physics_is_unknown_and_a_note_says_what_supplies_it(
    run: Run, traces: Path, tmp_path: Path
) -> None:
    bare = {
        key: value for key, value in RESOURCE.items() if key not in (names.MODEL_CONFIG, names.WEIGHTS_DTYPE)
    }
    path = write(tmp_path / "bare.jsonl", document(*one_request(1), resource=bare))
    found = report(run, path)
    assert found["dominance"]["prefill_flops"]["share"] is None
    assert found["phases"][0]["intensity"] is None
    assert any(names.MODEL_CONFIG in note for note in found["deployment"]["notes"])
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(CONFIG))
    supplied = report(run, path, "--model", tmp_path / "m")
    assert (
        supplied["dominance"]["prefill_flops"]["share"]
        == report(run, traces)["dominance"]["prefill_flops"]["share"]
    )


def test_a_recorded_device_that_nobody_knows_is_a_note_and_a_typed_one_an_error(
    run: Run, tmp_path: Path
) -> None:
    odd = RESOURCE | {names.HW_NAME: "Frobnicator 9"}
    path = write(tmp_path / "odd.jsonl", document(*one_request(1), resource=odd))
    found = report(run, path)
    assert {row["bound"] for row in found["phases"] if row["phase"] in ("prefill", "decode")} == {
        "insufficient_data"
    }
    assert any("Frobnicator 9" in note for note in found["deployment"]["notes"])
    code, out, err = run("analyze", path, "--device", "H20000")
    assert (code, out) == (2, "")
    assert err.startswith("vtprof: --device H20000: not one device of the table; did you mean ")
    assert err.count("\n") == 1
    code, out, err = run("analyze", path, "--device", "bogus")
    assert (code, out) == (2, "")
    assert err == (
        "vtprof: --device bogus: not one device of the table; it has NVIDIA H100 SXM 80GB, NVIDIA H200 SXM,"
        " AMD Instinct MI300X and 50 more; --list-devices names all\n"
    )


def test_every_known_device_can_be_listed_without_traces(run: Run) -> None:
    code, out, err = run("analyze", "--list-devices")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 53
    assert "NVIDIA H200 SXM" in out.splitlines()


def test_a_device_that_was_named_is_not_asked_for_again(run: Run, tmp_path: Path) -> None:
    on_cpu = RESOURCE | {
        names.HW_NAME: "AMD EPYC", names.DEVICE_KIND: "cpu", names.WEIGHTS_DTYPE: "float32", names.KV_DTYPE: "float32",
    }  # fmt: skip
    path = write(tmp_path / "cpu.jsonl", document(*one_request(1), resource=on_cpu))
    text = " ".join(run("analyze", path, "--device", "L20", "--format", "terminal")[1].split())
    assert "NVIDIA L20 has no float32 roof in the device table" in text
    assert "name it with --device" not in text
    assert "times were recorded on AMD EPYC; --device names NVIDIA L20" in text
    alone = " ".join(run("analyze", path, "--format", "terminal")[1].split())
    assert "record with `vtprof-agent exec --calibrate-host`" in alone
    assert "--device" not in alone


def test_the_roof_of_another_device_is_said_and_no_verdict_is_sure(run: Run, traces: Path) -> None:
    found = report(run, traces, "--device", "H100 PCIe")
    assert (
        "times were recorded on NVIDIA H200; the roof is NVIDIA H100 PCIe's" in found["deployment"]["notes"]
    )
    judged = [row for row in found["phases"] if row["floor_ratio"] is not None]
    assert judged and {row["confidence"] for row in judged} == {"low"}
    same = report(run, traces, "--device", "H200 SXM")["deployment"]["notes"]
    assert not any("times were recorded" in note for note in same)


def test_a_family_without_cost_model_has_one_reason_and_its_steps(run: Run, tmp_path: Path) -> None:
    other = RESOURCE | {names.MODEL_CONFIG: json.dumps({"model_type": "unheard_of"})}
    path = write(tmp_path / "other.jsonl", document(*one_request(1), resource=other))
    found = report(run, path)
    reason = "no cost model for unheard_of yet: FLOPs, bytes and verdicts are not known"
    assert found["deployment"]["no_cost"] == reason
    assert found["deployment"]["notes"].count(reason) == 1
    phases = {row["phase"]: row for row in found["phases"]}
    assert {name: phases[name]["steps"] for name in ("encode", "prefill", "decode")} == {
        "encode": 1, "prefill": 1, "decode": 10,
    }  # fmt: skip
    assert phases["decode"]["explanation"] == f"decode is not judged: {reason}"
    assert found["kv"]["how"] == "recorded by the probe"
    text = " ".join(run("analyze", path, "--format", "terminal")[1].split())
    assert "--model" not in text
    assert "both work and time" not in text


def test_a_family_put_together_from_its_sections_is_judged_and_says_so(run: Run, tmp_path: Path) -> None:
    config = {
        "model_type": "unheard_of",
        "text_config": {"model_type": "llama"},
        "vision_config": {"model_type": "siglip_vision_model"},
    }
    other = RESOURCE | {names.MODEL_CONFIG: json.dumps(config)}
    found = report(run, write(tmp_path / "other.jsonl", document(*one_request(1), resource=other)))
    assert found["deployment"]["no_cost"] is None
    assert any("unheard_of is not known: put together" in note for note in found["deployment"]["notes"])


def test_a_bundled_name_stands_for_its_config(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", document(*one_request(1), resource=RESOURCE))
    found = report(run, path, "--model", "Qwen2.5-VL-7B")
    assert found["deployment"]["model_type"] == "qwen2_5_vl"
    assert any(note.startswith("--model replaces") for note in found["deployment"]["notes"])


def test_a_config_without_model_type_is_one_line_and_one_that_replaces_another_is_noted(
    run: Run, traces: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    code, out, err = run("analyze", traces, "--model", tmp_path / "config.json")
    assert (code, out) == (2, "")
    assert "model_type is missing" in err and err.count("\n") == 1
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 3}))
    notes = report(run, traces, "--model", tmp_path)["deployment"]["notes"]
    assert any(note.startswith("--model replaces the recorded config") for note in notes)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    notes = report(run, traces, "--model", tmp_path)["deployment"]["notes"]
    assert not any("replaces" in note for note in notes)


def test_work_above_the_roof_is_noted(run: Run, tmp_path: Path) -> None:
    slow = RESOURCE | {names.DEVICE_PEAK_FLOPS: 1e6, names.DEVICE_BANDWIDTH: 1e6}
    path = write(tmp_path / "slow.jsonl", document(*one_request(1), resource=slow))
    found = report(run, path)
    assert any(
        note.startswith("prefill ran at ") and "the ceiling was measured too low" in note
        for note in found["deployment"]["notes"]
    )
    assert {row["confidence"] for row in found["phases"] if row["floor_ratio"]} == {"low"}


def test_rules_that_did_not_fire_are_in_the_document_with_their_reason(run: Run, traces: Path) -> None:
    found = report(run, traces)
    silent = {rule["rule"]: rule["status"] for rule in found["not_fired"]}
    counted = found["rules"]
    assert len(silent) == sum(counted.values()) - counted["fired"]
    assert silent["DAT001"] == "insufficient_data"
    assert all(rule["reason"] for rule in found["not_fired"])


def empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"


def only_logs(folder: Path) -> Path:
    return write(folder / "logs.jsonl", {"resourceLogs": [{"scopeLogs": [{"logRecords": [{}]}]}]})


def only_foreign_spans(folder: Path) -> Path:
    return write(folder / "foreign.jsonl", document(span("GET /", 0, 5)))


def empty_file(folder: Path) -> Path:
    return write(folder / "empty.jsonl", end="")


def only_garbage(folder: Path) -> Path:
    return write(folder / "garbage.jsonl", "hello", "world")


@pytest.mark.parametrize(
    "make",
    [
        empty_folder,
        only_logs,
        only_foreign_spans,
        empty_file,
        only_garbage,
        lambda folder: folder / "missing",
    ],
)
def test_input_without_anything_to_analyze_is_one_line_and_exit_2(
    run: Run, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    code, out, err = run("analyze", path)
    assert (code, out) == (2, "")
    assert err.startswith(f"vtprof: {path}: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [
        ["--format", "pdf"],
        ["--format", ""],
        ["--model", "no-such-folder"],
        ["--rules", "no-such-folder"],
        ["--db", "no-such-folder/x.db"],
        ["--fail-on", "extreme"],
        ["--slo-ttft-ms", "soon"],
    ],
)
def test_a_flag_that_cannot_be_used_is_exit_2_without_a_traceback(
    run: Run, traces: Path, words: list[str]
) -> None:
    code, out, err = run("analyze", traces, *words)
    assert (code, out) == (2, "")
    assert "Traceback" not in err and err


def test_faults_beside_valid_data_are_counted_and_the_data_is_analyzed(run: Run, traces: Path) -> None:
    backwards = request(90, 20, {names.TTFT_NS: 5}, trace=50)
    endless = request(0, None, trace=51, queue=(0, 9))
    odd = request(0, 9, {"my.own": 1, names.INPUT_TOKENS: 4}, trace=52)
    orphan = [span(names.PHASE_SPANS[names.QUEUE], 0, 5, trace=53, span_id=2, parent=1)]
    write(
        traces / "faults.jsonl",
        document(*backwards, *endless, *odd, *orphan, span("GET /", 0, 1, trace=54), resource=RESOURCE),
        "not json",
        {"resourceLogs": [{"scopeLogs": [{"logRecords": [{}, {}]}]}]},
        line(document(*one_request(1), resource=RESOURCE)),
        '{"resourceSpans": [{"resou',
        end="",
    )
    (traces / "README.txt").write_text("not a trace")
    found = report(run, traces)["integrity"]
    expected = {
        "files_read": 4, "files_skipped": 1, "malformed_lines": 1, "truncated_lines": 1, "duplicates": 8, "orphans": 1,
        "end_missing": 1, "negative_duration": 1, "unknown_attributes": 1, "ignored_spans": 1, "ignored_signals": 2,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    named = {(Path(note["file"]).name, note["line"]) for note in found["notes"]}
    assert {("faults.jsonl", 2), ("faults.jsonl", 5)} <= named


def test_fail_on_turns_a_finding_into_exit_1(run: Run, tmp_path: Path) -> None:
    # 24 requests of 60 ms TTFT whose phases cover 10 ms: DAT001 (medium, from 20 requests on) has to fire.
    spans = [
        part
        for trace in range(1, 25)
        for part in request(0, 160 * MS, {names.TTFT_NS: 60 * MS}, trace=trace, preprocess=(0, 10 * MS))
    ]
    traces = write(tmp_path / "gaps.jsonl", document(*spans, resource=RESOURCE))
    assert [finding["rule"] for finding in report(run, traces)["findings"]] == ["DAT001"]
    exits = {
        level: run("analyze", traces, "--format", "json", "--fail-on", level)[0]
        for level in ("low", "medium", "high")
    }
    assert exits == {"low": 1, "medium": 1, "high": 0}


def test_objectives_are_judged_and_failed_requests_miss_them(run: Run, traces: Path) -> None:
    aborted = request(0, 9 * MS, {names.REQUEST_STATUS: names.STATUS_ABORTED}, trace=60)
    write(traces / "aborted.jsonl", document(*aborted, resource=RESOURCE))
    slo = report(run, traces, "--slo-ttft-ms", 60, "--slo-tpot-ms", 9)["slo"]
    assert (slo["ttft_attainment"], slo["tpot_attainment"], slo["goodput_share"]) == (0.75, 0.0, 0.0)


def test_db_keeps_the_tables_and_is_never_written_over_a_foreign_file(
    run: Run, traces: Path, tmp_path: Path
) -> None:
    import duckdb

    for _ in range(2):
        assert run("analyze", traces, "--format", "json", "--db", tmp_path / "run.db")[0] == 0
    with duckdb.connect(str(tmp_path / "run.db"), read_only=True) as db:
        assert db.execute("SELECT count(*) FROM requests").fetchall() == [(3,)]
        ((comment,),) = db.execute(
            "SELECT comment FROM duckdb_tables() WHERE table_name = 'queue_blame'"
        ).fetchall()
        assert comment.startswith("One row: ") and "capacity" in comment
    (tmp_path / "mine.txt").write_text("precious")
    code, _, err = run("analyze", traces, "--format", "json", "--db", tmp_path / "mine.txt")
    assert code == 2 and "mine.txt" in err
    assert (tmp_path / "mine.txt").read_text() == "precious"


@pytest.fixture
def this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of its own: a CPU that no table knows, of which this process may use four CPUs."""
    monkeypatch.setattr("vtprof_analyzer.devices.host.cpu_name", lambda: "Frobnicator 9")
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3})


ON_CPU = RESOURCE | {
    names.HW_NAME: "Frobnicator 9", names.DEVICE_KIND: "cpu", names.WEIGHTS_DTYPE: "float32", names.KV_DTYPE: "float32",
}  # fmt: skip


def calibrated(cores: int, peak: float = 2e11) -> None:
    entry = {
        "device": "Frobnicator 9", "kind": "cpu", "dtype": "float32", "peak_flops_per_s": peak,
        "bandwidth_bytes_per_s": 2e10, "measured_at": "2026-11-20T10:00:00Z", "torch_version": "2.13.0",
        "method": "best burst", "cores": cores,
    }  # fmt: skip
    file = calibration_file()
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"schema_version": 1, "entries": [entry]}))


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.mark.parametrize("name", ["host", " CPU "])
def test_this_machines_cpu_is_a_device_with_the_roof_that_was_measured_on_it(
    run: Run, tmp_path: Path, this_cpu: None, home: None, name: str
) -> None:
    calibrated(4)
    path = write(tmp_path / "cpu.jsonl", document(*one_request(1), resource=ON_CPU))
    found = report(run, path, "--device", name)["deployment"]
    assert found["roof"]["kind"] == "attainable"
    assert (found["roof"]["peak_flops_per_s"], found["roof"]["bandwidth_bytes_per_s"]) == (2e11, 2e10)
    said = f"--device {name.strip()}: this machine's CPU, Frobnicator 9 on 4 cores"
    assert found["notes"].count(said) == 1
    assert not any("times were recorded" in note for note in found["notes"])


def test_the_roof_of_this_machine_is_doubted_for_times_of_another(
    run: Run, traces: Path, tmp_path: Path, this_cpu: None, home: None
) -> None:
    calibrated(4)
    float32 = RESOURCE | {names.WEIGHTS_DTYPE: "float32", names.KV_DTYPE: "float32"}
    for resource, said in (
        (float32, "times were recorded on NVIDIA H200; the roof is Frobnicator 9's"),
        (
            ON_CPU | {names.DEVICE_CORES: 64},
            "times were recorded on 64 cores of Frobnicator 9; --device names 4 of them",
        ),
    ):
        path = write(tmp_path / "other.jsonl", document(*one_request(1), resource=resource))
        found = report(run, path, "--device", "host")
        assert said in found["deployment"]["notes"]
        judged = [row for row in found["phases"] if row["floor_ratio"] is not None]
        assert judged and {row["confidence"] for row in judged} == {"low"}


def test_groups_of_processes_share_the_roof_of_this_machine(
    run: Run, tmp_path: Path, this_cpu: None, home: None
) -> None:
    import duckdb

    calibrated(2)  # one thread for each core, of which this process sees two CPUs
    deeper = ON_CPU | {names.MODEL_CONFIG: json.dumps(CONFIG | {"num_hidden_layers": 3})}
    folder = tmp_path / "two"
    folder.mkdir()
    write(folder / "a.jsonl", document(*one_request(1), resource=ON_CPU))
    write(
        folder / "b.jsonl",
        document(*one_request(2), resource=deeper | {names.SERVICE_INSTANCE_ID: "ring-2"}),
    )
    report(run, folder, "--device", "host", "--db", tmp_path / "run.duckdb")
    with duckdb.connect(str(tmp_path / "run.duckdb"), read_only=True) as db:
        assert db.execute("SELECT DISTINCT peak_flops_per_s FROM step_cost").fetchall() == [(2e11,)]


def test_a_machine_that_nobody_measured_has_no_roof_and_one_line_that_says_what_gives_one(
    run: Run, tmp_path: Path, this_cpu: None, home: None
) -> None:
    path = write(tmp_path / "cpu.jsonl", document(*one_request(1), resource=ON_CPU))
    found = report(run, path, "--device", "host")["deployment"]
    assert found["roof"] is None
    assert sum("or run `vtprof calibrate` on that machine" in note for note in found["notes"]) == 1
    assert not any("name one with --device" in note for note in found["notes"])


def test_a_name_that_fits_several_devices_is_taken_as_one_and_noted(run: Run, traces: Path) -> None:
    found = report(run, traces, "--device", "A100")["deployment"]
    assert sum(note.startswith("A100: taken as NVIDIA A100 SXM") for note in found["notes"]) == 1
    assert found["roof"]["peak_flops_per_s"] == 312e12


def test_a_slice_of_a_gpu_that_is_not_named_says_so(run: Run, traces: Path) -> None:
    code, out, err = run("analyze", traces, "--device", "MIG 1g.5gb")
    assert (code, out) == (2, "")
    assert err.startswith(
        "vtprof: --device 'MIG 1g.5gb' is a MIG slice of a GPU that is not named: give both,"
    )
    assert err.count("\n") == 1


TEXT_ONLY = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 300, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_a_text_only_model_over_traces_with_images_is_said(run: Run, traces: Path, tmp_path: Path) -> None:
    def noted(*words: object) -> list[str]:
        notes: list[str] = report(run, *words)["deployment"]["notes"]
        return [note for note in notes if "encode has no cost" in note]

    assert noted(traces, "--model", "Qwen3-8B") == [
        "--model Qwen3-8B is a text-only model: encode has no cost"
    ]
    assert noted(traces) == []
    recorded = RESOURCE | {names.MODEL_CONFIG: json.dumps(TEXT_ONLY)}
    images = write(tmp_path / "images.jsonl", document(*one_request(1), resource=recorded))
    assert noted(images) == ["llama is a text-only model: encode has no cost"]
    text = write(tmp_path / "text.jsonl", document(*one_request(1, visual=0), resource=recorded))
    assert noted(text) == []
    assert noted(text, "--model", "Qwen3-8B") == []
