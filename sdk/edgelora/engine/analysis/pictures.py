"""The pictures: PNG or SVG, the same bytes for the same numbers and release of matplotlib."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgelora.engine.analysis.adapters import SiteAmplification, SiteSimilarity
from edgelora.errors import DependencyMissing, PlanError
from edgelora.files import atomic_write, disk_full_is_an_error, make_dirs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: dict[str, dict[str, Any]] = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
"""With the metadata that would differ from run to run."""
COLUMNS = 4
LONGEST_TITLE = 32


def draw_similarities(found: Sequence[SiteSimilarity], titles: tuple[str, str], path: Path) -> None:
    """One map of φ for each kind of site, the mean over its sites; dark is orthogonal, bright the same.

    Args:
        found: As `similarities` answers.
        titles: How the adapters are called, first and second.
        path: Ends in ``.png`` or ``.svg``.

    Raises:
        DependencyMissing: matplotlib is not installed.
        PlanError: ``path`` ends otherwise.
    """
    kinds: dict[str, list[torch.Tensor]] = defaultdict(list)
    for each in found:
        kinds[each.site.rpartition(".")[2]].append(each.phi)
    rows = -(-len(kinds) // COLUMNS)
    columns = min(COLUMNS, len(kinds))
    figure = _figure(3.0 * columns + 1.2, 3.0 * rows + 0.6)
    all_axes = figure.subplots(rows, columns, squeeze=False)
    for axes in all_axes.flat[len(kinds) :]:
        axes.set_visible(False)
    for axes, (kind, maps) in zip(all_axes.flat, kinds.items(), strict=False):
        # Where ranks differ from site to site, what all sites of the kind have.
        smallest = [min(each.shape[side] for each in maps) for side in (0, 1)]
        mean = torch.stack([each[: smallest[0], : smallest[1]] for each in maps]).mean(dim=0)
        mean = mean.round(decimals=9)  # singular vectors are not the same to the last bit at each call
        bounds = (0.5, smallest[1] + 0.5, 0.5, smallest[0] + 0.5)
        shown = axes.imshow(mean.cpu().numpy(), vmin=0, vmax=1, origin="lower", extent=bounds, aspect="auto")
        axes.set_title(f"{kind} ({len(maps)})")
        axes.set_xlabel(f"j, {_short(titles[1])}")
        axes.set_ylabel(f"i, {_short(titles[0])}")
    figure.colorbar(shown, ax=list(all_axes.flat), label="φ(i, j)")
    _save(figure, path)


def draw_amplifications(found: Sequence[SiteAmplification], title: str, path: Path) -> None:
    """The factor over the depth of the model, a line for each kind of site, on a logarithmic scale.

    Args:
        found: As `amplifications` answers.
        title: How the adapter is called.
        path: Ends in ``.png`` or ``.svg``.

    Raises:
        DependencyMissing: matplotlib is not installed.
        PlanError: ``path`` ends otherwise.
    """
    kinds: dict[str, list[float]] = defaultdict(list)
    for each in found:
        if each.found.factor is not None:
            kinds[each.site.rpartition(".")[2]].append(each.found.factor)
    figure = _figure(7.0, 4.5)
    axes = figure.subplots()
    for kind, values in kinds.items():
        axes.plot(range(len(values)), values, marker="o", label=kind)
    axes.set_yscale("log")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("site of its kind, from the input on")
    axes.set_ylabel("‖ΔW‖ / ‖Uᵀ W Vᵀ‖")
    axes.set_title(_short(title))
    if kinds:
        axes.legend()
    _save(figure, path)


def _short(reference: str) -> str:
    """The end of a long path, which is what tells adapters apart."""
    return reference if len(reference) <= LONGEST_TITLE else f"…{reference[-LONGEST_TITLE:]}"


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyMissing(
            "drawing needs matplotlib, which is not installed", fix="pip install 'edgelora[pictures]'"
        ) from error
    # A canvas of its own: no window system is asked for, and no global state is touched.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_picture(path: Path) -> None:
    """Refuse a name that tells no kind of picture, before anything is computed for it.

    Raises:
        PlanError: It ends neither in ``.png`` nor in ``.svg``.
    """
    if path.suffix.lower() not in FORMATS:
        raise PlanError(
            f"a picture is written as PNG or SVG, not as {path.name}", fix="end it in .png or .svg"
        )


def _save(figure: Figure, path: Path) -> None:
    check_picture(path)
    from matplotlib import rc_context

    drawn, ending = BytesIO(), path.suffix.lower()
    # Identifiers in an SVG are random without a salt.
    with rc_context({"svg.hashsalt": "edgelora"}):
        figure.savefig(drawn, format=ending[1:], metadata=FORMATS[ending], dpi=150)
    with disk_full_is_an_error(path):
        make_dirs(path.absolute().parent)
        atomic_write(path, drawn.getvalue())
