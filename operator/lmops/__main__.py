"""The command `lmops`."""

from __future__ import annotations

from importlib.util import find_spec

import typer

from lmops.api import crd
from lmops.commands import app as operator

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="The life of a language model: train it, compress it, serve it.",
)
if all(map(find_spec, ("cel_expr_python", "psutil"))):  # the operator's image goes without the laptop's libraries
    from lmops.local.commands import app as local

    app.add_typer(local, name="local")
app.add_typer(operator, name="operator")


@app.callback()
def lmops() -> None:
    """The life of a language model: train it, compress it, serve it."""


@app.command()
def crds() -> None:
    """Prints the CRDs of this version: `lmops crds | kubectl apply --server-side -f -`."""
    print(*(crd.document(kind) for kind in crd.KINDS), sep="---\n", end="")


if __name__ == "__main__":
    app(prog_name="lmops")
