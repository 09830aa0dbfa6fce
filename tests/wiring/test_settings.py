"""The operator's settings: what a file may say, and the sentence where it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lmops.__main__ import app
from lmops.documents import AdmissionError
from lmops.settings import Settings, read


def settings(folder: Path, text: str) -> Settings:
    (folder / "settings.yaml").write_text(text)
    return read(str(folder / "settings.yaml"))


def test_every_setting_can_stand_in_the_file(tmp_path: Path):
    chosen = Settings(
        trainer_image="trainer:1",
        progress_url="https://lmops-progress.lmops.svc:8443",
        user=None,
        namespaces=("a", "b"),
        resync_seconds=60,
    )

    # a field that is null says so: no user is not the default one
    assert settings(tmp_path, chosen.model_dump_json(by_alias=True)) == chosen


def test_an_empty_file_is_the_defaults(tmp_path: Path):
    assert settings(tmp_path, "# nothing yet\n") == Settings()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("trainerimage: x", ['1: trainerimage: no such field; did you mean "trainerImage"?']),
        ("trainer_image: x", ['1: trainer_image: no such field; did you mean "trainerImage"?']),
        ("user: 1000\nport: many", ['2: port: "many" is not a whole number']),
        ("port: 70000", ["1: port: 70000 is above 65535"]),
        ("port:", ["1: port: null is not a whole number"]),
        ("namespaces: lmops", ['1: namespaces: "lmops" is not a list']),
        ("namespaces: [1]", ["1: namespaces[0]: 1 is not a text (put it in quotes)"]),
        ("scratch: 20 GB", ['1: scratch: "20 GB" is not a quantity: write a number such as 2, 500m or 4Gi']),
        ("resyncSeconds: 0", ["1: resyncSeconds: 0 is not above 0"]),
        ("- user", ['1: ["user"] is not a mapping of fields']),
        ("port: x\nusr: 1", ["1: port: \"x\" is not a whole number", '2: usr: no such field; did you mean "user"?']),
        ("user: 1\n---\nport: 1", ["3: a second document; all settings stand in one"]),
        ("port: {", ["1: this is not YAML: expected the node content, but found '<stream end>'"]),
    ],
)  # fmt: skip
def test_what_is_no_setting_is_told_with_its_line(tmp_path: Path, text: str, sentences: list[str]):
    with pytest.raises(AdmissionError) as refused:
        settings(tmp_path, text)

    assert refused.value.problems == [f"{tmp_path}/settings.yaml:{sentence}" for sentence in sentences]


def test_the_operator_does_not_start_with_a_file_that_is_wrong(tmp_path: Path):
    (tmp_path / "settings.yaml").write_text("trainerImages: x")

    done = CliRunner().invoke(app, ["operator", "run", "--settings", str(tmp_path / "settings.yaml")])

    assert done.exit_code == 1
    assert done.stderr == f'{tmp_path}/settings.yaml:1: trainerImages: no such field; did you mean "trainerImage"?\n'
