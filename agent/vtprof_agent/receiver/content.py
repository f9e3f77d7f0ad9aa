"""Which attributes and events of a received span carry what users wrote, showed or were answered: those go no further.

By key, as the conventions of OpenTelemetry (gen_ai), OpenLLMetry (llm, traceloop), OpenInference, Langfuse, MLflow and
the Vercel AI SDK name them; by value, whatever the key: data URLs, long runs of base64, and long text, unless the key
is one of those that are long by nature and written by no user. Texts of errors go as well: they repeat what failed.
"""

import re
from typing import Any, Final

_WORDS: Final = frozenset(
    ("prompt", "prompts", "completion", "completions", "content", "contents", "messages", "input_messages",
     "output_messages", "system_instructions", "prompt_template", "prompt_token_ids", "token_ids", "input_ids",
     "output_ids", "transcript", "embeddings", "embedding", "documents", "input_documents", "output_documents",
     "images", "audio", "spaninputs", "spanoutputs", "toolcalls", "toolcall", "tool_calls", "function_call", "definitions",
     "functions", "tools", "arguments", "all_messages_events", "request_data", "response_data", "body")
)  # fmt: skip
"""Parts of a key between dots, each of which makes its value content."""
_LAST: Final = frozenset(
    ("prompt", "prompts", "prompt_text", "system_prompt", "question", "query", "answer", "text", "message", "content",
     "input", "inputs", "output", "outputs", "completion", "completions", "llm_request", "llm_response", "request_body",
     "response_body", "body", "stacktrace")
)  # fmt: skip
"""The same of the last part, an index aside."""
_LONG: Final = frozenset(
    ("gen_ai.request.id", "gen_ai.request.model", "gen_ai.response.model", "gen_ai.response.finish_reasons",
     "vtprof.model.config", "vtprof.engine.config",
     "code.filepath", "code.file.path", "code.function", "code.function.name", "code.namespace",
     "process.command", "process.command_line", "process.command_args", "process.executable.path",
     "process.runtime.description", "process.runtime.version", "service.name", "service.version", "os.description",
     "container.image.name", "container.image.repo_digests", "user_agent.original", "http.user_agent")
)  # fmt: skip
"""Keys whose text may be of any length: of models, configurations and versions."""
_MOST_TEXT: Final = 256
"""Characters of any other text: room for names, paths, ids and states."""
_ENDS: Final = (
    "input.value", "output.value", "input.images", "output.images", "image.url", "audio.url", "gen_ai.input",
    "gen_ai.output", "gen_ai.tool.call.result", "gen_ai.evaluation.explanation", "traceloop.entity.input",
    "traceloop.entity.output", "langfuse.observation.input", "langfuse.observation.output", "langfuse.trace.input",
    "langfuse.trace.output", "ai.value", "ai.values", "ai.response.text", "ai.response.object", "ai.response.reasoning",
    "llm.request", "llm.response", "query.text", "reranker.query", "tool.parameters", "tool.output", "tool.input",
)  # fmt: skip
_BEGINS: Final = ("traceloop.association.properties.", "traceloop.prompt.")
_EVENT: Final = re.compile(
    r"gen_ai\.(content\.|(system|user|assistant|tool)\.message|choice|client\.inference\.operation\.details).*"
    r"|([\w.]+\.)?(prompt|completion)s?",
    re.IGNORECASE | re.DOTALL,
)
_DATA_URL: Final = re.compile(r"data:[\w.+-]+/[\w.+-]+[^,]{0,100};base64,", re.IGNORECASE)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_=-]{512}")
_NAME: Final = re.compile(r"[\w.:/@#-]{1,64}( [\w.:/@#-]{1,32}){0,2}", re.ASCII)
_MOST_BYTES: Final = 64
"""Of a value of bytes: room for any id or digest."""


def is_content(key: str, value: Any) -> bool:
    """Tell whether an attribute carries content; a single number never does."""
    if value is None or isinstance(value, bool | int | float):
        return False
    key = key.lower()
    return _content_key(key) or _content_value(value, key in _LONG)


def is_content_event(name: str) -> bool:
    """Tell whether an event exists to carry content."""
    return _EVENT.fullmatch(name) is not None


def is_free_text(name: str) -> bool:
    """Tell whether what should be a name is not one of at most three words: somebody's text, or text with values in it."""
    return bool(name) and _NAME.fullmatch(name) is None


def is_content_text(text: str, may_be_long: bool = False) -> bool:
    """Tell whether a text is too long for a name, or carries an image or other data."""
    if len(text) > _MOST_TEXT and not may_be_long:
        return True
    if len(text) < 20:
        return False
    # Lines of base64 are joined: prose has spaces.
    return _DATA_URL.search(text) is not None or (
        len(text) >= 512 and _BASE64.search(re.sub(r"\\?[\r\n]|\\[rn]", "", text)) is not None
    )


def _content_key(key: str) -> bool:
    parts = key.split(".")
    last = next((part for part in reversed(parts) if not part.isdecimal()), "")
    return last in _LAST or not _WORDS.isdisjoint(parts) or key.endswith(_ENDS) or key.startswith(_BEGINS)


def _content_value(value: Any, may_be_long: bool) -> bool:
    if isinstance(value, str):
        return is_content_text(value, may_be_long)
    if isinstance(value, bytes):
        return len(value) > _MOST_BYTES
    if isinstance(value, list):
        return any(_content_value(one, may_be_long) for one in value)
    if isinstance(value, dict):
        return any(is_content(key, one) for key, one in value.items())
    return False
