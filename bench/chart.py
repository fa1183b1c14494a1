"""A bar chart as SVG, readable on light and on dark pages, with the reader's own font."""

import statistics
from xml.sax.saxutils import escape

WIDTH, LABELS, VALUES = 760, 240, 120
BAR, GAP, TOP, BOTTOM = 20, 10, 58, 16

STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328; }
    .title { font-size: 15px; font-weight: 600; }
    .note { fill: #59636e; }
    .label { text-anchor: end; }
    .peer { fill: #8c959f; }
    .ours { fill: #0969da; }
    .spread { stroke: #1f2328; stroke-width: 1.5; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .note { fill: #9198a1; }
      .peer { fill: #656c76; }
      .ours { fill: #4493f8; }
      .spread { stroke: #e6edf3; }
    }
"""


def bars(title, note, rows):
    """`rows` are (label, whether it is ours, median, least, most), in the order in which they are drawn."""
    most = max((row[4] for row in rows), default=1) or 1
    scale = (WIDTH - LABELS - VALUES) / most
    height = TOP + len(rows) * (BAR + GAP) + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"  <title>{escape(title)}</title>",
        f"  <style>{STYLE}  </style>",
        f'  <text class="title" x="12" y="24">{escape(title)}</text>',
        f'  <text class="note" x="12" y="44">{escape(note)}</text>',
    ]
    for index, (label, ours, median, low, high) in enumerate(rows):
        y = TOP + index * (BAR + GAP)
        middle, text = y + BAR / 2, y + BAR - 5
        lines += [
            f'  <text class="label" x="{LABELS - 10}" y="{text}">{escape(label)}</text>',
            f'  <rect class="{"ours" if ours else "peer"}" x="{LABELS}" y="{y}" width="{median * scale:.1f}" height="{BAR}" rx="2"/>',
            f'  <line class="spread" x1="{LABELS + low * scale:.1f}" y1="{middle:.0f}" x2="{LABELS + high * scale:.1f}" y2="{middle:.0f}"/>',
            f'  <text x="{LABELS + high * scale + 8:.1f}" y="{text}">{median:.1f}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def of_costs(rows, titles):
    """What a good request costs, by subject."""
    drawn = []
    for name, rounds in rows.items():
        costs = [figures["cpu_us"] for figures in rounds]
        drawn.append((titles[name], name.startswith("gatepost"), statistics.median(costs), min(costs), max(costs)))
    drawn.sort(key=lambda row: row[2])
    note = "2 KB POST, 64 kept connections, one core. The line is the spread of the rounds. Less is better."
    return bars("CPU microseconds per request", note, drawn)
