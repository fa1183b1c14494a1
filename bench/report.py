"""Tables and the file of results. Everything here is a function of the results alone."""

import statistics

# What the others are compared with.
BASES = {"bare-pingora": "÷ bare pingora", "nginx-lua": "÷ nginx + Lua", "haproxy-lua": "÷ HAProxy + Lua"}


def median(rounds, key):
    return statistics.median(figures[key] for figures in rounds)


def number(value, digits):
    return f"{value:,.{digits}f}"


def table(figures, rows, failed, titles):
    """Lines of cells, the first is the heading. `figures` and what `rows` hold are those of the scenario."""
    bases = {name: title for name, title in BASES.items() if name in rows}
    compared = [figure for figure in figures if figure.ratio]
    heading = ["subject"]
    for figure in figures:
        heading.append(figure.title)
        if figure.ratio:
            heading.append("min–max")
            heading.extend(bases.values())
    lines = [heading]
    order = list(rows)
    if compared:
        order.sort(key=lambda name: median(rows[name], compared[0].key), reverse=compared[0].higher)
    for name in order:
        rounds, cells = rows[name], [titles[name]]
        for figure in figures:
            values = [it[figure.key] for it in rounds]
            cells.append(number(statistics.median(values), figure.digits))
            if figure.ratio:
                cells.append(f"{number(min(values), figure.digits)}–{number(max(values), figure.digits)}")
                cells.extend(number(statistics.median(values) / median(rows[base], figure.key), 2) for base in bases)
        lines.append(cells)
    for name, reason in failed.items():
        lines.append([titles[name], f"not measured: {reason}"])
    return lines


def terminal(lines):
    full = [line for line in lines if len(line) == len(lines[0])]
    widths = [max(len(line[column]) for line in full) for column in range(len(lines[0]))]
    widths[0] = max(len(line[0]) for line in lines)
    text = []
    for line in lines:
        if line in full:
            cells = [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]
        else:
            cells = [line[0].ljust(widths[0]), *line[1:]]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def markdown(lines):
    columns = len(lines[0])
    text = ["| " + " | ".join(lines[0]) + " |", "|---|" + "---:|" * (columns - 1)]
    for line in lines[1:]:
        cells = [cell.replace("|", "\\|") for cell in line]
        text.append("| " + " | ".join(cells + [""] * (columns - len(line))) + " |")
    return "\n".join(text)
