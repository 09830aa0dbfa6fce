"""KServe's own ModelServer with a model that does nothing. `idle_kserve.py NAME PORT`, run by Python with `kserve`."""

from __future__ import annotations

import sys
from typing import Any

from kserve import Model, ModelServer

NAME, PORT = sys.argv[1:]
del sys.argv[1:]  # KServe's server reads the line itself


class Idle(Model):  # type: ignore[misc]
    """Answers at once."""

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        return {"predictions": ["positive"] * len(payload["instances"])}


if __name__ == "__main__":
    model = Idle(NAME)
    model.ready = True
    ModelServer(http_port=int(PORT), enable_grpc=False, access_log_format=None).start([model])
