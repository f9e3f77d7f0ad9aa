"""vLLM's front end in miniature, in the shapes of two eras: modules, classes, signatures and who calls whom."""

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from asgi_double import Starlette

POOL = ThreadPoolExecutor(2)


class VLLMClientError(Exception):
    """As in vLLM since 0.24: the base of refusals."""


class EngineDeadError(Exception):
    """As in vLLM."""


class ErrorResponse:
    """As in the older versions: the serving layer's answer to a request that it refuses."""

    def __init__(self, message: str, code: int = 400) -> None:
        self.error = SimpleNamespace(message=message, code=code)


class Mask(list[bool]):
    """A row of flags, as `is_embed` is a tensor of them."""

    def sum(self) -> int:
        return sum(flag for flag in self)


class Range:
    """A placeholder of an item, tags included, and which of its positions the item's features fill."""

    def __init__(self, offset: int, length: int, tags: int) -> None:
        self.offset, self.length = offset, length
        self.is_embed = Mask([False] * tags + [True] * (length - tags))


class Items:
    """Parsed images of one modality."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self.sizes = sizes

    def get_count(self) -> int:
        return len(self.sizes)

    def get_image_size(self, index: int) -> Any:
        width, height = self.sizes[index]
        return SimpleNamespace(width=width, height=height)


class DataItems(dict[str, Items]):
    def get_all_counts(self) -> dict[str, int]:
        return {modality: items.get_count() for modality, items in self.items()}


class Cache:
    def __init__(self) -> None:
        self.known: set[str] = set()

    def is_cached(self, hashes: list[str]) -> list[bool]:
        return [text in self.known for text in hashes]


class Detokenizer:
    def __init__(self, stop: list[str]) -> None:
        self.stop, self.output_token_ids = stop, list[int]()


class RequestState:
    def __init__(self, request: Any, parent_req: Any) -> None:
        self.request_id, self.parent_req = request.request_id, parent_req
        self.detokenizer = Detokenizer(request.sampling_params.stop)


def output(request_id: str, tokens: int = 1, finish_reason: str | None = None) -> Any:
    """Return an EngineCoreOutput."""
    return SimpleNamespace(
        request_id=request_id, new_token_ids=list(range(tokens)), finish_reason=finish_reason
    )


class OutputProcessor:
    def __init__(self) -> None:
        self.request_states: dict[str, RequestState] = {}
        self.parent_requests: dict[str, Any] = {}

    def add_request(
        self, request: Any, prompt: Any, parent_req: Any = None, request_index: int = 0, queue: Any = None
    ) -> None:
        self.request_states[request.request_id] = RequestState(request, parent_req)
        if parent_req is not None:
            self.parent_requests[parent_req.request_id] = parent_req

    def process_outputs(
        self, engine_core_outputs: Any, engine_core_timestamp: Any = None, iteration_stats: Any = None
    ) -> Any:
        for out in engine_core_outputs:
            state = self.request_states.get(out.request_id)
            if state is None:
                continue
            state.detokenizer.output_token_ids += out.new_token_ids
            found = state.detokenizer.stop and len(state.detokenizer.output_token_ids) >= 3
            if out.finish_reason is not None or found:
                del self.request_states[out.request_id]

    def abort_requests(self, request_ids: Any) -> list[str]:
        aborted = []
        for id_ in list(request_ids):
            if self.request_states.pop(id_, None) is not None:
                aborted.append(id_)
            elif parent := self.parent_requests.pop(id_, None):
                aborted += self.abort_requests(list(parent.child_requests))
        return aborted

    def propagate_error(self, e: Exception) -> None:
        """Tell every waiting caller."""


class NewOutputProcessor(OutputProcessor):
    """Since 0.14: callers name their own ids, aborts may too."""

    def __init__(self) -> None:
        super().__init__()
        self.external_req_ids: dict[str, list[str]] = {}

    def add_request(
        self, request: Any, prompt: Any, parent_req: Any = None, request_index: int = 0, queue: Any = None
    ) -> None:
        super().add_request(request, prompt, parent_req, request_index, queue)
        self.external_req_ids.setdefault(request.external_req_id, []).append(request.request_id)

    def process_outputs(
        self, engine_core_outputs: Any, engine_core_timestamp: Any = None, iteration_stats: Any = None
    ) -> Any:
        return super().process_outputs(engine_core_outputs)

    def abort_requests(self, request_ids: Any, internal: bool = False) -> list[str]:
        if not internal:
            request_ids = [own for id_ in request_ids for own in self.external_req_ids.pop(id_, [])]
        aborted = []
        for id_ in request_ids:
            if self.request_states.pop(id_, None) is not None:
                aborted.append(id_)
            elif parent := self.parent_requests.pop(id_, None):
                aborted += self.abort_requests(list(parent.child_requests), internal=True)
        return aborted

    def propagate_error(self, e: Exception) -> None:
        """Tell every waiting caller."""


class MediaIO:
    def load_bytes(self, data: bytes) -> Any:
        if not data:
            raise ValueError("Failed to load image")
        return data


class ImageMediaIO(MediaIO):
    def load_bytes(self, data: bytes) -> Any:
        sum(range(200_000))
        return super().load_bytes(data)


class HTTPConnection:
    async def async_get_bytes(self, url: str, *, timeout: Any = None) -> bytes:
        await asyncio.sleep(0)
        return b"bytes"


class MediaConnector:
    def __init__(self) -> None:
        self.connection = HTTPConnection()

    def _load_data_url(self, url_spec: str, media_io: Any) -> Any:
        return media_io.load_bytes(url_spec.partition(",")[2].encode())

    def _load_file_url(self, url_spec: str, media_io: Any) -> Any:
        return media_io.load_bytes(b"file")

    async def load_from_url_async(self, url: str, media_io: Any, *, fetch_timeout: Any = None) -> Any:
        loop = asyncio.get_running_loop()
        if url.startswith("data:"):
            return await loop.run_in_executor(POOL, self._load_data_url, url, media_io)
        data = await self.connection.async_get_bytes(url)
        return await loop.run_in_executor(POOL, media_io.load_bytes, data)


def _placeholders(hashes: list[str]) -> list[Range]:
    # 12 positions of which the tags around the image are none of its own.
    return [Range(4 + 12 * index, 12, tags=2) for index, _ in enumerate(hashes)]


class OldProcessor:
    """`BaseMultiModalProcessor` up to 0.11: media by name, and the missing items as the cache's answer."""

    def __init__(self) -> None:
        self.cache = Cache()

    def _get_cache_missing_items(self, cache: Cache, mm_data_items: Any, mm_hashes: Any) -> Any:
        flags = cache.is_cached(mm_hashes["image"])
        sizes = [size for size, known in zip(mm_data_items["image"].sizes, flags, strict=True) if not known]
        cache.known |= set(mm_hashes["image"])
        return DataItems(image=Items(sizes))

    def apply(self, prompt: Any, mm_data: Any, hf_processor_mm_kwargs: Any = None) -> Any:
        images = [image.size for image in mm_data["image"]]
        hashes = {"image": [image.hash for image in mm_data["image"]]}
        self._get_cache_missing_items(self.cache, DataItems(image=Items(images)), hashes)
        return {"mm_hashes": hashes, "mm_placeholders": {"image": _placeholders(hashes["image"])}}


