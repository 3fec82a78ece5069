"""Counting, without a socket or a clock."""

from __future__ import annotations

from typing import Any

import pytest

from multiserverrl.errors import MultiServerRLError, ServerFull
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.limits import HeadTooLarge, Pace, Phase, Places, RequestMeter, TooLarge, TooSlow


def meter(**settings: Any) -> RequestMeter:
    limits = {"max_head_bytes": 1024, "max_headers": 3, "max_message_bytes": 5000, "body_s": 2.0, "handshake_s": 1.0}
    return RequestMeter(ServerConfig(("CartPole-v1",), **{**limits, **settings}))


def at_body(content_length: int | None) -> RequestMeter:
    made = meter()
    made.began()
    made.head_part(20)
    made.header(b"host", b"localhost")
    made.head_ended(content_length, 0)
    made.read(40)
    return made


def test_places_are_counted_in_all_and_by_client() -> None:
    places = Places("connections", 3, 2)
    for client in ("a", "a", "b"):
        assert places.refusal(client) == ""
        places.take(client)
    assert "takes 3 connections at once" in places.refusal("c") and "--max-connections)" in places.refusal("c")
    places.give_back("b")
    assert places.refusal("c") == ""
    assert "from a (serve … --max-connections-per-client)" in places.refusal("a")
    places.give_back("a")
    assert places.refusal("a") == "" and places.num_taken == 1


def test_so_many_may_come_at_once_and_then_so_many_a_second() -> None:
    pace = Pace(10, 100.0, now=50.0)
    assert [pace.pause_s(50.0) for _ in range(10)] == [0.0] * 10
    assert [round(pace.pause_s(50.0), 3) for _ in range(3)] == [0.01, 0.02, 0.03]
    assert pace.pause_s(50.04) <= 0.01
    assert [pace.pause_s(60.0) for _ in range(10)] == [0.0] * 10  # no more than the burst is saved up
    assert pace.pause_s(60.0) > 0


def test_a_head_may_be_as_large_as_the_limit_and_no_larger() -> None:
    whole = meter()
    whole.began()
    whole.head_part(1000)
    whole.header(b"a" * 10, b"b" * 10)
    with pytest.raises(HeadTooLarge, match=r"1024 bytes .*--max-head-bytes"):
        whole.head_part(1)
    unfinished = meter()
    unfinished.began()
    unfinished.read(1024)
    with pytest.raises(HeadTooLarge):
        unfinished.read(1)


def test_headers_are_counted_and_the_next_request_begins_anew() -> None:
    one = meter()
    for _ in range(3):
        one.began()
        for _ in range(3):
            one.header(b"a", b"b")
        one.head_ended(0, 0)
        one.ended()
    one.began()
    for _ in range(3):
        one.header(b"a", b"b")
    with pytest.raises(HeadTooLarge, match=r"at most 3 headers .*--max-headers"):
        one.header(b"a", b"b")


def test_a_body_is_refused_by_its_declared_length_or_by_what_came() -> None:
    with pytest.raises(TooLarge, match=r"5000 bytes .*--max-message-bytes"):
        at_body(5001)
    endless = at_body(None)
    endless.body_part(5000)
    with pytest.raises(TooLarge):
        endless.body_part(1)


def test_a_chunked_body_of_one_byte_a_chunk_passes_and_trailers_without_end_do_not() -> None:
    slow = at_body(None)
    for _ in range(4000):
        slow.body_part(1)
        slow.read(6)
    trailing = at_body(None)
    for _ in range(4):
        trailing.read(1000)
    with pytest.raises(HeadTooLarge):
        trailing.read(1000)


def test_a_body_has_more_time_the_more_of_it_has_come() -> None:
    one = at_body(4000)
    assert one.time_s() == 2.0
    one.body_part(3000)
    assert one.time_s() == 2.0 + 3000 / 65536
    assert isinstance(one.too_slow(), TooSlow) and "--body-s" in one.too_slow().headline
    one.ended()
    assert one.phase is Phase.BETWEEN
    one.began()
    assert one.time_s() == 1.0 and "--handshake-s" in one.too_slow().headline


def test_a_few_requests_may_wait_for_the_answer_before_them() -> None:
    one = meter()
    one.began()
    one.head_ended(None, 7)
    one.began()
    with pytest.raises(ServerFull, match=r"8 requests wait"):
        one.head_ended(None, 8)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_head_bytes", 1023),
        ("max_headers", 0),
        ("max_connections", 0),
        ("max_connections_per_client", -1),
        ("max_sessions", 0),
        ("max_sessions_per_client", 0),
        ("handshake_s", 0.0),
        ("body_s", float("nan")),
        ("keep_alive_s", -1.0),
    ],
)
def test_a_limit_that_is_none_is_refused_by_its_flag(setting: str, value: Any) -> None:
    with pytest.raises(MultiServerRLError, match="--" + setting.replace("_", "-")):
        ServerConfig(("CartPole-v1",), **{setting: value})
