"""Our own server for the time of a benchmark, in a thread of this process, on a free port of the loopback.

Client and server share the interpreter: what the client costs is in the latencies. For figures of a server alone, start
`pocketlm serve` and give its address.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pocketlm.errors import PocketError
from pocketlm.serving.benchmark.orders import Side

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 30.0


@contextmanager
def local_server(model: Path, streams: int) -> Iterator[Side]:
    """Serve a model and give the address; `streams` requests find a place at the same time."""
    import uvicorn

    from pocketlm.serving.app import create_app
    from pocketlm.serving.limits import Limits
    from pocketlm.serving.models import open_model
    from pocketlm.serving.serve_settings import named_models
    from pocketlm.serving.server import bound_socket, server_config

    limits = Limits(queue=max(Limits().queue, streams))
    ((name, path),) = named_models([str(model)]).items()
    app = create_app({name: open_model(name, path, limits)}, limits, None)
    server = uvicorn.Server(server_config(app, limits))
    with closing(bound_socket(HOST, 0)) as listener:
        arguments = {"sockets": [listener]}
        thread = threading.Thread(target=server.run, kwargs=arguments, name="server of the benchmark", daemon=True)
        thread.start()
        try:
            until = time.monotonic() + START_SECONDS
            while not server.started:
                if not thread.is_alive() or time.monotonic() > until:
                    raise PocketError("the server of the benchmark did not start; its log says why")
                time.sleep(0.01)
            yield Side(f"http://{HOST}:{listener.getsockname()[1]}/v1", name)
        finally:
            server.should_exit = True
            thread.join(STOP_SECONDS)
