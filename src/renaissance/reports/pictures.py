"""
Pictures of results, by matplotlib: curves, bars with intervals, and results against their cost. Each function takes plain data and
returns the text of an SVG, which is the same for the same data. The pictures stand in pages and as files; in a page, they take its
colours from the CSS variables `--ink`, `--soft`, `--grid` and `--series-1` to `--series-8`.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from renaissance_cli.extras import require_report_packages

from ..model_cards.plain_text import one_line


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: A point of a curve.
Point = tuple[float, float]
#: What a band covers at a place of the x axis: the place, the lower and the upper end.
Span = tuple[float, float, float]
#: A bar: its label, its value, and the ends of its interval, if that is known.
Bar = tuple[str, float, float | None, float | None]

#: The colours of Okabe and Ito (2008), which colour-blind readers can tell apart; the yellow one is dark enough for white paper.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#5b5b5b")
INK, SOFT, GRID = "#1b2129", "#5d6875", "#dfe3e8"
#: Where colours repeat, the lines differ.
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = "osD^vPX*"
LINES = "stroke-linejoin: round; stroke-linecap: butt"
#: Numbers beyond this cannot be drawn beside others.
LARGEST = 1e100
#: Inches, and the largest number of characters of a label.
WIDTH, HEIGHT, LONGEST = 4.7, 2.9, 34

SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "renaissance",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def curves(
    series: Mapping[str, Sequence[Point]],
    x_label: str,
    y_label: str,
    levels: Mapping[str, float] | None = None,
    bands: Mapping[str, Sequence[Span]] | None = None,
) -> str:
    """
    Return a picture of curves, such as losses by step.

    Args:
        series: The points of each curve, by its label. A value that is not finite makes a gap.
        x_label, y_label: What the axes show, with the unit.
        levels: Values to compare with, such as a baseline, by label; each is a dashed horizontal line.
        bands: What lies around a curve, such as the range over seeds, by its label.

    Raises:
        ValueError: If there is no finite point, or matplotlib is missing.
    """
    require_values((y for points in series.values() for _, y in points), y_label)
    levels = {label: value for label, value in (levels or {}).items() if can_be_drawn(value)}

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        for number, (label, points) in enumerate(series.items()):
            colour, dash = SERIES[number % len(SERIES)], DASHES[number // len(SERIES) % len(DASHES)]
            found = [(x, y if can_be_drawn(y) else math.nan) for x, y in points if can_be_drawn(x)]
            if not found:
                continue
            few = len(found) <= 12
            marker = {"marker": MARKERS[number % len(MARKERS)], "markersize": 3.5} if few else {}
            axes.plot(*zip(*found, strict=True), color=colour, linestyle=dash, label=shown(label), **marker)
            band = [span for span in (bands or {}).get(label, ()) if all(map(can_be_drawn, span))]
            if band:
                axes.fill_between(*zip(*band, strict=True), color=colour, alpha=0.16, linewidth=0)
        draw_levels(axes, levels)
        axes.margins(x=0.02, y=0.08)
        if all(float(x).is_integer() for points in series.values() for x, _ in points if can_be_drawn(x)):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))

    return picture(draw, x_label, y_label, legend=len(series) + len(levels) > 1)


def bars(rows: Sequence[Bar], value_label: str, levels: Mapping[str, float] | None = None) -> str:
    """
    Return a picture of horizontal bars, the first one on top, each with its value and, if both ends are known, its interval.

    Args:
        rows: The label, the value, and the lower and upper end of the interval of each bar. A value that is not finite has no bar.
        value_label: What the values are, with the unit and the kind of the interval.
        levels: Values to compare with, such as a baseline, by label.

    Raises:
        ValueError: If there is no finite value, or matplotlib is missing.
    """
    require_values((row[1] for row in rows), value_label)
    levels = {label: value for label, value in (levels or {}).items() if can_be_drawn(value)}
    ends = [end for row in rows for end in row[1:] if end is not None and can_be_drawn(end)]
    ends += [*levels.values(), 0.0]

    def draw(axes: "Axes") -> None:
        for place, (_, value, low, high) in enumerate(rows):
            if not can_be_drawn(value):
                continue
            axes.barh(place, value, height=0.6, color=SERIES[0], alpha=0.85)
            known = None not in (low, high) and can_be_drawn(low) and can_be_drawn(high)
            if known:
                axes.plot([low, high], [place, place], color=INK, linewidth=1.2, marker="|", markersize=7)
            right = max(value, high if known else value, 0.0)
            axes.annotate(
                f"{value:.3f}" if abs(value) < 1e4 else f"{value:.3g}",
                (right, place),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_yticks(range(len(rows)), [shown(row[0]) for row in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        left, right = min(ends), max(ends)
        axes.set_xlim(left * 1.05, right + (right - left or 1.0) * 0.14)
        draw_levels(axes, levels, vertical=True)

    return picture(draw, value_label, "", legend=bool(levels), height=1.0 + 0.34 * len(rows))


def pareto(
    points: Sequence[tuple[str, float, float]], x_label: str, y_label: str, lower_is_better: bool = False
) -> str:
    """
    Return a picture of results against their cost, with the Pareto front. A point is on the front unless another is at least as cheap
    and better, or cheaper and as good.

    Args:
        points: The label, the cost (above 0, on a logarithmic axis) and the result of each point. Others than finite ones are left out.
        x_label, y_label: What cost and result are, with the unit.
        lower_is_better: Whether a lower result is better, as of a loss.

    Raises:
        ValueError: If there is no point, or matplotlib is missing.
    """
    kept = [point for point in points if point[1] > 0 and can_be_drawn(point[1]) and can_be_drawn(point[2])]
    require_values((y for _, _, y in kept), y_label)
    best = front([(x, y) for _, x, y in kept], lower_is_better)

    def draw(axes: "Axes") -> None:
        axes.set_xscale("log")
        xs, ys = [kept[number][1] for number in best], [kept[number][2] for number in best]
        axes.step(xs, ys, where="post", color=SERIES[1], linewidth=1.4, label="Pareto front", zorder=2)
        for number, (_, x, y) in enumerate(kept):
            on_front = number in best
            colour = SERIES[1] if on_front else SERIES[0]
            axes.plot(x, y, color=colour, marker="D" if on_front else "o", markersize=6, linestyle="none", zorder=3)
        costs = [x for _, x, _ in kept]
        # Room for labels, also if all cost the same.
        axes.set_xlim(min(costs) / 1.6, max(costs) * 1.6)
        axes.margins(y=0.2)
        name_points(axes, kept)
        plain_log_ticks(axes)

    return picture(draw, x_label, y_label, legend=True)


def front(points: Sequence[Point], lower_is_better: bool = False) -> list[int]:
    """Return the numbers of the points (cost, result) on the Pareto front, the cheapest first; of equal ones the first."""
    sign = 1 if lower_is_better else -1
    order = sorted(range(len(points)), key=lambda number: (points[number][0], sign * points[number][1], number))
    best, found = math.inf, []
    for number in order:
        if sign * points[number][1] < best:
            best = sign * points[number][1]
            found.append(number)
    return found


def name_points(axes: "Axes", points: Sequence[tuple[str, float, float]]) -> None:
    """Write the label of each point above, below or beside it, in the first of these places in which nothing is yet."""
    # Points of 1/72 inch, in which a letter is about 4.6 wide.
    at = axes.transData.transform([(x, y) for _, x, y in points]) * 72 / axes.figure.dpi
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    for (label, *point), (x, y) in zip(points, at, strict=True):
        text = shown(label)
        half = 2.3 * len(text)
        places = [(0, 7, "center"), (0, -14, "center"), (8, -3, "left"), (-8, -3, "right")]
        boxes = []
        for right, up, side in places:
            left = x + right - {"center": half, "left": 0, "right": 2 * half}[side]
            boxes.append((left, y + up, left + 2 * half, y + up + 8))
        chosen = next((place for place, box in enumerate(boxes) if not any(overlap(box, other) for other in taken)), 0)
        taken.append(boxes[chosen])
        right, up, side = places[chosen]
        axes.annotate(text, point, (right, up), textcoords="offset points", ha=side, fontsize=8)


def overlap(box: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether two boxes (left, bottom, right, top) have more than an edge in common."""
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def draw_levels(axes: "Axes", levels: Mapping[str, float], vertical: bool = False) -> None:
    """Draw values to compare with as dashed lines."""
    for number, (label, value) in enumerate(levels.items()):
        line = axes.axvline if vertical else axes.axhline
        line(value, color=SOFT, linewidth=1.0, linestyle=DASHES[1 + number % 3], label=shown(label))


