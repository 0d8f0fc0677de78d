"""`forebay web`: the composition root of a process that serves over HTTP what workers have."""

from __future__ import annotations

import os

from forebay.cli.flags import GivenSettings, takes_settings


@takes_settings
def web(*, given: GivenSettings) -> None:
    """Take requests and jobs over HTTP for models that workers have; no model is loaded here.

    Workers (forebay worker) and web processes meet in one store, a Redis or Valkey; there may be any number of each, on
    any host. Which models there are, workers announce. For one machine, forebay serve needs neither.

    Examples:

      forebay web --store redis://10.0.0.5:6379

      FOREBAY_JOBS__STORE=redis://:PASSWORD@10.0.0.5 forebay web --host 0.0.0.0 --api-keys keys.txt

      curl localhost:8000/v1/models/mlp/jobs -d '{"input": {"x": [0.1, 0.2]}}'
    """
    from forebay.embedding.composition import run_web

    run_web(given.load(os.environ))
