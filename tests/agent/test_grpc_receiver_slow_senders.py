"""Senders whose message never comes hold no thread of the gRPC receiver that another needs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import grpc
import pytest
from collectors import wait_for

from vtprof_agent.config import Config
from vtprof_agent.receiver import grpc_server
from vtprof_agent.receiver.intake import TURNED_AWAY
from vtprof_agent.receiver.receiver import Receiver
from vtprof_agent.receiver.turns import Turns

METHOD = f"/{grpc_server.SERVICE}/Export"
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
WAIT_S = 30.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver(Config(otlp_receive_grpc="127.0.0.1:0"))
    yield found
    found.close()


def never(over: threading.Event) -> Iterator[bytes]:
    """A message that is begun, as far as the server can tell, and does not come."""
    over.wait()
    yield b""


@pytest.mark.parametrize("senders", [4, grpc_server.MAX_CALLS])
def test_an_export_is_taken_while_others_never_send_theirs(receiver: Receiver, senders: int) -> None:
    address, over = f"127.0.0.1:{receiver.ports[0]}", threading.Event()
    with ExitStack() as stack:
        stack.callback(over.set)
        for _ in range(senders):
            channel = stack.enter_context(grpc.insecure_channel(address, OWN_CONNECTION))
            stack.callback(channel.stream_unary(METHOD).future(never(over)).cancel)

        def exported() -> bool:
            with grpc.insecure_channel(address, OWN_CONNECTION) as mine:
                try:
                    return bool(mine.unary_unary(METHOD)(b"", timeout=WAIT_S) == b"")
                except grpc.RpcError as error:
                    # Where all calls are taken the sender comes again, as exporters do.
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    return False

        wait_for(exported, 2 * WAIT_S)
    if senders > grpc_server.MAX_READ:
        assert receiver.counts()[TURNED_AWAY] > 0


def test_who_lingers_longest_gives_way_and_only_to_one_who_waits() -> None:
    now, cut = [0.0], []
    turns = Turns(2, linger_s=5.0, clock=lambda: now[0])

    def cut_off(name: str) -> Callable[[], None]:
        return lambda: cut.append(name)

    with ExitStack() as held:
        held.enter_context(turns.turn(cut_off("first")))
        now[0] = 1.0
        with turns.turn(cut_off("second")):
            now[0] = 100.0
            assert cut == [], "nobody waits"
            done = threading.Event()

            def third() -> None:
                with turns.turn(cut_off("third")) as arrived:
                    arrived()
                    done.set()

            thread = threading.Thread(target=third)
            thread.start()
            wait_for(lambda: bool(cut))
            assert cut == ["first"]
            held.close()  # its reading ends, as it was told
            assert done.wait(WAIT_S)
            thread.join(WAIT_S)
        assert cut == ["first"]


def test_a_turn_whose_message_is_there_is_not_cut_off() -> None:
    now, cut = [0.0], [0]
    turns = Turns(1, linger_s=0.0, clock=lambda: now[0])

    def cut_off() -> None:
        cut[0] += 1

    with turns.turn(cut_off) as arrived:
        arrived()
        begun, took = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            with turns.turn(cut_off):
                took.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert begun.wait(WAIT_S)
        assert not took.is_set() and cut == [0]
    assert took.wait(WAIT_S)
    thread.join(WAIT_S)
    assert cut == [0]
