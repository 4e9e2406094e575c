"""How every picture looks, whatever it shows. Pure constants until a picture is drawn: matplotlib is imported by whoever draws.

Every picture is 1600 pixels wide, drawn for 800 CSS pixels, so it is crisp on a dense screen. Colours are Okabe and Ito's, which people
with any colour vision tell apart; what they say is also said by marker shape, hatching or a label.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sla_planner.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 200
WIDTH_IN = 8.0
INK, MUTED, FAINT, SAVED = "#24292f", "#6b7480", "#d5dae0", "#eef1f4"
MISS = "#d55e00"
BLUE, GREEN = "#0072b2", "#009e73"
ROUND = [1, 2, 2.5, 5, 10]  # tick steps
BESIDE: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "fontsize": 6.8, "va": "center", "annotation_clip": False}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "text.color": INK,
    "text.parse_math": False,  # a `$` in a model's name is a dollar sign
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 7.0,
    "axes.titlesize": 8.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#eceff2",
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.frameon": False,
    "legend.fontsize": 6.8,
    "legend.labelcolor": INK,
    "legend.borderpad": 0.0,
    "legend.borderaxespad": 0.0,
    "legend.columnspacing": 1.3,
    "legend.handlelength": 1.5,
    "legend.handletextpad": 0.5,
    "lines.solid_capstyle": "butt",
    "hatch.linewidth": 0.6,
}


def needs_matplotlib() -> UsageError:
    """What to raise where it is not installed."""
    return UsageError("pictures need matplotlib, which is not installed", hint="pip install matplotlib")


@contextmanager
def styled() -> Iterator[None]:
    """Within it, figures are made in this style."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a model's name may hold signs that DejaVu has not
        yield


def png(figure: Figure) -> bytes:
    """The picture at 200 dots per inch: 1600 pixels wide."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def short_number(value: float, _position: object = None) -> str:
    """1,500 as `1,500`, 15,000 as `15k`: for ticks."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 10_000 else f"{value:,.10g}"
