"""Stands for what SGLang's tokenizer manager is made of: its calls, its media processor, its dispatcher of results."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

MODEL_CONFIG = SimpleNamespace(
    hf_config=SimpleNamespace(to_dict=lambda: {"model_type": "qwen2_5_vl"}, to_diff_dict=dict),
    dtype="torch.bfloat16",
)


class GenerateReqInput:
    def __init__(self, rid: Any = None, stream: bool = True, n: int = 1, bad: bool = False) -> None:
        self.rid, self.stream, self.parallel_sample_num, self.bad = rid, stream, n, bad
        self.external_trace_header = None
        self.batch_size = 1

    def normalize_batch_and_arguments(self) -> None:
        if self.bad:
            raise ValueError("Either text, input_ids or input_embeds should be provided.")
        if self.parallel_sample_num > 1:
            self.rid = [self.rid or uuid.uuid4().hex]
        elif self.rid is None:
            self.rid = uuid.uuid4().hex

    def regenerate_rid(self) -> str:
        self.rid = uuid.uuid4().hex
        return self.rid


class AbortReq:
    def __init__(self, rid: str, finished_reason: Any = None) -> None:
        self.rid, self.finished_reason = rid, finished_reason


class TypeBasedDispatcher:
    def __init__(self, handlers: dict[type, Callable[[Any], Any]]) -> None:
        self.handlers = handlers

    def __call__(self, obj: Any) -> Any:
        return self.handlers[type(obj)](obj)


class BaseMultimodalProcessor:
    async def load_mm_data(self, images: list[Any]) -> Any:
        await asyncio.sleep(0)
        return SimpleNamespace(images=images)

    def process_mm_data(self, images: list[Any]) -> None: ...


class TokenizerManager:
    """Tokenizes, sends, and is told the results by the test."""

    def __init__(self) -> None:
        self.rid_to_state: dict[str, Any] = {}
        self.sent: list[Any] = []
        self.mm_processor = BaseMultimodalProcessor()
        # Bound here, as SGLang binds it: a hook on the class's method would come too late on a running server.
        self.result_dispatcher = TypeBasedDispatcher({AbortReq: self._handle_abort_req})
        self.server_args = SimpleNamespace(model_path="org/tiny", tp_size=1)
        self.model_config = MODEL_CONFIG
        self.prompts: dict[str, tuple[int, list[Any], list[Any]]] = {}
        """By rid of the client: prompt tokens, media items, images."""

    async def generate_request(self, obj: GenerateReqInput, request: Any = None) -> AsyncIterator[Any]:
        obj.normalize_batch_and_arguments()
        if obj.parallel_sample_num == 1:
            await self._send_one_request(await self._tokenize_one_request(obj))
        else:
            async for out in self._handle_batch_request(obj, request):
                yield out
        yield {}

    async def _handle_batch_request(self, obj: GenerateReqInput, request: Any) -> AsyncIterator[Any]:
        one = GenerateReqInput(obj.rid[0], obj.stream)
        tokenized = await self._tokenize_one_request(one)
        for sample in range(obj.parallel_sample_num + 1):
            child = GenerateReqInput(one.rid, obj.stream)
            sent = SimpleNamespace(**vars(tokenized))
            sent.rid = child.regenerate_rid()
            sent.sampling_params = SimpleNamespace(max_new_tokens=8 if sample else 0)
            await self._send_one_request(sent)
        yield {}

    async def _tokenize_one_request(self, obj: GenerateReqInput) -> Any:
        tokens, items, images = self.prompts[obj.rid]
        if images:
            await self.mm_processor.load_mm_data(images)
            self.mm_processor.process_mm_data(images)
        if tokens > 1000:
            raise ValueError("The input is longer than the model's context length")
        mm_inputs = SimpleNamespace(mm_items=items) if items else None
        return SimpleNamespace(
            rid=obj.rid, input_ids=[0] * tokens, mm_inputs=mm_inputs, stream=obj.stream,
            sampling_params=SimpleNamespace(max_new_tokens=8),
        )  # fmt: skip

    async def _send_one_request(self, tokenized_obj: Any) -> None:
        self.rid_to_state[tokenized_obj.rid] = SimpleNamespace(output_ids=[])
        self.sent.append(tokenized_obj)

    async def _send_batch_request(self, tokenized_objs: list[Any]) -> None: ...

    async def _handle_batch_output(self, recv_obj: Any) -> None: ...

    def _handle_abort_req(self, recv_obj: AbortReq) -> None:
        del self.rid_to_state[recv_obj.rid]
