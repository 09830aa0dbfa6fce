"""`python -m lmops_server serve DOCUMENT` serves a model on LMOPS_PORT until it is asked to end.

By hand: LMOPS_VOLUMES=folder LMOPS_PORT=8080 python -m lmops_server serve "$(cat serving.json)"
"""

from __future__ import annotations

import argparse
import sys

from pydantic import ValidationError

from lmops.api import Serving


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 when the server was asked to end, 1 when it could not serve."""
    parser = argparse.ArgumentParser("lmops_server", description="Serves the model of a LanguageModelService.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve").add_argument("document", help="the service, as one JSON document")
    chosen = parser.parse_args(arguments)
    try:
        serving = Serving.model_validate_json(chosen.document)
    except ValidationError as error:
        parser.exit(1, f"The document is not a service: {error}\n")
    from lmops_server.serve import serve

    return serve(serving)


if __name__ == "__main__":
    sys.exit(main())