def plain_log_ticks(axes: "Axes") -> None:
    """Label the ticks of a logarithmic x axis with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    between = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=between))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", size=0)


def picture(draw: Callable[["Axes"], None], x_label: str, y_label: str, legend: bool, height: float = HEIGHT) -> str:
    """Return the SVG of one pair of axes that `draw` fills. It does not depend on the user's settings of matplotlib."""
    require_report_packages()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # Letters that the measuring font lacks are drawn by the browser.
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(shown(x_label, 70))
        axes.set_ylabel(shown(y_label, 50))
        if legend:
            add_legend(figure, axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return tidied(file.getvalue(), f"{y_label} against {x_label}" if y_label else x_label)


def add_legend(figure: "Figure", axes: "Axes") -> None:
    """Add a legend above the axes, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels))
    columns = 3 if longest <= 16 else 2 if longest <= 26 else 1
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=2.2, columnspacing=1.2)


def tidied(svg: str, description: str) -> str:
    """
    Return an SVG for a page: without the declarations of a file, with names that no other picture has, as wide as there is room, with
    colours that follow the page.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Its style sheet would hold for the whole page; these two properties are passed on to what is in the picture.
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = svg.replace("font-family: 'DejaVu Sans', sans-serif", "font-family: system-ui, 'DejaVu Sans', sans-serif")
    box = re.search(r'viewBox="([^"]*)"', svg)[1]
    start = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}"'
    label = escape(one_line(description), quote=True)
    svg = re.sub(r"<svg [^>]*>", lambda _: f'{start} role="img" aria-label="{label}" style="{LINES}">', svg, count=1)
    names = {INK: "ink", SOFT: "soft", GRID: "grid"}
    names |= {colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)}
    for colour, name in names.items():
        svg = re.sub(rf"((?:fill|stroke): ){colour}\b", rf"\1var(--{name}, {colour})", svg)
    return svg.strip() + "\n"


def shown(label: Any, longest: int = LONGEST) -> str:
    """Return a label on one line, cut in its middle if it is long: names of runs often differ at both ends."""
    # matplotlib leaves labels that begin with an underscore out of legends; a word joiner before it is not seen.
    text = one_line(label)
    if len(text) > longest:
        half = (longest - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return f"\u2060{text}" if text.startswith("_") else text


def require_values(values: Iterable[float], label: str) -> None:
    """Raise `ValueError` if no value can be drawn."""
    if not any(can_be_drawn(value) for value in values):
        raise ValueError(f"no picture of {one_line(label)}: expected at least one finite value")


def can_be_drawn(value: float) -> bool:
    """Return whether a value is finite, and not so large that all others would be drawn as one."""
    return math.isfinite(value) and abs(value) < LARGEST
