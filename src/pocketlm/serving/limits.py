"""What the server takes and for how long it waits: one frozen settings class. `docs/serving.md` has the table."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Bounds of one server. Every one of them is checked before memory or time is spent on what it bounds.

    Attributes:
        body_bytes: of a request's body, counted while it is received.
        json_depth: of objects and lists in each other.
        messages: of a chat.
        samples: `n` of a request.
        sequences: samples of all prompts of one request together.
        stop_strings, stop_characters: how many, and how long each.
        likeliest: `top_logprobs` (chat) or `logprobs` (completions).
        reported: log-probabilities that one request may ask for: sequences x tokens x (1 + likeliest).
        max_tokens: new tokens of a sequence; unset: what the context leaves. Larger wishes are clamped.
        queue: sequences of a model that may wait for a slot; more are refused with 429.
        retry_after: seconds that a refused client is asked to wait.
        backlog: tokens that a client may be behind before its request is cancelled.
        header_seconds, body_seconds: until a request's headers, and then its body, must have come.
        request_seconds: for the whole answer, the wait in the queue included.
        send_seconds: without a byte taken, after which a client is given up.
        idle_seconds: between two requests of a connection.
        drain_seconds: that running requests get after SIGTERM.
        connections: at the same time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    body_bytes: int = Field(default=1 << 20, ge=1)
    json_depth: int = Field(default=64, ge=4, le=200)
    messages: int = Field(default=1024, ge=1)
    samples: int = Field(default=16, ge=1)
    sequences: int = Field(default=64, ge=1)
    stop_strings: int = Field(default=16, ge=1)
    stop_characters: int = Field(default=256, ge=1)
    likeliest: int = Field(default=20, ge=0)
    reported: int = Field(default=500_000, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    queue: int = Field(default=64, ge=0)
    retry_after: int = Field(default=2, ge=1)
    backlog: int = Field(default=4096, ge=1)
    header_seconds: float = Field(default=10.0, gt=0)
    body_seconds: float = Field(default=20.0, gt=0)
    request_seconds: float = Field(default=600.0, gt=0)
    send_seconds: float = Field(default=30.0, gt=0)
    idle_seconds: float = Field(default=30.0, gt=0)
    drain_seconds: float = Field(default=30.0, ge=0)
    connections: int = Field(default=256, ge=1)
