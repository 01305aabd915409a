"""A report as a list of blocks that can be written as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal, Protocol

from safe_bench.metrics import Estimate
from safe_bench.results import Rate

NO_DATA = "-"
MIME = {".png": "image/png", ".gif": "image/gif"}

STYLE = """
:root { color-scheme: light; --ink: #1d2430; --soft: #5b6573; --line: #dde2e8; --accent: #0b5cad; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 74rem; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: .5rem 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-bottom: .3rem; border-bottom: 2px solid var(--line); }
p, li, summary { overflow-wrap: anywhere; }
p.note, figcaption { color: var(--soft); font-size: .875rem; max-width: 52rem; }
p.warning { margin: .5rem 0; padding: .6rem .9rem; background: #fff5dc; border-left: 4px solid #d98e04; }
div.claim { margin: 1rem 0; padding: .1rem 1rem; background: #eef4fb; border-left: 4px solid var(--accent); }
div.claim p:first-child { font-weight: 600; font-size: 1.05rem; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th { text-align: right; font-weight: 600; border-bottom: 2px solid #aab3be; vertical-align: bottom; }
th.words, td.words { text-align: left; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; min-width: 7.5rem; }
td .interval { display: block; color: var(--soft); font-size: .8rem; white-space: nowrap; }
tbody tr:hover td { background: #f6f8fa; }
figure { margin: 1rem 0 1.75rem; }
figure img { display: block; max-width: 100%; height: auto; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
.gallery figure { margin: 0; } .gallery img { width: 100%; border: 1px solid var(--line); border-radius: 4px; }
details { margin: .4rem 0; border: 1px solid var(--line); border-radius: 4px; padding: .4rem .8rem; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.4; }
@media (max-width: 40rem) { body { padding: .75rem .75rem 3rem; } h1 { font-size: 1.4rem; } }
"""


class Block(Protocol):
    """A part of a report."""

    def markdown(self) -> str:
        """As Markdown, without a blank line at the end."""

    def html(self, folder: Path) -> str:
        """As HTML; pictures are read from the folder."""


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2

    def markdown(self) -> str:
        """As Markdown."""
        return f"{'#' * self.level} {self.text}"

    def html(self, folder: Path) -> str:
        """As HTML."""
        return f"<h{self.level}>{escape(self.text)}</h{self.level}>"


@dataclass(frozen=True)
class Paragraph:
    """Plain text; ``kind`` decides how it looks."""

    text: str
    kind: Literal["text", "note", "warning"] = "text"

    def markdown(self) -> str:
        """As Markdown."""
        return f"> **Warning:** {self.text}" if self.kind == "warning" else self.text

    def html(self, folder: Path) -> str:
        """As HTML."""
        prefix = "<strong>Warning:</strong> " if self.kind == "warning" else ""
        return f'<p class="{self.kind}">{prefix}{escape(self.text)}</p>'


@dataclass(frozen=True)
class Claim:
    """Sentences that stand out, the first one most."""

    sentences: Sequence[str]

    def markdown(self) -> str:
        """As Markdown."""
        first, *others = self.sentences
        return "\n".join([f"**{first}**", *([""] if others else []), *(f"- {sentence}" for sentence in others)])

    def html(self, folder: Path) -> str:
        """As HTML."""
        first, *others = self.sentences
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in others)
        return f'<div class="claim"><p>{escape(first)}</p>{f"<ul>{items}</ul>" if items else ""}</div>'


@dataclass(frozen=True)
class Table:
    """A table; a cell is text, or a number and its interval.

    Attributes:
        header: of the columns.
        rows: cells.
        words: columns that are aligned to the left, because they hold words.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: Sequence[int] = (0,)

    def markdown(self) -> str:
        """As Markdown."""
        head = [_pipes(self.header), _pipes([":--" if i in self.words else "--:" for i in range(len(self.header))])]
        return "\n".join(head + [_pipes([_plain(cell).replace("|", "\\|") for cell in row]) for row in self.rows])

    def html(self, folder: Path) -> str:
        """As HTML."""
        head = self._html_row("th", [escape(text) for text in self.header])
        body = "\n".join(self._html_row("td", map(_html_cell, row)) for row in self.rows)
        return f'<div class="scroll"><table><thead>{head}</thead><tbody>\n{body}\n</tbody></table></div>'

    def _html_row(self, tag: str, cells: Iterable[str]) -> str:
        opened = (f'<{tag} class="words">' if i in self.words else f"<{tag}>" for i in range(len(self.header)))
        return f"<tr>{''.join(f'{start}{cell}</{tag}>' for start, cell in zip(opened, cells, strict=True))}</tr>"


@dataclass(frozen=True)
class Picture:
    """A picture file in the folder of the report."""

    file: str
    alt: str
    caption: str = ""

    def markdown(self) -> str:
        """As Markdown."""
        return f"![{self.alt}]({self.file})" + (f"\n\n{self.caption}" if self.caption else "")

    def html(self, folder: Path) -> str:
        """As HTML, with the picture inside."""
        path = folder / self.file
        data = base64.b64encode(path.read_bytes()).decode()
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        source = f"data:{MIME[path.suffix]};base64,{data}"
        return f'<figure><img src="{source}" alt="{escape(self.alt)}">{caption}</figure>'


@dataclass(frozen=True)
class Gallery:
    """Small pictures beside each other."""

    pictures: Sequence[Picture]

    def markdown(self) -> str:
        """As Markdown."""
        return "\n\n".join(picture.markdown() for picture in self.pictures)

    def html(self, folder: Path) -> str:
        """As HTML."""
        return f'<div class="gallery">{"".join(picture.html(folder) for picture in self.pictures)}</div>'


@dataclass(frozen=True)
class Details:
    """Preformatted text that is folded away."""

    summary: str
    text: str

    def markdown(self) -> str:
        """As Markdown (with the HTML tags that GitHub folds)."""
        return f"<details><summary>{escape(self.summary)}</summary>\n\n```json\n{self.text}\n```\n\n</details>"

    def html(self, folder: Path) -> str:
        """As HTML."""
        return f"<details><summary>{escape(self.summary)}</summary><pre>{escape(self.text)}</pre></details>"


Cell = str | Estimate | Rate


def to_markdown(blocks: Sequence[Block]) -> str:
    """The whole report as Markdown."""
    return "\n\n".join(block.markdown() for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], title: str, folder: Path) -> str:
    """The whole report as one page that needs nothing else."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    body = "\n".join(block.html(folder) for block in blocks)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


# ---------------------------------------------------------------------- cells


def number_text(value: float) -> str:
    """A number with about three significant digits; a dash for NaN."""
    if math.isnan(value):
        return NO_DATA
    if value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent_text(share: float) -> str:
    """A share in per cent, with three significant digits at most."""
    return f"{100 * share:.3g}%"


def interval_text(cell: Estimate | Rate) -> str:
    """The interval of a cell; empty where there is none to show."""
    if isinstance(cell, Rate):
        low, high = cell.interval
        return f"[{percent_text(low)}, {percent_text(high)}]" if cell.n else ""
    return f"[{number_text(cell.low)}, {number_text(cell.high)}]" if cell.has_interval else ""


def point_text(cell: Cell) -> str:
    """The cell without its interval."""
    if isinstance(cell, Rate):
        return percent_text(cell.share) if cell.n else NO_DATA
    return cell if isinstance(cell, str) else number_text(cell.point)


def estimate_text(cell: Estimate | Rate) -> str:
    """A number and its interval on one line."""
    return f"{point_text(cell)} {interval_text(cell)}".strip()


def _plain(cell: Cell) -> str:
    return cell if isinstance(cell, str) else estimate_text(cell)


def _html_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escape(cell)
    interval = f'<span class="interval">{interval_text(cell)}</span>' if interval_text(cell) else ""
    return f"{point_text(cell)}{interval}"


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
