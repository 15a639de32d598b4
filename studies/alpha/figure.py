"""The figure of the analytic study of α: convergence from starts, stability, bias and speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.figures import style
from eval.figures.layout import Drawing, FigureKind, Inches, Runs
from eval.figures.sources import Sources
from eval.results.sheet import Needs
from sida.files.content_hash import csv_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Name of the analysis in the preset.
ANALYSIS = "model"
_Study = dict[str, Any]
#: Marker, colour and name of each outcome of a simulation.
_OUTCOMES = {
    "data": ("o", "#0072B2", "reaches data"),
    "narrow": ("v", "#D55E00", "collapses"),
    "wide": ("^", "#CC79A7", "runs away"),
    "between": ("s", "#7F7F7F", "under way"),
    "stays": ("o", "#0072B2", "stays"),
    "leaves": ("x", "#D55E00", "leaves"),
}
_BIAS = {"narrow": ("#D55E00", "½ as wide"), "right": ("#333333", "as wide"), "wide": ("#0072B2", "2× as wide")}


@dataclass(frozen=True, kw_only=True)
class AlphaFigure(FigureKind):
    """The analysis ``model``; the figure uses no rows of the sheet and has fixed panels."""

    height: Inches = 4.9

    def needs(self, runs: Runs) -> Needs:
        """Needs the analysis."""
        return Needs([], [], analyses={ANALYSIS: []})

    def check(self, sources: Sources) -> None:
        """Refuses a preset without the analysis."""
        sources.analyses(ANALYSIS, [], self.source)

    def build(self, sources: Sources) -> Drawing:
        """Draws the six panels."""
        record = sources.analyses(ANALYSIS, [], self.source)[""]
        study = {**record["more"], "numbers": record["facts"]}
        return Drawing(_draw(self, study), analytic_csv(study))


def _draw(layout: AlphaFigure, study: _Study) -> Figure:
    """Draws six panels; the study has the data of each under the panel's name."""
    figure = style.new_figure(layout.width, layout.height)
    panels: tuple[tuple[str, Callable[[Axes, _Study], None]], ...] = (
        ("a  starts, exact ψ", _starts),
        ("b  stability, limited", _ratios),
        ("c  at rest, limited", _rest),
        ("d  error of the slope", _bias),
        ("e  two modes, exact ψ", lambda axes, study: _distance(axes, study, "exact")),
        ("f  two modes, lagging ψ", lambda axes, study: _distance(axes, study, "lagging")),
    )
    for axes, (title, draw) in zip(figure.subplots(2, 3).flat, panels):
        draw(axes, study)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.grid(True, which="major", linewidth=0.4, color="#dddddd")
        axes.set_axisbelow(True)
    return figure


def _starts(axes: Axes, study: _Study) -> None:
    found = study["starts"]
    _outcomes(axes, study, "starts", (found["low"], found["high"]), "width at the start / data's", 20)
    axes.axhline(found["official_start"], color="#333333", linewidth=0.8, linestyle=":", label="σ_init start")
    _legend(axes, "upper left")


def _ratios(axes: Axes, study: _Study) -> None:
    _outcomes(axes, study, "ratios", (study["ratios"]["needed"],), "rate of ψ / generator's", 4)
    _legend(axes, "upper left")


def _outcomes(axes: Axes, study: _Study, name: str, bars: Sequence[Any], label: str, room: float) -> None:
    """Map of outcomes over α and a setting, with bars; ``room``: factor left free above, for the legend."""
    levels, alphas = study["settings"][name], study["settings"]["alphas"]
    axes.set_yscale("log")
    _map(axes, alphas, levels, study[name]["outcomes"])
    for ends in bars:
        _bars(axes, alphas, ends)
    axes.set_ylabel(label)
    _alpha_axis(axes, alphas)
    _plain_log(axes)
    axes.set_ylim(min(levels) / 1.4, max(levels) * room)


def _rest(axes: Axes, study: _Study) -> None:
    alphas, rest = study["settings"]["alphas"], study["limited"]
    shown = [(alpha, width) for alpha, width in zip(alphas, rest["widths"]) if width is not None]
    axes.plot(*zip(*shown), color="#333333", marker="o", label="at rest")
    axes.axhline(rest["fisher_width"], color="#0072B2", linewidth=0.8, linestyle="--", label="Fisher")
    axes.axhline(rest["frechet_width"], color="#009E73", linewidth=0.8, linestyle="-.", label="Fréchet")
    axes.axvline(rest["frechet_alpha"], color="#009E73", linewidth=0.6, linestyle=":")
    limit = study["numbers"].get("no_rest_above")
    if limit is not None and limit < max(alphas):
        axes.axvspan(limit, max(alphas) + 0.1, color="#D55E00", alpha=0.15, linewidth=0, label="no rest")
    axes.set_ylabel("width of the generator")
    _alpha_axis(axes, alphas)
    axes.set_ylim(0, 1.35 * max(width for _, width in shown))
    _legend(axes, "upper left")


