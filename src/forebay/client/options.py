"""The options of a client and of a call, each listed once: both clients take them as keywords of these types."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from forebay.client.retries import Retries

Casting = Literal["no", "safe", "same_kind"]
Scalar = str | int | float | bool


class ClientOptions(TypedDict, total=False):
    """How a client talks to its server."""

    api_key: str | None
    """Sent as `Authorization: Bearer`. Default: none."""
    timeout_s: float | None
    """Seconds that a call may take, retries included; None: no limit. Default: 30."""
    retries: Retries
    """How often and when to try again. Default: `Retries()`."""
    binary: bool
    """Tensors travel as bytes (Triton's binary tensor extension) instead of JSON. Default: True."""
    max_connections: int
    """Most connections at once; further calls wait for one. Default: 100."""
    connect_timeout_s: float
    """Seconds to wait for a connection before that try counts as failed. Default: 5."""
    headers: Mapping[str, str]
    """Sent with every request."""
    verify: ssl.SSLContext | bool
    """Certificates of an https server: a context, or False for none (unsafe). Default: the system's authorities."""


class InferOptions(TypedDict, total=False):
    """How one inference call is made."""

    outputs: Sequence[str] | None
    """Names of the outputs wanted, in this order. Default: all."""
    version: str | None
    """Version of the model. Default: the server's choice."""
    timeout_s: float | None
    """Seconds for this call, retries included; None: no limit. Default: the client's. The server is told what is left.
    """
    priority: int
    """1 is highest; 0, the default, is the server's own default."""
    request_id: str
    """Comes back as the answer's `id`."""
    parameters: Mapping[str, Scalar] | None
    """Further request parameters."""
    explain: bool
    """Ask a Forebay server how the request was batched; it is in the answer's `parameters`."""
    binary: bool
    """As the client's, for this call."""
    casting: Casting
    """What may be done to a numpy array whose type is not the model's: `no` (default): send it as it is;
    `safe`: only what loses nothing (int32 to FP64); `same_kind`: also to a narrower type of the kind (float64 to FP32).
    Never a value out of range."""


class SubmitOptions(TypedDict, total=False):
    """How a job is submitted. `outputs`, `request_id`, `parameters`, `binary` and `casting` are those of inference."""

    outputs: Sequence[str] | None
    request_id: str
    parameters: Mapping[str, Scalar] | None
    binary: bool
    casting: Casting
    priority: int
    """1 is highest; 0, the default, is the server's own default; all others come after it."""
    ttl_s: float | None
    """Latest start, in seconds from its acceptance; then the job expires. Default: none."""
    timeout_s: float | None
    """Longest run of one attempt, in seconds. Default: an hour. (Submitting itself takes the client's `timeout_s`.)"""
    retention_s: float | None
    """How long the job is kept once it has ended. Default: the server's."""
    webhook: str | None
    """A URL that is called when the job has ended."""
    metadata: Mapping[str, Any] | None
    """Yours: kept with the job and given back with it; at most 16 KiB of JSON."""
    idempotency_key: str | None
    """Who submits again with the same key and the same job is given the first one. Default: a new key for each call, so
    that a call that is tried again cannot make two jobs."""
