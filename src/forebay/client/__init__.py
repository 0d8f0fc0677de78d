"""The Python client of the Open Inference Protocol v2, and of Forebay's jobs, over HTTP: `Client` and `AsyncClient`.

All decisions (bodies, answers, retries, deadlines) are made in pure code that yields `Send` and `Sleep` and is told
what came of it; the two clients only do that, each in its way.
"""

from forebay.core.errors import SetupError

try:
    import httpx as _httpx  # noqa: F401
except ImportError:
    raise SetupError('forebay.Client needs httpx; install it with: pip install "forebay[client]"') from None

from forebay.client.asynchronous import AsyncClient
from forebay.client.errors import InvalidAnswerError, UnreachableError
from forebay.client.jobs import Job, JobEvent
from forebay.client.results import Result
from forebay.client.retries import Retries
from forebay.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "InvalidAnswerError", "Job", "JobEvent", "Result", "Retries", "UnreachableError"]
