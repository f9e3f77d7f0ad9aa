"""Senders whose message never comes hold no thread of the gRPC receiver that another needs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial

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


@pytest.mark.parametrize("senders", [4, grpc_server.MAX_THREADS, grpc_server.MAX_CALLS])
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


def test_an_export_is_taken_while_silent_senders_come_again_whenever_they_are_cut_off(
    receiver: Receiver,
) -> None:
    address, over, senders = f"127.0.0.1:{receiver.ports[0]}", threading.Event(), 16

    def silent() -> None:
        while not over.is_set():
            with grpc.insecure_channel(address, OWN_CONNECTION) as channel, suppress(grpc.RpcError):
                channel.stream_unary(METHOD)(never(over), timeout=WAIT_S)

    threads = [threading.Thread(target=silent) for _ in range(senders)]
    try:
        for thread in threads:
            thread.start()
        # All are there: each was cut off once, on an average.
        wait_for(lambda: receiver.counts()[TURNED_AWAY] >= senders, WAIT_S)
        with grpc.insecure_channel(address, OWN_CONNECTION) as mine:
            for _ in range(3):
                assert mine.unary_unary(METHOD)(b"", timeout=WAIT_S) == b""
    finally:
        over.set()
        for thread in threads:
            thread.join(WAIT_S)


def test_an_export_gets_in_at_once_while_more_are_silent_than_there_are_threads(receiver: Receiver) -> None:
    """Each sender comes again whenever it is cut off; where calls were refused instead, it would be luck who gets in."""
    address, senders = f"127.0.0.1:{receiver.ports[0]}", grpc_server.MAX_THREADS + 16
    over = threading.Event()

    def silent(stack: ExitStack) -> None:
        channel = stack.enter_context(grpc.insecure_channel(address, OWN_CONNECTION))

        def again(_: object = None) -> None:
            if not over.is_set():
                with suppress(ValueError, RuntimeError):  # the channel is closed, as all is over
                    channel.stream_unary(METHOD).future(never(over)).add_done_callback(again)

        again()

    with ExitStack() as stack:
        stack.callback(over.set)
        for _ in range(senders):
            silent(stack)
        wait_for(lambda: receiver.counts()[TURNED_AWAY] >= senders, 2 * WAIT_S)
        with grpc.insecure_channel(address, OWN_CONNECTION) as mine:
            for _ in range(3):
                assert mine.unary_unary(METHOD)(b"", timeout=2 * WAIT_S) == b""


def test_turns_are_given_in_the_order_of_coming() -> None:
    turns, order = Turns(1, linger_s=1000.0), []
    threads = []

    def wait(number: int) -> None:
        with turns.turn(lambda: None):
            order.append(number)

    with turns.turn(lambda: None):
        for number in range(20):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            wait_for(lambda number=number: len(turns._waiting) > number)
    for thread in threads:
        thread.join(WAIT_S)
    assert order == list(range(20))


def test_the_more_wait_the_shorter_a_sender_may_linger() -> None:
    """Of two turns of at most 1 s each, the ten who wait get theirs within 1 s: 1 s * 2 / 10 for each sender."""
    now, cut = [0.0], list[str]()
    turns = Turns(2, linger_s=1.0, clock=lambda: now[0])

    def wait() -> None:
        with turns.turn(lambda: None) as arrived:
            arrived()

    threads = [threading.Thread(target=wait) for _ in range(10)]
    with ExitStack() as held:
        for name in ("first", "second"):
            held.enter_context(turns.turn(partial(cut.append, name)))
        now[0] = 0.15
        for thread in threads[:9]:
            thread.start()
        wait_for(lambda: len(turns._waiting) == 9)
        assert cut == []
        now[0] = 0.21
        threads[9].start()
        wait_for(lambda: bool(cut))
        assert cut[0] == "first"
    for thread in threads:
        thread.join(WAIT_S)


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
