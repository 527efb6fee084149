"""What became of the rows of each file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceReport:
    """One entry of the recipe's ``data``."""

    path: str
    task: str
    format: str
    rows: int
    """Rows in the file."""
    train: int
    """Rows trained on."""
    held_out: int
    """Distinct rows kept out of training."""
    cut: int
    """Rows longer than ``max_length`` of which something learned is left."""
    skipped: int
    """Rows with nothing to learn: an empty answer, or none left after the cut."""
    duplicates: int
    """Rows that say what an earlier row, of this file or one before it, says."""
    longest: int
    """Tokens of the longest row before the cut."""

    def line(self) -> str:
        """For people."""
        counts = [
            f"{self.rows:,} rows ({self.format})",
            f"{self.train:,} to train on",
            f"{self.held_out:,} held out",
            *(f"{count:,} {what}" for count, what in self._remarks() if count),
            f"longest {self.longest:,} tokens",
        ]
        return f"{self.path}: {', '.join(counts)}"

    def _remarks(self) -> tuple[tuple[int, str], ...]:
        return (
            (self.cut, "cut to max_length"),
            (self.skipped, "skipped with nothing to learn"),
            (self.duplicates, "duplicates of earlier rows"),
        )


@dataclass(frozen=True, slots=True)
class DataReport:
    """All files of a run."""

    sources: tuple[SourceReport, ...]

    def lines(self) -> list[str]:
        """For people, a line per file."""
        return [source.line() for source in self.sources]
