"""Jobs as FastAPI and Celery make them: the web application, and the application that Celery's worker runs.

The small MLP at batch 1, loaded once a worker. Results are in database 1 of a Redis; its database 0 is the broker
unless BROKER says otherwise.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from benchmarks.peers.model_file import open_session, setting
from celery import Celery
from celery.result import AsyncResult
from fastapi import FastAPI
from pydantic import BaseModel

REDIS = f"redis://127.0.0.1:{setting('REDIS_PORT')}"

celery = Celery("jobs", broker=setting("BROKER", f"{REDIS}/0"), backend=f"{REDIS}/1")
celery.conf.update(
    task_acks_late=True,
    task_default_queue=setting("QUEUE", "celery"),
    worker_prefetch_multiplier=int(setting("PREFETCH", "16")),
    broker_connection_retry_on_startup=True,
)
session = cache(open_session)
web = FastAPI()


class Body(BaseModel):
    """One row."""

    x: list[float]


@celery.task
def infer(x: list[float]) -> Any:
    """The row's answer."""
    return session().run(None, {"x": np.array([x], dtype=np.float32)})[0][0].tolist()


@web.post("/jobs", status_code=202)
async def submit(body: Body) -> dict[str, str]:
    """A job, once the broker has it. On a thread of FastAPI's pool it would be slower."""
    return {"id": infer.delay(body.x).id}


@web.get("/jobs/{id}")
def show(id: str) -> dict[str, Any]:
    """How far it is."""
    result = AsyncResult(id, app=celery)
    return {"done": result.successful(), "y": result.result if result.successful() else None}
