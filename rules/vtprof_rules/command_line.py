"""The line to paste for a piece of advice: flags for a server, ``name=value`` for a library."""

import json
import shlex
from collections.abc import Mapping

LAUNCHERS: Mapping[str, str] = {"vllm": "vllm serve …", "sglang": "python -m sglang.launch_server …"}


def command_line(settings: Mapping[str, object], engine: str | None) -> str | None:
    """Return the settings as one line for this engine; ``None`` when there are none.

    Upper-case names are environment variables, names with a dash are flags, others are keyword arguments.
    """
    if not settings:
        return None
    flags = [_flag(name, value) for name, value in settings.items() if name.startswith("-")]
    variables = [
        f"{name}={shlex.quote(_word(value))}" for name, value in settings.items() if _is_variable(name)
    ]
    keywords = {
        name: value for name, value in settings.items() if not name.startswith("-") and not _is_variable(name)
    }
    if keywords and not flags and not variables:
        return ", ".join(f"{name}={_literal(value)}" for name, value in keywords.items())
    words = [shlex.quote(f"{name}={_word(value)}") for name, value in keywords.items()]
    return " ".join([*variables, LAUNCHERS.get(engine or "", "…"), *flags, *words])


def _flag(name: str, value: object) -> str:
    if value is True:
        return shlex.quote(name)
    if value is False:
        return shlex.quote(f"--no-{name.lstrip('-')}")
    return f"{shlex.quote(name)} {shlex.quote(_word(value))}"


def _is_variable(name: str) -> bool:
    return name.isupper() and name.replace("_", "").isalnum()


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _literal(value: object) -> str:
    """Return Python source: a string that holds a JSON object stands for that dict."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return repr(json.loads(value))
        except ValueError:
            pass
    return repr(value)