def _bias(axes: Axes, study: _Study) -> None:
    alphas = study["settings"]["alphas"]
    for name, (colour, label) in _BIAS.items():
        axes.plot(alphas, [100 * v for v in study["bias"]["lagging"][name]], color=colour, marker="o", label=label)
        axes.plot(alphas, [100 * v for v in study["bias"]["exact"][name]], color=colour, linestyle=":")
    axes.plot([], [], color="#333333", linestyle=":", label="exact ψ")
    axes.axhline(0, color="#333333", linewidth=0.6)
    axes.set_ylabel("error, % of the true slope")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.75 * (high - low))
    _alpha_axis(axes, alphas)
    _legend(axes, "upper left")


def _distance(axes: Axes, study: _Study, kind: str) -> None:
    found = study[kind]
    for alpha, values in zip(study["settings"]["alphas"], found["distance"]):
        look = style.own_look("", alpha, by_alpha=True)
        assert look is not None  # by α every value has one
        axes.plot(found["steps"], values, color=look.colour, label=f"α = {_minus(alpha)}")
    axes.set_yscale("log")
    axes.set_xlabel("steps")
    axes.set_ylabel("KL to the data, nats")
    _plain_log(axes)
    if kind == "exact":
        axes.legend(framealpha=0.9, edgecolor="none", borderpad=0.2, handlelength=1.6, labelspacing=0.2, fontsize=6)


def _map(axes: Axes, alphas: Sequence[float], rows: Sequence[float], outcomes: Sequence[Sequence[str]]) -> None:
    """Draws one mark for each α and row: the outcome of the simulation."""
    for outcome, (marker, colour, label) in _OUTCOMES.items():
        places = [(a, r) for a, line in enumerate(outcomes) for r, found in zip(rows, line) if found == outcome]
        if places:
            axes.plot(*zip(*places), linestyle="none", marker=marker, color=colour, markersize=3.4, label=label)


def _bars(axes: Axes, alphas: Sequence[float], values: Sequence[float | None]) -> None:
    """Draws the predicted limit of each α."""
    places = [(number, value) for number, value in enumerate(values) if value is not None]
    known = "predicted" in axes.get_legend_handles_labels()[1]
    for number, (place, value) in enumerate(places):
        label = None if known or number else "predicted"
        axes.plot([place - 0.4, place + 0.4], [value, value], color="#000000", linewidth=1.4, label=label)


def _alpha_axis(axes: Axes, alphas: Sequence[float]) -> None:
    """Labels the axis of α: categories in the maps, a scale elsewhere."""
    axes.set_xlabel("α")
    if axes.get_yscale() == "log":
        axes.set_xticks(range(len(alphas)), [_minus(alpha) for alpha in alphas], fontsize=6)
        axes.set_xlim(-0.6, len(alphas) - 0.4)
    else:
        axes.set_xlim(min(alphas) - 0.1, max(alphas) + 0.1)


def _plain_log(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes, place: Any) -> None:
    look: dict[str, Any] = {
        "framealpha": 0.9,
        "edgecolor": "none",
        "borderpad": 0.2,
        "handlelength": 1.4,
        "fontsize": 6,
    }
    look |= {"columnspacing": 0.6, "labelspacing": 0.2, "handletextpad": 0.3}
    legend = axes.legend(loc=place, ncols=2, **look)
    # A wide legend would make the panels narrow.
    legend.set_in_layout(False)


def _minus(alpha: float) -> str:
    return f"{alpha:g}".replace("-", "−")


def analytic_csv(study: _Study) -> str:
    """CSV of the figure: one line per mark and point of the panels, and per number of the study."""
    settings = study["settings"]
    alphas = settings["alphas"]
    rows: list[tuple[Any, ...]] = []
    for name, key in (("starts", "starts"), ("ratios", "ratios")):
        for alpha, found, predicted in zip(alphas, study[name]["outcomes"], study[name]["predicted"]):
            rows += [(name, alpha, *line) for line in zip(settings[key], found, predicted)]
    for key in ("low", "high"):
        rows += [(f"starts, {key} limit", alpha, value, "", "") for alpha, value in zip(alphas, study["starts"][key])]
    rows += [("ratios, limit", alpha, value, "", "") for alpha, value in zip(alphas, study["ratios"]["needed"])]
    rows += [("rest, width", alpha, value, "", "") for alpha, value in zip(alphas, study["limited"]["widths"])]
    for kind in ("exact", "lagging"):
        for width, values in study["bias"][kind].items():
            rows += [(f"error, {kind}, {width}", alpha, value, "", "") for alpha, value in zip(alphas, values)]
        for alpha, values in zip(alphas, study[kind]["distance"]):
            rows += [(f"distance, {kind}", alpha, step, value, "") for step, value in zip(study[kind]["steps"], values)]
    rows += [(f"number, {name}", "", value, "", "") for name, value in study["numbers"].items()]
    columns = ("panel", "alpha", "place", "outcome", "predicted")
    return csv_text(columns, (dict(zip(columns, row, strict=True)) for row in rows))
