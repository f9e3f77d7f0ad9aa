"""One ``generate`` call as requests and steps: a state machine that is fed by the hooks and writes the records.

    generate entry                    forward 2        forward 3              return
    |-- setup, encoder, forward 1, sampling --|-- forward 2, sampling --|-- … --|
    '------------- step 1 (prefill) ----------'-------- step 2 ---------'-- … --'

A step lasts until the next forward pass begins, so that an iteration holds its sampling; the first one begins with the
call, since the engine's setup and its encoder run before the first forward pass. Sums are kept from step to step: a
decode step costs additions and no tensor is touched.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from vtprof_probe.engines.transformers_cache import KvLayout, cached_length
from vtprof_probe.engines.transformers_media import RowMedia
from vtprof_probe.engines.transformers_prompt import AUDIO, IMAGE, VIDEO, Chunk, Prompt, split_by_weight
from vtprof_probe.recorder import DETAIL_DECODE_STEPS, DETAIL_GPU_TIME, Recorder
from vtprof_probe.request_context import RequestContext
from vtprof_schemas import names, records


class Preprocessing(NamedTuple):
    """One run of the processor, for a whole batch."""

    start_ns: int
    end_ns: int
    cpu_ns: int
    decode_ns: int
    pixels: Sequence[int]
    """Of each image, in order."""
    images_by_row: Optional[Sequence[int]]


class Encoding(NamedTuple):
    """One run of an encoder within a step."""

    start_ns: int
    end_ns: int
    media: Sequence[RowMedia]


class Step:
    """The step that is running."""

    __slots__ = (
        "chunks",
        "complete",
        "context",
        "decode_tokens",
        "decodes",
        "encodings",
        "failed",
        "index",
        "start_ns",
        "started",
        "used",
    )

    def __init__(self, index: int, start_ns: int) -> None:
        """Begin a step; what it computes is known when its forward pass begins."""
        self.index = index
        self.start_ns = start_ns
        self.started = False
        self.chunks: Sequence[Chunk] = ()
        self.complete = False
        self.decodes = False
        self.decode_tokens = 0
        self.context = 0
        self.used = 0
        self.encodings: List[Encoding] = []
        self.failed = False


class GenerateCall:
    """The requests of one ``generate`` call, one for each row of its input, and the step that runs."""

    def __init__(
        self,
        recorder: Recorder,
        model: Any,
        prompt: Prompt,
        entered_ns: int,
        preprocessing: Optional[Preprocessing],
        context: Optional[RequestContext],
        gpu: Any = None,
        model_name: Optional[str] = None,
    ) -> None:
        self.model = model
        self.layout: Optional[KvLayout] = None
        """What the call's own cache costs, read after its first pass."""
        self.layout_read = False
        self.sequences = 1
        """Sequences returned for each request."""
        self.prompt = prompt
        self.preprocessing = preprocessing
        self._recorder = recorder
        self._gpu = gpu
        self._numbers = [next(recorder.request_numbers) for _ in range(prompt.rows)]
        self._past = prompt.cached_columns
        self._growing: Any = None
        """The cache that the last pass let grow by one generated column, else None."""
        self._prompt_done = False
        self._chunked = False
        self._beams = 1
        self._tokens_total = sum(prompt.tokens)
        self._visual_total = sum(prompt.visual)
        self._tokens_out = 0
        self._step: Optional[Step] = Step(next(recorder.step_numbers), entered_ns)
        self._cached = False
        self._arrive(entered_ns, context)
        for number in self._numbers if model_name else ():
            self._write_text(records.REQUEST_MODEL, number, model_name or "")

    # --- Requests ------------------------------------------------------------------------------------------

    def _arrive(self, entered_ns: int, context: Optional[RequestContext]) -> None:
        write, ran = self._recorder.write, self.preprocessing
        arrived_ns = ran.start_ns if ran is not None else entered_ns
        if context is not None:
            arrived_ns = min(arrived_ns, context.arrived_ns)
            for _ in range(context.invalid_parents):
                self._recorder.fault()
        for row, number in enumerate(self._numbers):
            write(records.REQUEST_ARRIVED, number, arrived_ns)
            label = None if context is None else context.request_id(row)
            if label:
                self._write_text(records.REQUEST_LABEL, number, label)
            parent = None if context is None else context.parent(row)
            if parent is not None:
                write(records.REQUEST_PARENT, number, *parent)
        if ran is not None:
            self._preprocessed(ran, arrived_ns)
            if entered_ns > ran.end_ns:
                # Ready, and not yet in the engine: waiting for a lock or a batch.
                for number in self._numbers:
                    write(records.QUEUE, number, ran.end_ns, entered_ns)
        elif entered_ns > arrived_ns:
            for number in self._numbers:
                write(records.QUEUE, number, arrived_ns, entered_ns)

    def _write_text(self, kind: records.RecordKind, number: int, text: str) -> None:
        data = text.encode("utf-8", "replace")[: records.LABEL_BYTES]
        self._recorder.write(kind, number, len(data), data)

    def _preprocessed(self, ran: Preprocessing, arrived_ns: int) -> None:
        """Write the processor's run for every request of the batch: the time whole, the work in shares that sum up."""
        rows = len(self._numbers)
        pixels = [sum(ran.pixels)] if rows == 1 else self._pixels_by_row(ran)
        weights = [count + 1 for count in pixels]
        cpu, decode = split_by_weight(ran.cpu_ns, weights), split_by_weight(ran.decode_ns, weights)
        for row, number in enumerate(self._numbers):
            self._recorder.write(
                records.PREPROCESS, number, arrived_ns, ran.end_ns,
                cpu[row], records.UNKNOWN, decode[row], pixels[row], records.UNKNOWN,
            )  # fmt: skip

    def _pixels_by_row(self, ran: Preprocessing) -> List[int]:
        counts = ran.images_by_row
        if counts is None or len(counts) != self.prompt.rows:
            counts = self.prompt.image_runs()
        if sum(counts) != len(ran.pixels):
            return split_by_weight(sum(ran.pixels), self.prompt.by_modality[IMAGE])
        shares, position = [], 0
        for count in counts:
            shares.append(sum(ran.pixels[position : position + count]))
            position += count
        return shares

    def write_inputs(self, items: Dict[str, Sequence[int]]) -> None:
        """Write what the prompts hold; ``items`` are the media of each row by modality."""
        prompt = self.prompt
        cached = prompt.seen(prompt.cached_columns)
        for row, number in enumerate(self._numbers):
            counts = [prompt.by_modality[modality][row] for modality in (IMAGE, VIDEO, AUDIO)]
            media = [items[modality][row] if modality in items else 0 for modality in (IMAGE, VIDEO, AUDIO)]
            self._recorder.write(
                records.REQUEST_INPUT,
                number,
                prompt.tokens[row],
                prompt.text(row),
                *counts,
                cached[row],
                *media,
            )

    def finish(self, now_ns: int, status: str, outputs: Optional[Sequence[int]]) -> None:
        """End the call: the last step, then every request. Without ``outputs`` the steps are counted."""
        step, self._step = self._step, None
        if step is not None:
            step.failed = status != names.STATUS_OK
            if step.started or step.encodings:
                self._close(step, now_ns)
        code = names.STATUSES.index(status)
        for row, number in enumerate(self._numbers):
            count = self._tokens_out if outputs is None or row >= len(outputs) else outputs[row]
            self._write_kv(row, number, count)
            self._recorder.write(records.REQUEST_FINISHED, number, now_ns, code, count)

    def _write_kv(self, row: int, number: int, tokens_out: int) -> None:
        """Write what the row's sequences held in the end; each one's last token was never fed back."""
        if not self.layout_read:
            return
        prompt, each, layout = self.prompt, self._beams, self.layout
        held = visual = 0
        if self._cached and tokens_out > 0:
            held = each * prompt.tokens[row] + max(tokens_out * each // self.sequences - each, 0)
            visual = each * prompt.visual[row]
        per_token, fixed = records.UNKNOWN if self._cached else 0, 0
        if layout is not None:
            per_token, fixed = layout.bytes_per_token, layout.fixed_bytes
        self._recorder.write(records.REQUEST_KV, number, held, visual, per_token, fixed)

    # --- Steps ---------------------------------------------------------------------------------------------

    def encoded(self, encoding: Encoding) -> None:
        """Add a run of an encoder to the running step."""
        if self._step is not None:
            self._step.encodings.append(encoding)

    def forward(self, now_ns: int, rows: int, columns: int, cache: Any) -> None:
        """Begin a forward pass over ``columns`` new positions of ``rows`` sequences."""
        step = self._step
        if step is not None and columns == 1 and cache is not None and cache is self._growing:
            # One more column like the one before: the running step becomes the next one.
            self._close(step, now_ns)
            step.index, step.start_ns = next(self._recorder.step_numbers), now_ns
            step.context = step.used
            step.used += len(self._numbers) * self._beams
            if step.encodings:
                step.encodings = []
            self._past += 1
            return
        if step is None or step.started:
            if step is not None:
                self._close(step, now_ns)
            step = self._step = Step(next(self._recorder.step_numbers), now_ns)
        step.started = True
        self._cached = self._cached or cache is not None
        self._beams = max(rows // max(len(self._numbers), 1), 1)
        known = cached_length(cache)
        past = self._past if known is None else known
        end = self.prompt.columns
        if not self._prompt_done:
            stop = min(past + columns, end)
            step.chunks = self.prompt.chunk(past, stop)
            step.complete = stop >= end
            step.used = 0 if cache is None else sum(self.prompt.seen(stop)) * self._beams
        else:
            # Behind the prompt every column is a generated token: the sums grow by one for each row.
            step.decodes = True
            step.decode_tokens = self._decode_tokens(columns)
            step.context = 0 if cache is None else self._cached_tokens(past)
            step.used = 0 if cache is None else self._cached_tokens(past + columns)
        self._past = past + columns
        self._growing = cache if step.decodes and columns == 1 else None
        self._prompt_done = self._prompt_done or step.complete

    def _cached_tokens(self, columns: int) -> int:
        return (self._tokens_total + len(self._numbers) * (columns - self.prompt.columns)) * self._beams

    def _decode_tokens(self, columns: int) -> int:
        """Return the tokens that a pass behind the prompts computes: of assisted generation the candidates, too.

        Unknown with several sequences a request, which the steps count as one.
        """
        return len(self._numbers) * columns if self._beams == 1 else records.UNKNOWN

    def _close(self, step: Step, now_ns: int) -> None:
        """Write the step that ends now: its parts first, its own record last."""
        write = self._recorder.write
        prefill_tokens = encode_ns = 0
        if step.encodings or step.chunks:
            for encoding in step.encodings:
                encode_ns += encoding.end_ns - encoding.start_ns
                self._write_encoding(step.index, encoding)
            prefill_tokens = self._write_chunks(step)
        if step.decodes and self._recorder.detail < DETAIL_DECODE_STEPS and not step.encodings:
            if self._gpu is not None:
                self._gpu.close_step(None)
        else:
            # The visual part changes only while the prompt is read.
            whole = step.complete or step.decodes
            visual = self._visual_total if whole else sum(self.prompt.visual_seen(self._past))
            write(
                records.STEP, step.index, step.start_ns, now_ns,
                prefill_tokens, len(self._numbers) if step.decodes else 0,
                step.context, self._visual_total * self._beams if step.context else 0,
                encode_ns, step.used, visual * self._beams if step.used else 0,
                records.UNKNOWN, len(self._numbers), 0, 0, step.decode_tokens,
            )  # fmt: skip
            if self._gpu is not None:
                self._gpu.close_step(step.index if self._recorder.detail >= DETAIL_GPU_TIME else None)
                self._gpu.poll()
        if not step.failed and (step.complete or step.decodes):
            if self._tokens_out == 0:
                for number in self._numbers:
                    write(records.FIRST_TOKEN, number, now_ns)
            self._tokens_out += 1

    def _write_encoding(self, index: int, encoding: Encoding) -> None:
        for row, media in enumerate(encoding.media):
            if media.items:
                self._recorder.write(
                    records.ENCODE, index, self._numbers[row], encoding.start_ns, encoding.end_ns,
                    media.items, media.patches, media.attention_pairs, records.UNKNOWN,
                )  # fmt: skip

    def _write_chunks(self, step: Step) -> int:
        """Write each row's part of the prefill; beams compute every prompt once each, and are counted so."""
        total, beams = 0, self._beams
        cached = self.prompt.seen(0 if self._chunked else self.prompt.cached_columns)
        self._chunked = self._chunked or bool(step.chunks)
        last = int(step.complete and not step.failed)
        for row, chunk in enumerate(step.chunks):
            if chunk.tokens == 0 and not last:
                continue
            total += chunk.tokens * beams
            self._recorder.write(
                records.PREFILL, step.index, self._numbers[row],
                chunk.tokens * beams, chunk.visual_tokens * beams, chunk.context_tokens,
                cached[row],
                chunk.attention_pairs * beams, chunk.visual_attention_pairs * beams, last,
            )  # fmt: skip
        return total
