#!/usr/bin/env python3
"""Draws the results of scripts/bench limit at one number of connections as SVG: what each limiter adds to a request.

Reads lines "CONNECTIONS KIND NGINX IO REDIS ..." (µs of CPU per request) from stdin. Argument: the number of connections.
"""
import html
import sys

GROUPS = [
    ("Requests that pass", [
        ("limit_req", "limit_req, this host only"),
        ("off", "rate_limit, this host only"),
        ("lease", "rate_limit, Redis, sync=lease"),
        ("strict", "rate_limit, Redis, sync=strict"),
        ("strict_keys", "… every request another key"),
        ("lua", "Lua with lua-resty-redis"),
        ("lua_keys", "… every request another key"),
    ]),
    ("A flood over the limit", [
        ("limit_req_over", "limit_req, this host only"),
        ("over", "rate_limit, Redis"),
        ("lua_over", "Lua with lua-resty-redis"),
    ]),
]
WIDTH, LEFT, RIGHT, ROW, BAR = 860, 250, 190, 26, 16
STYLE = """
    text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
    .title { font-size: 16px; font-weight: 600 } .group { font-weight: 600 } .small { font-size: 12px; fill: #59636e }
    .card { fill: #ffffff; stroke: #d1d9e0 } .grid { stroke: #d1d9e0 } .nginx { fill: #0969da } .redis { fill: #bc4c00 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc } .small { fill: #9198a1 }
      .card { fill: #0d1117; stroke: #3d444d } .grid { stroke: #3d444d } .nginx { fill: #4493f8 } .redis { fill: #f0883e }
    }
"""


def read(connections):
    """{kind: (nginx, redis)}: µs above plain nginx."""
    found = {}
    for line in sys.stdin:
        count, kind, nginx, _, redis, *_ = line.split()
        if count == connections:
            found[kind] = (float(nginx), float(redis))
    none = found["none"][0]
    return {kind: (max(0.0, nginx - none), redis) for kind, (nginx, redis) in found.items()}


def spoken(value):
    return "< 0.1" if value < 0.1 else f"{value:.1f}"


def text(x, y, words, kind="", anchor="start"):
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{attribute}>{html.escape(words)}</text>'


def bar(x, y, width, kind):
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}"/>' if width >= 0.5 else ""


def step_of(most):
    """µs between two lines of the grid."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6) if most / step <= 6)


def row(y, label, value, scale):
    nginx, redis = value
    calls = redis >= 0.1
    words = f"{spoken(nginx)} + {spoken(redis)} µs" if calls else f"{spoken(nginx)} µs"
    yield text(LEFT - 10, y + 13, label, anchor="end")
    yield bar(LEFT, y, nginx * scale, "nginx")
    yield bar(LEFT + nginx * scale, y, redis * scale if calls else 0, "redis")
    yield text(LEFT + (nginx + redis) * scale + 8, y + 13, words)


def body(values):
    """The lines of the chart, and how high it is."""
    most = max(nginx + redis for nginx, redis in values.values())
    scale = (WIDTH - LEFT - RIGHT) / max(most, 1.0)
    lines, y = [], 84
    for title, kinds in GROUPS:
        present = [(kind, label) for kind, label in kinds if kind in values]
        if not present:
            continue
        lines.append(text(24, y + 13, title, "group"))
        y += ROW
        for kind, label in present:
            lines += row(y, label, values[kind], scale)
            y += ROW
        y += 8
    step = step_of(most)
    for place in range(int(most / step) + 1):
        x = LEFT + place * step * scale
        lines.insert(0, f'<path class="grid" d="M{x:.1f} 78V{y}"/>')
        lines.append(text(x, y + 16, f"{place * step} µs", "small", "middle"))
    return lines, y + 34


def main():
    connections = sys.argv[1]
    lines, height = body(read(connections))
    title = f"CPU time that a limit adds to a request, in µs, at {connections} connections"
    legend = [
        text(24, 32, title, "title"),
        bar(24, 44, BAR, "nginx"), text(48, 57, "nginx worker, all its threads, above nginx without a limit"),
        bar(430, 44, BAR, "redis"), text(454, 57, "Redis"),
    ]
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">')
    print(f"<title>{title}</title>\n<style>{STYLE}</style>")
    print(f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>')
    print("\n".join(line for line in legend + lines if line))
    print("</svg>")


main()
