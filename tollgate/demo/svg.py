"""Makes an SVG picture of a demonstration, from what a real run showed."""

import io
import re
from html import escape, unescape
from itertools import groupby
from pathlib import Path
from typing import Final

from rich.cells import cell_len
from rich.console import Console, Group
from rich.text import Text

from tollgate.demo.progress import Progress
from tollgate.demo.screen import picture
from tollgate.demo.summary import Summary, report

WIDTH: Final = 80
BEST_AT: Final = 0.7
"""The part of the jobs that is created when the picture is taken."""


class Still:
    """Keeps one frame of a run, and writes it as SVG."""

    def __init__(self) -> None:
        """Begin with no picture."""
        self._taken: Group | None = None
        self._at_s = 0.0

    def look(self, progress: Progress) -> None:
        """Keep the picture if this is the right frame."""
        if self._taken is None and progress.created >= BEST_AT * progress.jobs:
            self._taken = picture(progress, WIDTH)
            self._at_s = progress.elapsed_s

    def save(self, path: Path, summary: Summary) -> None:
        """Write the picture, with the summary below it, to `path`."""
        console = Console(
            record=True,
            file=io.StringIO(),
            width=WIDTH,
            force_terminal=True,
            color_system="truecolor",
            highlight=False,
        )
        later = f" {summary.elapsed_s - self._at_s:.0f} seconds later "
        console.print(Text.assemble(("$ ", "green"), "tollgate demo"))
        console.print(self._taken or Text())
        console.print(Text(f"\n  {later:─^{WIDTH - 4}}\n", style="bright_black"))
        console.print(report(summary), end="")
        drawing = console.export_svg(title="tollgate demo", code_format=_FORMAT, unique_id="demo")
        path.write_text(_TEXT.sub(_cell_by_cell, drawing), encoding="utf-8")


def _cell_by_cell(match: re.Match[str]) -> str:
    """Give wide characters two cells: rich counts characters, and would compress the text."""
    kind, x, y, length, clip, content = match.groups()
    text = unescape(content)
    cell, at, parts = float(length) / len(text), float(x), []
    for _, run in groupby(text, key=lambda character: cell_len(character) > 1):
        part = "".join(run)
        width = cell_len(part) * cell
        parts.append(  # all spaces are no-break spaces here
            f'<text class="{kind}" x="{at:g}" y="{y}" textLength="{width:g}" clip-path="{clip}">'
            f"{escape(part)}</text>"
        )
        at += width
    return "".join(parts)


_TEXT: Final = re.compile(
    r'<text class="(demo-r\d+)" x="(.+?)" y="(.+?)" textLength="(.+?)" clip-path="(.+?)">'
    r"(.+?)</text>"
)
_FONTS: Final = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
_FORMAT: Final = f"""\
<svg viewBox="0 0 {{width}} {{height}}" xmlns="http://www.w3.org/2000/svg">
<style>
.{{unique_id}}-matrix {{{{ font-family: {_FONTS}; font-size: {{char_height}}px; }}}}
.{{unique_id}}-title {{{{ font-family: {_FONTS}; font-size: 18px; }}}}
{{styles}}
</style>
<defs>
<clipPath id="{{unique_id}}-clip-terminal">
<rect x="0" y="0" width="{{terminal_width}}" height="{{terminal_height}}"/>
</clipPath>
{{lines}}
</defs>
{{chrome}}
<g transform="translate({{terminal_x}}, {{terminal_y}})"
  clip-path="url(#{{unique_id}}-clip-terminal)">
{{backgrounds}}
<g class="{{unique_id}}-matrix">
{{matrix}}
</g>
</g>
</svg>
"""
"""rich's own format loads fonts from the web; this one uses fonts that the reader has."""
