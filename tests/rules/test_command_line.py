"""Advice comes as a line that can be pasted."""

from vtprof_rules.command_line import command_line


def test_flags_follow_the_launcher_and_json_is_quoted() -> None:
    line = command_line(
        {"--mm-processor-kwargs": '{"max_pixels": 501760}', "--mm-encoder-only": True}, "vllm"
    )
    assert line == "vllm serve … --mm-processor-kwargs '{\"max_pixels\": 501760}' --mm-encoder-only"


def test_a_flag_that_is_off_gets_its_negative() -> None:
    assert command_line({"--enable-x": False}, None) == "… --no-enable-x"


def test_a_library_gets_python_keywords() -> None:
    line = command_line({"size": '{"longest_edge": 501760}', "backend": "torchvision"}, "transformers")
    assert line == "size={'longest_edge': 501760}, backend='torchvision'"


def test_environment_variables_stand_first() -> None:
    line = command_line({"--workers": 2, "SGLANG_VLM_CACHE_SIZE_MB": 400}, "sglang")
    assert line == "SGLANG_VLM_CACHE_SIZE_MB=400 python -m sglang.launch_server … --workers 2"


def test_without_settings_there_is_no_line() -> None:
    assert command_line({}, "vllm") is None
