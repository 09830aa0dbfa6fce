"""`python -m lmops_server serve DOCUMENT` serves a model on LMOPS_PORT until it is asked to end; `gate` compares two.

By hand: LMOPS_VOLUMES=folder LMOPS_PORT=8080 python -m lmops_server serve "$(cat serving.json)"
"""

from __future__ import annotations

import argparse
import sys

from pydantic import ValidationError

from lmops.api import Gate, Serving


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 when it was asked to end or has compared, 1 when it could not serve or ask."""
    parser = argparse.ArgumentParser("lmops_server", description="Serves the model of a LanguageModelService.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve").add_argument("document", help="the service, as one JSON document")
    commands.add_parser("gate").add_argument("document", help="a candidate and a running model, as one JSON document")
    chosen = parser.parse_args(arguments)
    try:
        told = (Gate if chosen.command == "gate" else Serving).model_validate_json(chosen.document)
    except ValidationError as error:
        parser.exit(1, f"The document is not one of {chosen.command}: {error}\n")
    if isinstance(told, Gate):
        from lmops_server.gate import gate

        return gate(told)
    from lmops_server.serve import serve

    return serve(told)


if __name__ == "__main__":
    sys.exit(main())
