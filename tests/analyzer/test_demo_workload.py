"""The demo's client keeps right books: its counts against the real processor, its calls against the real server."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vtprof_analyzer.demo import client, tiny_model
from vtprof_schemas.errors import BackendError

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

from vtprof_analyzer.demo import serve  # noqa: E402


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = serve.make_server(serve.Generator(threads=0), port=0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_resize_rule_is_that_of_the_family() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    pictures = [
        picture for call in client.workload() for part in call.conversations for picture in part.pictures
    ]
    assert len(pictures) > 30
    for picture in pictures:
        expected = smart_resize(
            picture.height, picture.width, tiny_model.TOKEN_PIXELS,
            tiny_model.MIN_IMAGE_PIXELS, tiny_model.MAX_IMAGE_PIXELS,
        )  # fmt: skip
        assert client.resized(picture.height, picture.width) == expected


def test_workload_is_the_same_each_time_and_holds_every_kind() -> None:
    calls = client.workload()
    assert calls == client.workload()
    assert client.count_requests(calls) >= 36
    assert {call.kind for call in calls} == {
        "text", "small image", "large image", "several images", "repeated image", "batch",
    }  # fmt: skip
    assert client.draw(client.Picture(40, 30, 1)) == client.draw(client.Picture(40, 30, 1))


def test_client_books_what_the_server_was_asked(url: str, tmp_path: Path) -> None:
    picture = client.Picture(56, 84, seed=1)
    calls = [client.Call("batch", (client.Conversation(9), client.Conversation(5, (picture, picture))), 3)]
    told: list[tuple[int, int]] = []
    sent = client.run_workload(url, tmp_path, lambda done, total: told.append((done, total)), calls)
    assert told == [(0, 2), (2, 2)]
    assert [(row.text_tokens, row.visual_tokens, row.output_tokens) for row in sent] == [
        (28, 0, 3),
        (19 + 5 + 4, 12, 3),
    ]
    assert sent[1].kv_bytes == (28 + 12 + 3 - 1) * 4096
    document = json.loads((tmp_path / client.GROUND_TRUTH_FILE).read_text())
    assert document["totals"]["requests"] == 2
    assert document["totals"]["kv_bytes"] == sent[0].kv_bytes + sent[1].kv_bytes


def test_bad_request_is_one_line_for_the_user(url: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="max_new_tokens"):
        client.run_workload(url, tmp_path, calls=[client.Call("text", (client.Conversation(3),), 0)])


def test_server_that_is_gone_is_one_line_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="does not answer"):
        client.run_workload("http://127.0.0.1:9", tmp_path, calls=client.workload()[:1])
