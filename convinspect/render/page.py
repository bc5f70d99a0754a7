"""Steps of a drawing as one self-contained HTML page with buttons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from convinspect.render.cells import safe
from convinspect.render.html import drawn_class, span
from convinspect.render.plain_table import block_cells
from convinspect.render.style import css, look, tables_css
from convinspect.render.table import Block, Styled, pieces

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>@TITLE@</title>
<style>
@CSS@body { margin: 0; background: var(--paper); }
.convinspect { padding: 1.5em; }
pre[hidden] { display: none; }
button { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--edge); border-radius: .3em; }
button { padding: .3em .9em; margin-right: .4em; }
</style>
<main class="convinspect">
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
</main>
</html>
"""


def page(steps: Sequence[Block], title: str) -> Iterator[str]:
    """The page, in parts.

    Args:
        steps: One after another.
        title: Above them.
    """
    kind = drawn_class(line for step in steps for line in step.lines)
    yield _HEAD.replace("@TITLE@", escape(safe(title))).replace("@CSS@", css(cells=False) + tables_css(".convinspect"))
    for number, step in enumerate(steps):
        lines = ("".join(_span(piece) for piece in pieces(line)) for line in block_cells(step))
        # Without scripts all steps are shown, one below the other.
        yield f'<pre id="step{number + 1}" class="{kind}">' + "\n".join(line.rstrip() for line in lines) + "</pre>\n"
    yield _SCRIPT


def _span(piece: Styled) -> str:
    """What is marked has a class for it, too."""
    drawn = span(piece.text, piece.style)
    return drawn.replace('class="', 'class="active ', 1) if look(piece.style).paper else drawn
