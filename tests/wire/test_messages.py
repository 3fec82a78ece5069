from __future__ import annotations

import typing

import msgspec
import pytest

from multiserverrl.wire import messages
from multiserverrl.wire.messages import (
    AUTORESET_MODES,
    PROTOCOL_VERSION,
    Close,
    EnvInfo,
    Open,
    Opened,
    Refused,
    Request,
    Resume,
    Resumed,
    Step,
)
from tests.wire.strategies import ANSWER_KINDS, REQUEST_KINDS

KINDS = [*REQUEST_KINDS, *ANSWER_KINDS]
WITHOUT_LANE = {Open, Resume, Opened, Resumed}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_is_a_list_that_begins_with_its_own_name(kind: type[msgspec.Struct]) -> None:
    assert kind.__struct_config__.array_like
    assert kind.__struct_config__.tag == kind.__name__.lower()


def test_no_two_messages_have_one_name() -> None:
    assert len({kind.__struct_config__.tag for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITHOUT_LANE], ids=lambda kind: kind.__name__)
def test_what_touches_envs_bears_its_lane_and_seq_first(kind: type[msgspec.Struct]) -> None:
    assert kind.__struct_fields__[:2] == ("lane", "seq")


@pytest.mark.parametrize("kind", [Open, Resume])
def test_what_begins_a_connection_bears_the_version_first(kind: type[msgspec.Struct]) -> None:
    assert kind.__struct_fields__[0] == "version"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_messages_cannot_be_changed(kind: type[msgspec.Struct]) -> None:
    assert kind.__struct_config__.frozen


def test_fields_that_a_later_version_adds_at_the_end_are_ignored() -> None:
    longer = msgspec.msgpack.encode(["close", 0, 7, "a later field"])
    assert msgspec.msgpack.decode(longer, type=Request) == Close(0, 7)


def test_fields_at_the_end_may_be_left_out() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(["open", 1]), type=Request) == Open(1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(["step", 0, 1]), type=Request) == Step(0, 1)


def test_a_session_of_one_env_in_one_lane_that_resets_with_the_next_step_is_what_open_means() -> None:
    opened = Open(PROTOCOL_VERSION)
    assert (opened.num_envs, opened.lanes, opened.autoreset_mode) == (1, [], AUTORESET_MODES[0])
    assert opened.autoreset_mode == "next_step"


def test_a_refusal_leaves_its_seq_free_unless_it_says_otherwise() -> None:
    assert not Refused(0, 1, "action", "no").is_final


def test_an_env_is_described_by_names_so_that_json_can_show_it() -> None:
    env = EnvInfo("E", {"type": "Discrete"}, {}, ["ansi"])
    shown = msgspec.json.decode(msgspec.json.encode(env))
    assert shown["env_id"] == "E"
    assert msgspec.convert(shown, EnvInfo) == env


def test_every_message_is_public() -> None:
    assert {kind.__name__ for kind in typing.get_args(messages.Request) + typing.get_args(messages.Answer)} <= set(
        messages.__all__
    )
