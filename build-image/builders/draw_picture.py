"""Draw an image: layers, and the paths in them, each with an area in proportion to its bytes.

The attributes are those of draw_picture.nix. Writes an SVG picture as `out`: a treemap of layers,
numbered, colored by their reasons, each a treemap of its paths. Pointing at a path shows its full
name; what is smaller than half a pixel is left out.

M. Bruls, K. Huizing, J. J. van Wijk, "Squarified Treemaps", Data Visualization 2000.
"""

from __future__ import annotations

import re
from itertools import cycle

from attributes import read_attributes, read_json
from group_layers import format_bytes, store_name

WIDTH, HEIGHT, HEADER = 1200, 800, 60

# Of the reasons; light ones, which color-blind people can tell apart, too.
COLORS = "#77aadd #99ddff #44bb99 #eedd88 #ee8866 #bbcc33 #dddddd #ffaabb #aaaa00".split()
# Of what is beside the layers and between them: seen on light and on dark pages
INK = "#768390"


def draw(explanation: dict) -> str:
    """Return the picture of an explanation, as group_layers.explain has it."""
    layers = explanation["layers"]
    reasons = list(dict.fromkeys(layer["reason"] for layer in layers))
    colors = dict(zip(reasons, cycle(COLORS)))
    total = format_bytes(explanation["size"])
    title = f"{explanation['paths']} paths, {total}, in {len(layers)} layers"
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + HEADER}"'
        ' font-family="sans-serif" font-size="14">',
        f'<text x="4" y="22" font-size="18" fill="{INK}">{title}</text>',
    ]
    for place, reason in enumerate(reasons):
        x = 4 + 110 * place
        svg.append(f'<rect x="{x}" y="36" width="14" height="14" fill="{colors[reason]}"/>')
        svg.append(f'<text x="{x + 20}" y="48" fill="{INK}">{_escape(reason)}</text>')
    by_size = sorted(layers, key=lambda layer: -layer["size"])
    outer = treemap([layer["size"] for layer in by_size], 0, HEADER, WIDTH, HEIGHT)
    for layer, (x, y, w, h) in zip(by_size, outer):
        if w * h < 0.5:
            break
        fill = colors[layer["reason"]]
        title = f"{layer['layer']} {store_name(layer['name'])}, {format_bytes(layer['size'])}"
        svg.append("<g>" + _cell(x, y, w, h, fill, 3, f"layer {title}"))
        if len(layer["contents"]) > 1:
            if w > 80 and h > 40:
                svg.append(_label(x + 3, y, w, 18, title))
                y, h = y + 18, h - 18
            paths = sorted(layer["contents"], key=lambda item: (-item[1], item[0]))
            inner = treemap([size for _, size in paths], x + 3, y + 3, w - 6, h - 6)
            for (path, size), (x, y, w, h) in zip(paths, inner):
                if w * h < 0.5:
                    break
                name = store_name(path)
                svg.append(_cell(x, y, w, h, fill, 1, f"{name}, {format_bytes(size)}"))
                svg.append(_label(x, y, w, h, name))
        else:
            svg.append(_label(x, y, w, h, title))
        svg.append("</g>")
    return "\n".join(filter(None, [*svg, "</svg>\n"]))


def treemap(sizes: list[int], x: float, y: float, width: float, height: float) -> list[tuple]:
    """Divide a rectangle among sizes, largest first: x, y, width and height of each.

    Rows are filled along the shorter side as long as that makes their cells more like squares.
    """
    sizes = [max(size, 1) for size in sizes]
    width, height = max(width, 0.01), max(height, 0.01)
    scale = width * height / sum(sizes)
    cells: list[tuple] = []
    while len(cells) < len(sizes):
        start = len(cells)
        side = max(min(width, height), 1e-9)
        row, count, longest = 0, 0, float("inf")
        for size in sizes[start:]:
            thickness = (row + size) * scale / side
            ratio = max(sizes[start] * scale / thickness**2, thickness**2 / (size * scale))
            if ratio > longest:
                break
            row, count, longest = row + size, count + 1, ratio
        thickness = row * scale / side
        offset = 0.0
        for size in sizes[start : start + count]:
            length = size * scale / thickness
            if width >= height:
                cells.append((x, y + offset, thickness, length))
            else:
                cells.append((x + offset, y, length, thickness))
            offset += length
        if width >= height:
            x, width = x + thickness, width - thickness
        else:
            y, height = y + thickness, height - thickness
    return cells


def _cell(x: float, y: float, w: float, h: float, fill: str, gap: float, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}"'
        f' stroke="{INK}" stroke-width="{gap}"><title>{_escape(title)}</title></rect>'
    )


def _label(x: float, y: float, w: float, h: float, text: str) -> str:
    """Return text in a cell, smaller or cut where it must be, or nothing."""
    size = max(8.0, min(14.0, h * 0.7, 1.6 * (w - 8) / max(len(text), 1)))
    room = int(1.6 * (w - 8) / size)
    if room < min(len(text), 4) or h < 11:
        return ""
    if len(text) > room:
        text = text[: room - 1] + "\u2026"
    return (
        f'<text x="{x + 4:.1f}" y="{y + min(h / 2, 12) + size * 0.35:.1f}" font-size="{size:.1f}"'
        f' pointer-events="none">{_escape(text)}</text>'
    )


def _escape(text: str) -> str:
    text = re.sub("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def main() -> None:
    attributes = read_attributes()
    with open(attributes["outputs"]["out"], "w", encoding="utf-8") as file:
        file.write(draw(read_json(attributes["explanation"])))


if __name__ == "__main__":
    main()
