"""Jobs as FastAPI and arq make them: the web application, and the settings of arq's worker.

The small MLP at batch 1, loaded once a worker. arq's worker is one event loop, so the model runs in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from arq import create_pool
from arq.connections import RedisSettings
from arq.jobs import Job, JobStatus
from benchmarks.peers.model_file import open_session, setting
from fastapi import FastAPI
from pydantic import BaseModel

REDIS = RedisSettings(port=int(setting("REDIS_PORT")))


async def infer(ctx: dict[str, Any], x: list[float]) -> Any:
    """The row's answer."""
    return ctx["session"].run(None, {"x": np.array([x], dtype=np.float32)})[0][0].tolist()


async def startup(ctx: dict[str, Any]) -> None:
    """The model, once."""
    ctx["session"] = open_session()


class WorkerSettings:
    """What `arq` is told."""

    functions = (infer,)
    on_startup = startup
    redis_settings = REDIS
    max_jobs = int(setting("MAX_JOBS", "100"))
    poll_delay = float(setting("POLL_DELAY", "0.01"))
    log_results = False


@asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncIterator[None]:
    """The pool of connections, for as long as the server runs."""
    web.state.queue = await create_pool(REDIS)
    yield
    await web.state.queue.aclose()


web = FastAPI(lifespan=lifespan)


class Body(BaseModel):
    """One row."""

    x: list[float]


@web.post("/jobs", status_code=202)
async def submit(body: Body) -> dict[str, str]:
    """A job, once Redis has it."""
    job = await web.state.queue.enqueue_job("infer", body.x)
    return {"id": job.job_id}


@web.get("/jobs/{id}")
async def show(id: str) -> dict[str, Any]:
    """How far it is."""
    job = Job(id, web.state.queue)
    done = await job.status() == JobStatus.complete
    return {"done": done, "y": await job.result() if done else None}