class NewProcessor(OldProcessor):
    """Since 0.17: one object of all inputs; a table of flags in front of the missing items."""

    def _get_cache_missing_items(self, cache: Cache, mm_data_items: Any, mm_hashes: Any) -> Any:
        flags = {"image": cache.is_cached(mm_hashes["image"])}
        return flags, super()._get_cache_missing_items(cache, mm_data_items, mm_hashes)

    def apply(self, inputs: Any, timing_ctx: Any = None) -> Any:
        hashes = {"image": inputs.hashes}
        self._get_cache_missing_items(self.cache, inputs.mm_data_items, hashes)
        return {"mm_hashes": hashes, "mm_placeholders": {"image": _placeholders(inputs.hashes)}}


class AsyncLLM:
    """The engine client; ``internal_ids`` as since 0.14, where the engine's id is not the caller's."""

    internal_ids = False

    def __init__(self, processor: Any, outputs: OutputProcessor) -> None:
        self.processor, self.output_processor = processor, outputs
        self.submitted: list[str] = []
        self.between = lambda: None

    def process_inputs(self, request_id: str, prompt: Any, params: Any, arrival_time: Any) -> Any:
        """Make an EngineCoreRequest."""
        if len(prompt.ids) > 100:
            raise ValueError(
                f"The decoder prompt (length {len(prompt.ids)}) is longer than the maximum model length of 100."
            )
        features = [
            SimpleNamespace(modality="image", identifier=text, mm_hash=None, mm_position=position)
            for text, position in zip(prompt.hashes, _placeholders(prompt.hashes), strict=True)
        ]
        core = SimpleNamespace(
            request_id=request_id, prompt_token_ids=prompt.ids, mm_features=features or None,
            sampling_params=params, arrival_time=arrival_time or time.time(), lora_request=None, trace_headers=None,
        )  # fmt: skip
        if self.internal_ids:
            core.external_req_id, core.request_id = request_id, f"{request_id}-0a1b2c3d"
        return core

    async def add_request(self, request_id: str, prompt: Any, params: Any, arrival_time: Any = None) -> Any:
        core = self.process_inputs(request_id, prompt, params, arrival_time)
        if params.n == 1:
            self.output_processor.add_request(core, None)
            self.submitted.append(core.request_id)
            return core
        parent = SimpleNamespace(request_id=core.request_id, sampling_params=params, child_requests=set())
        if self.internal_ids:
            parent.external_req_id = core.external_req_id
        for index in range(params.n):
            child = copy(core)
            child.request_id = f"{index}_{parent.request_id}"
            parent.child_requests.add(child.request_id)
            self.output_processor.add_request(child, None, parent, index, None)
            self.submitted.append(child.request_id)
            self.between()
            await asyncio.sleep(0)
        return core


