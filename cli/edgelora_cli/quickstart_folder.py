"""The quickstart's folder: marked as its own, so that nothing of the user's is ever overwritten."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path

from edgelora import micro
from edgelora.errors import TargetExists
from edgelora.files import atomic_write

MARKER = ".edgelora-quickstart"


class QuickstartFolder:
    """A folder that holds a quickstart and nothing else.

    Its marker says so, and on which data each derivative's finished adapter was trained.

    Args:
        path: An absolute path; what is there is looked at when the inputs are written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.marker = path / MARKER
        self.recipe = path / "recipe.yaml"
        self.rows = path / "train.jsonl"
        self.mirror = path / "mirror"

    def write_inputs(self) -> None:
        """Mark the folder and put recipe and rows into it.

        Raises:
            TargetExists: It holds something and is not marked, or a link leads out of it.
        """
        self._refuse_foreign()
        if not self.marker.exists():
            self._mark({})
        atomic_write(self.recipe, files("edgelora_cli").joinpath("quickstart.yaml").read_bytes())
        atomic_write(self.rows, micro.quickstart_data().read_bytes())

    def run_of(self, derivative: str) -> Path:
        """Where a derivative is trained."""
        return self.path / derivative

    def pulled(self, derivative: str) -> Path:
        """Where a derivative's adapter is pulled to."""
        return self.path / "pulled" / derivative

    def is_trained_on_these_rows(self, derivative: str) -> bool:
        """Whether a run of the derivative was finished, with rows equal to the present ones byte by byte."""
        return self._trained().get(derivative) == self._rows_digest()

    def remember_training(self, derivative: str) -> None:
        """Note that the derivative's run is finished."""
        self._mark({**self._trained(), derivative: self._rows_digest()})

    def _refuse_foreign(self) -> None:
        if not self.marker.is_file() and self.path.is_dir() and any(self.path.iterdir()):
            raise TargetExists(
                f"{self.path} holds files that are not the quickstart's, which would overwrite some of them",
                fix="name a folder that is empty or not there yet: --out FOLDER",
            )
        for path in (self.marker, self.mirror, *(self.path / name for name in ("lora", "qlora", "pulled"))):
            if path.is_symlink():
                raise TargetExists(
                    f"{path} is a link, and the quickstart writes into its own folder only",
                    fix=f"delete the link: rm {path}; or name another folder: --out FOLDER",
                )

    def _rows_digest(self) -> str:
        return hashlib.sha256(self.rows.read_bytes()).hexdigest()

    def _trained(self) -> dict[str, str]:
        try:
            document = json.loads(self.marker.read_bytes())
            return {str(name): str(digest) for name, digest in document["trained_on"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return {}  # not written by this version: what is there is trained again

    def _mark(self, trained: dict[str, str]) -> None:
        atomic_write(self.marker, json.dumps({"trained_on": trained}, indent=2).encode() + b"\n")
