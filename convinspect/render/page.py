"""Steps of a drawing as one self-contained HTML page with buttons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from convinspect.render.cells import safe
from convinspect.render.html import drawn_class, page_head, span
from convinspect.render.plain_table import block_cells
from convinspect.render.style import look
from convinspect.render.table import Block, Styled, pieces

_STYLES = """\
pre[hidden] { display: none; }
button { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--edge); border-radius: .3em; }
button { padding: .3em .9em; margin-right: .4em; }
"""

_BUTTONS = """\
<h1 style="font-size:1.1em">@TITLE@</h1>
<p><button id="back">@BACK@</button><button id="next">@NEXT@</button><button id="play">@PLAY@</button>
<span id="place"></span></p>
"""

_SCRIPT = """<script>
const steps = [...document.querySelectorAll("pre")];
let at = 0, timer = null;
function show(n) {
  at = Math.max(0, Math.min(steps.length - 1, n));
  steps.forEach((step, i) => { step.hidden = i !== at; });
  document.getElementById("place").textContent = "@PLACE@".replace("{at}", at + 1).replace("{count}", steps.length);
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
</body>
</html>
"""


class Labels(NamedTuple):
    """What the buttons are called, and where one is: of `place`, "{at}" and "{count}" are numbers."""

    back: str = "◀ back"
    next: str = "next ▶"
    play: str = "play"
    place: str = "{at} of {count}"


ENGLISH = Labels()


def page(steps: Sequence[Block], title: str, lang: str = "en", labels: Labels = ENGLISH) -> Iterator[str]:
    """The page, in parts.

    Args:
        steps: One after another.
        title: Above them.
        lang: The language of its text, as HTML calls it.
        labels: Of its buttons.
    """
    named = {"BACK": labels.back, "NEXT": labels.next, "PLAY": labels.play, "PLACE": labels.place}
    kind = drawn_class(line for step in steps for line in step.lines)
    yield from page_head(title, lang=lang, cells=False, styles=_STYLES)
    # What comes from a file is put in last, so that nothing is looked for in it.
    yield _filled(_BUTTONS, named).replace("@TITLE@", escape(safe(title)))
    for number, step in enumerate(steps):
        lines = ("".join(_span(piece) for piece in pieces(line)) for line in block_cells(step))
        # Without scripts all steps are shown, one below the other.
        yield f'<pre id="step{number + 1}" class="{kind}">' + "\n".join(line.rstrip() for line in lines) + "</pre>\n"
    yield _filled(_SCRIPT, named)


def _filled(template: str, named: Mapping[str, str]) -> str:
    for name, text in named.items():
        template = template.replace(f"@{name}@", text)
    return template


def _span(piece: Styled) -> str:
    """What is marked has a class for it, too."""
    drawn = span(piece.text, piece.style)
    return drawn.replace('class="', 'class="active ', 1) if look(piece.style).paper else drawn