class NewAsyncLLM(AsyncLLM):
    internal_ids = True

    async def add_request(self, request_id: str, prompt: Any, params: Any, arrival_time: Any = None) -> Any:
        return await super().add_request(request_id, prompt, params, arrival_time)


class OpenAIServingChat:
    """Renders in the task of the call, media and processor in threads; refuses by an answer or by raising."""

    raises = False

    def __init__(self, engine: AsyncLLM, connector: MediaConnector) -> None:
        self.engine, self.connector = engine, connector
        self.before_engine = lambda: None

    async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
        return await self._create(request, raw_request)

    async def _create(self, request: Any, raw_request: Any) -> Any:
        headers = {} if raw_request is None else raw_request.headers
        request_id = "chatcmpl-" + (headers.get("X-Request-Id") or request.request_id)
        if request.model == "unknown":
            return ErrorResponse("no such model", 404)
        try:
            for url in request.urls:
                await self.connector.load_from_url_async(url, ImageMediaIO())
            hashes = [image.hash for image in request.images]
            if hashes:
                await asyncio.get_running_loop().run_in_executor(POOL, self.process, request.images)
            await asyncio.sleep(0)
            self.before_engine()
            prompt = SimpleNamespace(ids=list(range(request.tokens)), hashes=hashes)
            params = SimpleNamespace(n=request.n, stop=request.stop)
            if request.stream:
                return self.stream(request_id, prompt, params)
            return await self.engine.add_request(request_id, prompt, params)
        except ValueError as error:
            if self.raises:
                raise VLLMClientError(str(error)) from error
            return ErrorResponse(str(error))

    async def stream(self, request_id: str, prompt: Any, params: Any) -> Any:
        """Hand over when the first item is asked for, as the older versions do."""
        yield await self.engine.add_request(request_id, prompt, params)

    def process(self, images: Any) -> Any:
        """Run the processor as this era calls it."""
        return self.engine.processor.apply("prompt", {"image": images})


class NewOpenAIServingChat(OpenAIServingChat):
    raises = True

    async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
        return await self._create(request, raw_request)

    def process(self, images: Any) -> Any:
        items = DataItems(image=Items([image.size for image in images]))
        return self.engine.processor.apply(
            SimpleNamespace(mm_data_items=items, hashes=[image.hash for image in images])
        )


def image(hash_: str, width: int, height: int) -> Any:
    """Return an image as a caller gives it."""
    return SimpleNamespace(hash=hash_, size=(width, height))


def call(request_id: str = "abc", **changes: Any) -> Any:
    """Return a chat call: 10 text tokens unless changed."""
    known = {"model": "m", "urls": [], "images": [], "tokens": 10, "n": 1, "stop": [], "stream": False}
    return SimpleNamespace(request_id=request_id, **(known | changes))


class Era:
    """The classes of an era in the modules where it has them, each renamed to its real name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        new = version != "0.11.2"
        self.version = version
        self._monkeypatch = monkeypatch
        serving = NewOpenAIServingChat if new else OpenAIServingChat
        engine = NewAsyncLLM if new else AsyncLLM
        outputs = NewOutputProcessor if new else OutputProcessor
        processor = NewProcessor if new else OldProcessor
        openai, multimodal = "vllm.entrypoints.openai.", "vllm.multimodal."
        self._put(openai + ("chat_completion.serving" if new else "serving_chat"), OpenAIServingChat=serving)
        self._put("vllm.v1.engine.async_llm", AsyncLLM=engine)
        self._put("vllm.v1.engine.output_processor", OutputProcessor=outputs)
        self._put("vllm.connections", HTTPConnection=HTTPConnection)
        self._put(multimodal + ("media.connector" if new else "utils"), MediaConnector=MediaConnector)
        self._put(multimodal + ("media.image" if new else "image"), ImageMediaIO=ImageMediaIO)
        self._put(
            multimodal + ("processing.processor" if new else "processing"), BaseMultiModalProcessor=processor
        )
        self.outputs = outputs()
        self.engine = engine(processor(), self.outputs)
        self.serving = serving(self.engine, MediaConnector())
        self._put("starlette.applications", Starlette=Starlette)

    def _put(self, name: str, **classes: type) -> None:
        module = ModuleType(name)
        vars(module).update(classes)
        self._monkeypatch.setitem(sys.modules, name, module)
