"""How our SVG pictures look: colours that the colour-blind tell apart, on a light page and on a dark one."""

# Okabe & Ito, "Color Universal Design", 2008: these are told apart with each kind of colour blindness.
BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
GRAY = "#767676"
PAPER, INK, AXIS, GRID = "#ffffff", "#1f2328", "#8c959f", "#d8dee4"
DARK = {PAPER: "#0d1117", INK: "#e6edf3", AXIS: "#6e7681", GRID: "#30363d", BLUE: "#56b4e9", GRAY: "#9e9e9e"}

CONFIG = {
    "background": PAPER,
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": AXIS,
        "tickColor": AXIS,
        "gridColor": GRID,
        "labelFontSize": 12,
        "titleFontSize": 12,
    },
    "legend": {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelLimit": 0,
        "orient": "bottom",
        "columns": 2,
    },
    "header": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12},
    "title": {
        "color": INK,
        "subtitleColor": INK,
        "fontSize": 14,
        "subtitleFontSize": 12,
        "anchor": "start",
        "offset": 8,
    },
    "text": {"color": INK},
}


def with_dark(svg: str) -> str:
    """Return a picture that follows a reader who asks for dark pages, in an `<img>` too."""
    swaps = "".join(
        f'[{of}="{light}"]{{{of}:{dark}}}' for light, dark in DARK.items() for of in ("fill", "stroke")
    )
    head, rest = svg.split(">", 1)
    return f"{head}><style>@media (prefers-color-scheme:dark){{{swaps}}}</style>{rest}"
