"""Tables and the file of results. Everything here is a function of the results alone."""

import statistics

# What gatepost aims at: what, scenario, figure, and the median of which subject; how it is held against another (scenario, subject); and the
# least or the most that it may be.
TARGETS = [
    ("a good request against bare pingora-proxy", "good", "cpu_us", "gatepost", "ratio", ("good", "bare-pingora"), "at most", 1.00),
    ("a good request against HAProxy + Lua", "good", "cpu_us", "gatepost", "ratio", ("good", "haproxy-lua"), "at most", 1.10),
    ("a good request against nginx + Lua", "good", "cpu_us", "gatepost", "ratio", ("good", "nginx-lua"), "at most", 1.25),
    ("a good request against nginx auth_basic", "good", "cpu_us", "gatepost", "ratio", ("good", "nginx-auth-basic"), "at most", 0.75),
    ("a good request against Caddy", "good", "cpu_us", "gatepost", "ratio", ("good", "caddy"), "at most", 0.35),
    ("a good request against Apache", "good", "cpu_us", "gatepost", "ratio", ("good", "apache"), "at most", 0.35),
    ("asking the policy, µs more than the cache", "good", "cpu_us", "gatepost-uncached", "more", ("good", "gatepost"), "at most", 8),
    ("a 401 against a good request", "bad", "cpu_us", "gatepost", "ratio", ("good", "gatepost"), "at most", 1.00),
    ("p99 latency added at half load, ms", "latency", "added_p99_ms", "gatepost", "", None, "at most", 0.5),
    ("10 MB bodies against nginx, bytes per CPU second", "body-10m", "mb_per_cpu_s", "gatepost", "ratio", ("body-10m", "nginx"), "at least", 0.9),
    ("peak memory with 10 MB bodies, MiB", "body-10m", "peak_mib", "gatepost", "", None, "at most", 40),
    ("memory without load, MiB", "idle", "before_mib", "gatepost", "", None, "at most", 15),
    ("memory with 10,000 idle connections, MiB", "idle", "after_mib", "gatepost", "", None, "at most", 250),
    ("start to ready, ms", "start", "ready_ms", "gatepost", "", None, "at most", 100),
]


def median(rounds, key):
    return statistics.median(figures[key] for figures in rounds)


def number(value, digits):
    return f"{value:,.{digits}f}"


def table(figures, bases, rows, failed, titles):
    """Lines of cells, the first is the heading. `figures` are those of the scenario, and the subjects `bases` what others are compared with."""
    bases = {name: f"÷ {titles[name]}" for name in bases if name in rows}
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


def document(results, lines_of_targets, heading="##"):
    """All of it in markdown: where, with which programs, the targets, and a table for each scenario."""
    machine = results["machine"]
    text = [f"{results['date'][:10]}, {machine['processor']}, {machine['cores']} cores, {machine['system']}, commit {results['commit']}."]
    text.append(", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".")
    if len(lines_of_targets) > 1:
        text += [f"\n{heading} Targets\n", markdown(lines_of_targets)]
    for scenario in results["scenarios"].values():
        text += [f"\n{heading} {scenario['title']}\n", markdown(scenario["table"])]
    return "\n".join(text) + "\n"


def put_between(text, begin, end, what):
    """The text with this between its two marks, which stay."""
    head, mark, rest = text.partition(begin)
    _, closing, tail = rest.partition(end)
    if not mark or not closing:
        raise ValueError(f"no {begin} … {end}")
    return f"{head}{begin}\n\n{what.strip()}\n\n{end}{tail}"


def targets(results):
    """How the targets are met, of those that this run says anything about; where it was measured, by the binary that is built with a profile, too."""

    def found(scenario, subject, key):
        rounds = results.get(scenario, {}).get("rounds", {}).get(subject)
        return median(rounds, key) if rounds else None

    def value(scenario, subject, key, how, other):
        own, base = found(scenario, subject, key), found(*other, key) if other else 0.0
        if own is None or base is None:
            return None
        return own / base if how == "ratio" else own - base

    def profiled(subject):
        return "gatepost-pgo" if subject == "gatepost" else subject

    lines = [["what", "measured", "built with a profile", "target", ""]]
    for what, scenario, key, subject, how, other, bound, limit in TARGETS:
        plain = value(scenario, subject, key, how, other)
        # Without a form with a profile there is no second figure.
        best = value(scenario, profiled(subject), key, how, other and (other[0], profiled(other[1]))) if subject == "gatepost" else None
        if plain is None:
            continue
        digits = 2 if how == "ratio" or limit < 1 else 1

        def reached(it):
            return it is not None and (it <= limit if bound == "at most" else it >= limit)

        verdict = "reached" if reached(plain) else "reached with a profile" if reached(best) else "missed"
        lines.append([what, number(plain, digits), "" if best is None else number(best, digits), f"{bound} {number(limit, digits)}", verdict])
    return lines
