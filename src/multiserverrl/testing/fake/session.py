"""The env, and the session around it: the sections Sessions, Refusals and Autoreset of docs/protocol.md."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from multiserverrl.testing.fake.frames import Refusal, framed, packed, parsed, stepped

__all__ = ["FakeSession", "Walk"]


class Walk:
    """Four steps forward are an episode, of ten steps at most; obs is (position / 4, luck, 1), reward the way made."""

    def __init__(self) -> None:
        self.seed = 0

    def reset(self, seed: int | None) -> tuple[float, ...]:
        self.seed = self.seed + 1 if seed is None else seed
        self.position = self.steps = 0
        return self.obs()

    def obs(self) -> tuple[float, ...]:
        return self.position / 4, (5 * self.seed + 3 * self.steps) % 8 / 8, 1.0

    def step(self, action: int) -> tuple[tuple[float, ...], float, bool, bool]:
        before, self.steps = self.position, self.steps + 1
        self.position = max(0, before + (1 if action else -1))
        return self.obs(), float(self.position - before), self.position == 4, self.steps == 10


class FakeSession:
    """One session, one lane, one env: each request once, the last answer kept."""

    def __init__(self, name: str, secret: str, mode: str, env: Walk) -> None:
        self.name, self.secret, self.mode, self.env = name, secret, mode, env
        self.holder: object | None = None  # the connection that holds it
        self.left_at = 0.0
        self.is_over = False
        self.last_seq, self.last_request, self.last_answer = 0, b"", b""
        self.was_reset = self.has_ended = False

    def perform(self, frame: bytes) -> bytes:
        """The answer to a request of this session."""
        (name, *fields), body = parsed(frame)
        lane, seq = fields[0], fields[1]
        try:
            if lane != 0:
                raise Refusal("seq", f"lane {lane} does not exist; the session has 1")
            if self.is_repeat(seq, frame):
                return self.repeated(name, fields, body)
            if seq != self.last_seq + 1:
                raise Refusal("seq", f"seq {seq} was not expected; {self.last_seq + 1} is next")
            self.check(name, fields, body)
        except Refusal as refusal:
            return framed(["refused", lane, seq, refusal.code, refusal.message, "", False])
        answer = self.carried_out(name, fields, body)
        self.last_seq, self.last_request, self.last_answer = seq, frame, answer
        return answer

    def is_repeat(self, seq: int, frame: bytes) -> bool:
        """Rule 2; the same seq with another byte anywhere is no repeat."""
        return seq > 0 and seq == self.last_seq and frame == self.last_request

    def repeated(self, name: str, fields: list[Any], body: bytes) -> bytes:
        return self.last_answer

    def check(self, name: str, fields: list[Any], body: bytes) -> None:
        """The door: a Refusal here leaves the env untouched, and the seq free."""
        if self.is_over:
            raise Refusal("session_lost", "the session was closed")
        if name == "step":
            if not self.was_reset:
                raise Refusal("misuse", "reset() before the first step()")
            if self.mode == "disabled" and self.has_ended:
                raise Refusal("misuse", "env [0] has ended; reset it before the next step")
            self.check_action(body)
        elif name == "reset":
            seeds = fields[2] if len(fields) > 2 else None
            mask = fields[4] if len(fields) > 4 else None
            if (seeds is not None and len(seeds) != 1) or (mask is not None and len(mask) != 1):
                raise Refusal("misuse", "1 seed and a mask of 1 byte were expected, one an env")
        elif name == "render":
            raise Refusal("misuse", "nothing to render: the session was opened without a render_mode")
        elif name == "call":
            raise Refusal("not_allowed", "this server lets clients touch no attribute")
        elif name != "close":
            raise Refusal("wire", "a session is already open on this connection")

    def check_action(self, body: bytes) -> None:
        if len(body) != 8:
            raise Refusal("action", f"the actions are {len(body)} bytes; 8 were expected for 1 of Discrete(2)")
        (action,) = struct.unpack("<q", body)
        if action not in (0, 1):
            raise Refusal("action", f"action is {action}, which is not a member of Discrete(2)")

    def carried_out(self, name: str, fields: list[Any], body: bytes) -> bytes:
        lane, seq = fields[0], fields[1]
        if name == "close":
            self.is_over = True
            return framed(["closed", lane, seq])
        if name == "reset":
            seeds = fields[2] if len(fields) > 2 else None
            self.was_reset, self.has_ended = True, False
            return stepped(seq, self.env.reset(seeds[0] if seeds else None))
        if self.mode == "next_step" and self.has_ended:  # this step resets it instead
            self.has_ended = False
            return stepped(seq, self.env.reset(None))
        return self.step(seq, int.from_bytes(body, "little"))

    def step(self, seq: int, action: int) -> bytes:
        obs, reward, is_terminated, is_truncated = self.env.step(action)
        info: dict[str, Any] = {
            "steps": msgspec.msgpack.Ext(2, packed(["<i8", [], self.env.steps.to_bytes(8, "little")]))
        }
        self.has_ended = is_terminated or is_truncated
        finals = []
        if self.mode == "same_step" and self.has_ended:
            finals = [[[0], struct.pack("<3f", *obs)]]
            obs, info = self.env.reset(None), {"final_info": info}
        return stepped(seq, obs, reward, is_terminated, is_truncated, [packed({0: info})], finals)
