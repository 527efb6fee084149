"""The vectors of bundles are those that the tests attack with; each is one rule broken."""

import json
from pathlib import Path

from hostile_bundles import vectors

FOLDER = Path(__file__).parents[2] / "spec" / "v1" / "vectors" / "bundles"


def test_the_vectors_are_written_anew_when_the_bundles_change() -> None:
    expected = vectors()
    listed = json.loads((FOLDER / "index.json").read_text())["vectors"]
    fix = "run hostile_bundles.write_vectors on spec/v1/vectors/bundles"
    assert listed == {name: entry for name, (entry, _) in expected.items()}, fix
    assert all((FOLDER / name).read_bytes() == data for name, (_, data) in expected.items()), fix
