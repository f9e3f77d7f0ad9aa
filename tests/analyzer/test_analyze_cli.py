"""`vtprof analyze` as a user runs it: exit codes, one line for a mistake, the same report every time."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from analyze_run import CONFIG, MS, RESOURCE, Run, one_request, report
from otlp_builder import document, line, request, span, write

from vtprof_schemas import names


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


def test_the_model_that_the_user_names_is_that_of_every_process_and_the_help_says_so(
    run: Run, tmp_path: Path
) -> None:
    named, other = CONFIG | {"num_hidden_layers": 3}, CONFIG | {"intermediate_size": 256}
    configs = {"recorded": (CONFIG, other), "as_named": (named, named)}
    paths = {}
    for name, pair in configs.items():
        lines = [
            document(
                *one_request(number),
                resource=RESOURCE
                | {names.SERVICE_INSTANCE_ID: f"p{number}", names.MODEL_CONFIG: json.dumps(config)},
            )
            for number, config in enumerate(pair, start=1)
        ]
        paths[name] = write(tmp_path / f"{name}.jsonl", *lines)
    (tmp_path / "config.json").write_text(json.dumps(named))
    found, wanted = report(run, paths["recorded"], "--model", tmp_path), report(run, paths["as_named"])
    assert found["phases"] == wanted["phases"] != report(run, paths["recorded"])["phases"]
    assert (
        "--model replaces 2 recorded configs: qwen2_5_vl in place of qwen2_5_vl, not the same settings"
        in (found["deployment"]["notes"])
    )
    text = " ".join(run("analyze", "--help")[1].replace("│", " ").split())
    assert "in place of configs that the traces hold" in text


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


def test_spans_left_out_and_values_of_another_type_are_told_in_every_format(run: Run, tmp_path: Path) -> None:
    lines = [document(*one_request(trace), resource=RESOURCE) for trace in range(1, 6)]
    # Three requests with a TTFT beyond 64 bits; two of them have no time, and are left out with it.
    for trace in (6, 7, 8):
        (made,) = request(0, 9 * MS, trace=trace)
        made["attributes"].append({"key": names.TTFT_NS, "value": {"intValue": "9" * 23}})
        if trace < 8:
            made["startTimeUnixNano"] = "-5"
        lines.append(document(made, resource=RESOURCE))
    path = write(tmp_path / "t.jsonl", *lines)
    code, out, err = run("analyze", path, "--format", "terminal,html,json,markdown")
    assert (code, err) == (0, "")
    written = {file.suffix: file.read_text("utf-8") for file in (tmp_path / "report").iterdir()}
    integrity = json.loads(written.pop(".json"))["integrity"]
    assert (integrity["dropped_spans"], integrity["values_out_of_range"]) == (2, 1)
    assert sorted(written) == [".html", ".md"]
    for text in (out, *written.values()):
        words = " ".join(text.split())
        assert "spans left out: 2, no valid id, name or time, or of a newer version" in words
        assert "values nothing real has: 1, taken as unknown: out of range, or of another type" in words


def test_fail_on_turns_a_finding_into_exit_1(run: Run, tmp_path: Path) -> None:
    # 24 requests of 60 ms TTFT whose phases cover 10 ms: DAT001 (medium, from 20 requests on) has to fire.
    spans = [
        part
        for trace in range(1, 25)
        for part in request(0, 160 * MS, {names.TTFT_NS: 60 * MS}, trace=trace, preprocess=(0, 10 * MS))
    ]
    traces = write(tmp_path / "gaps.jsonl", document(*spans, resource=RESOURCE))
    # All at once, which is short (DAT003, info).
    assert [finding["rule"] for finding in report(run, traces)["findings"]] == ["DAT001", "DAT003"]
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
    # Its tables are a run's, no traces: the line says what is.
    code, out, err = run("analyze", tmp_path / "run.db")
    assert (code, out) == (2, "") and err == (
        f"vtprof: {tmp_path / 'run.db'}: a database that `vtprof analyze --db` wrote, no traces; give what it was made of"
        f" ({traces / '1.jsonl'} and 2 others), or have `vtprof compare` read it\n"
    )
    # Beside traces it is left out.
    found = report(run, traces, tmp_path / "run.db")
    assert found["summary"]["requests"] == 3
    said = "a database that `vtprof analyze --db` wrote, no traces; left out"
    assert [note["what"] for note in found["integrity"]["notes"]] == [said]
    fields = ("files_read", "files_skipped", "damaged_files")
    assert [found["integrity"][field] for field in fields] == [3, 1, 0]
    with duckdb.connect(str(tmp_path / "other.db")) as db:
        db.execute("CREATE VIEW ingest_files AS SELECT 'x' AS file")
    (traces / "other.json").write_bytes((tmp_path / "other.db").read_bytes())
    found = report(run, traces)
    assert [note["what"] for note in found["integrity"]["notes"]] == [
        "a DuckDB database, no traces; left out"
    ]
    assert [found["integrity"][field] for field in fields] == [3, 1, 0]
    assert "damaged" not in run("analyze", traces, "--format", "terminal")[1]
    (traces / "other.json").unlink()
    code, _, err = run("analyze", tmp_path / "other.db")
    assert code == 2 and err.endswith("other.db: a DuckDB database, no traces; point to OTLP traces\n")
    (tmp_path / "mine.txt").write_text("precious")
    code, _, err = run("analyze", traces, "--format", "json", "--db", tmp_path / "mine.txt")
    assert code == 2 and "mine.txt" in err
    assert (tmp_path / "mine.txt").read_text() == "precious"


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
