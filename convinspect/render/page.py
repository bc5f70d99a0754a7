"""Steps of a drawing as one self-contained HTML page with buttons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from convinspect.render.cells import safe
from convinspect.render.plain_table import block_cells
from convinspect.render.table import Block, pieces, plain

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>@TITLE@</title>
<style>
body { font: 15px/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; margin: 2em; }
body { background: #fff; color: #1c1c1c; }
pre { font: inherit; line-height: @LINE@; overflow-x: auto; }
pre[hidden] { display: none; }
button { font: inherit; padding: .3em .9em; margin-right: .4em; }
.bold { font-weight: bold; }
.dim { opacity: .6; }
.cyan { color: #00707a; }
.active { color: #000; font-weight: bold; }
@media (prefers-color-scheme: dark) {
  body { background: #15181c; color: #dcdfe4; }
  .cyan { color: #56c2cc; }
}
</style>
<h1 style="font-size:1.1em">@TITLE@</h1>
<p><button id="back">◀ back</button><button id="next">next ▶</button><button id="play">play</button>
<span id="place"></span></p>
"""

_SCRIPT = """<script>
const steps = [...document.querySelectorAll("pre")];
let at = 0, timer = null;
function show(n) {
  at = Math.max(0, Math.min(steps.length - 1, n));
  steps.forEach((step, i) => { step.hidden = i !== at; });
  document.getElementById("place").textContent = (at + 1) + " of " + steps.length;
}
function play() {
  if (timer) { clearInterval(timer); timer = null; return; }
  timer = setInterval(() => show(at + 1 < steps.length ? at + 1 : 0), 800);
}
document.getElementById("back").onclick = () => show(at - 1);
document.getElementById("next").onclick = () => show(at + 1);
document.getElementById("play").onclick = play;
document.onkeydown = (event) => {
  if (event.key === "ArrowRight") show(at + 1);
  if (event.key === "ArrowLeft") show(at - 1);
};
show(0);
</script>
</html>
"""


def page(steps: Sequence[Block], title: str) -> Iterator[str]:
    """The page, in parts.

    Args:
        steps: One after another.
        title: Above them.
    """
    # Lines that are drawn with letters meet only where these stand close together.
    drawn = any("│" in plain(line) for step in steps for line in step.lines)
    yield _HEAD.replace("@TITLE@", escape(safe(title))).replace("@LINE@", "1.16" if drawn else "inherit")
    for number, step in enumerate(steps):
        lines = ("".join(_span(piece.text, piece.style) for piece in pieces(line)) for line in block_cells(step))
        # Without scripts all steps are shown, one below the other.
        yield f'<pre id="step{number + 1}">' + "\n".join(line.rstrip() for line in lines) + "</pre>\n"
    yield _SCRIPT


def _span(text: str, style: str) -> str:
    _, marked, paper = style.partition(" on ")
    words = f'class="active" style="background: {paper}"' if marked else f'class="{style}"'
    return f"<span {words}>{escape(text)}</span>" if style else escape(text)
