"""Roofline plot: layers by operations per byte and operations per second, under the roof of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from samedge.benchmarks.measure.child import EXTRA
from samedge.benchmarks.profile.operators import KINDS
from samedge.benchmarks.profile.profile import Profile
from samedge.errors import missing_extra
from samedge.storage.files import storage_errors

_COLOURS: Final[dict[str, str]] = dict(
    zip(
        KINDS,
        ("#d1495b", "#00798c", "#edae49", "#66a182", "#9b6a9e", "#8d96a3", "#2e4057", "#b56b45", "#555555"),
        strict=True,
    )
)
_STYLES: Final = {"fp32": "-", "fp16": "--", "bf16": "-.", "int8": ":"}
_NAMED: Final = 4


def plot_profile(profile: Profile, path: Path) -> None:
    """Write the plot: the roofline, and beside it the share of each kind of work.

    The area of a dot is the time of its layer. Layers without products have no place in the roofline; they appear in
    the shares. The suffix of `path` chooses the format: .png, .svg, .pdf.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "matplotlib", EXTRA, "Drawing a profile") from error
    # Without pyplot there is no window and no global state that could disturb the caller's plots.
    figure: Any = Figure(figsize=(12, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    roofline, shares = figure.subplots(1, 2, width_ratios=(3, 1))
    figure.suptitle(
        f"{profile.graph} of {profile.model} on {profile.backend} ({profile.device}): {profile.run_ms:.1f} ms"
    )
    _roofline(profile, roofline)
    _shares(profile, shares)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)


def _roofline(profile: Profile, axes: Any) -> None:
    dots = [layer for layer in profile.layers if layer.gflop and layer.intensity and layer.gflops]
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s")
    axes.grid(visible=True, which="both", alpha=0.2)
    intensities = [layer.intensity or 1.0 for layer in dots] or [1.0]
    low, high = min(intensities) / 2, max(intensities) * 4
    if profile.peaks is not None:
        for precision, rate in profile.peaks.gflops.items():
            ridge = rate / profile.peaks.gigabytes
            xs = sorted({low, min(max(ridge, low), high * 2), max(high, ridge)})
            ys = [min(rate, x * profile.peaks.gigabytes) for x in xs]
            label = f"{precision}: {rate:.0f} GFLOP/s, {profile.peaks.gigabytes:.1f} GB/s"
            axes.plot(xs, ys, _STYLES.get(precision, "-"), color="black", label=label)
    for kind in KINDS:
        own = [layer for layer in dots if layer.kind == kind]
        if own:
            axes.scatter(
                [layer.intensity for layer in own],
                [layer.gflops for layer in own],
                s=[max(8.0, 1500 * layer.share) for layer in own],
                color=_COLOURS[kind],
                alpha=0.6,
                label=kind,
            )
    for layer in sorted(dots, key=lambda layer: -layer.ms)[:_NAMED]:
        name = layer.nodes[0] if layer.nodes else layer.name
        axes.annotate(name[-32:], (layer.intensity, layer.gflops), fontsize=7, alpha=0.8)
    for handle in axes.legend(fontsize=8, loc="lower right").legend_handles:
        if hasattr(handle, "set_sizes"):  # a dot, whose area means nothing in the legend
            handle.set_sizes([30.0])


def _shares(profile: Profile, axes: Any) -> None:
    rows = list(reversed(profile.kinds))
    bars = axes.barh(
        [row.kind for row in rows], [100 * row.share for row in rows], color=[_COLOURS[row.kind] for row in rows]
    )
    axes.bar_label(bars, fmt="%.1f %%", fontsize=8, padding=2)
    axes.set(xlabel="share of the time, %")
    axes.margins(x=0.2)
