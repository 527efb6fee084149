"""``edgelora train``: what it says beyond what a run says."""

from pathlib import Path

import pytest

from edgelora.errors import Interrupted


def test_an_interrupted_run_names_the_command_that_goes_on(edgelora, monkeypatch: pytest.MonkeyPatch):
    def stop(*_, **__):
        raise Interrupted("SIGINT arrived", fix="resume it")

    monkeypatch.setattr("edgelora.run.run", stop)
    Path("my recipe.yaml").write_text("base: micro\n")
    ran = edgelora("train", "my recipe.yaml", "--set", "train.seed=1", "--set", "out=a b", "--threads", "2")
    assert ran.exit_code == 130
    assert (
        "go on with: edgelora train 'my recipe.yaml' --set train.seed=1 --set 'out=a b' "
        "--set train.threads=2 --resume\n"
    ) in ran.err
