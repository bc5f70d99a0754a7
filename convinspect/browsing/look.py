"""Where the panes of the explorer lie, and what its keys are called."""

from __future__ import annotations

from convinspect.browsing.bars import Key

CSS = """
Screen { layers: base; overflow: hidden; }
Bar, Keys { height: 1; width: 1fr; }
Message { height: auto; max-height: 4; width: 1fr; }
Rows, Page, SheetView {
    scrollbar-size: 1 1;
    scrollbar-color: ansi_bright_black; scrollbar-color-hover: ansi_cyan; scrollbar-color-active: ansi_cyan;
    scrollbar-background: ansi_default; scrollbar-background-hover: ansi_default;
    scrollbar-background-active: ansi_default; scrollbar-corner-color: ansi_default;
}
Rows, Page { overflow-x: hidden; }
#panes { layout: vertical; height: 1fr; }
#tree { height: 3fr; width: 1fr; }
#facts { height: 2fr; width: 1fr; border-top: solid ansi_bright_black; }
#facts:focus { border-top: solid ansi_cyan; }
.-wide #panes { layout: horizontal; }
.-wide #tree { width: 3fr; height: 1fr; }
.-wide #facts { width: 2fr; height: 1fr; border-top: none; border-left: solid ansi_bright_black; padding-left: 1; }
.-wide #facts:focus { border-left: solid ansi_cyan; }
#search { height: 1; border: none; padding: 0; background: ansi_default; }
Choice, Help { align: center middle; background: ansi_default; }
Choice > Bar, Help > Bar { width: 90%; max-width: 76; }
Choice > Rows { width: 90%; max-width: 76; height: auto; max-height: 80%; }
Help > Page { width: 90%; max-width: 76; height: 80%; }
"""

KEYS = (
    Key("/", "search", "app.search"),
    Key("⏎", "open", "app.enter"),
    Key("c", "copy command", "app.copy"),
    Key("?", "help", "app.help"),
    Key("q", "quit", "app.quit"),
    Key("f", "filter", "app.filter"),
    Key("p", "pointwise", "app.pointwise"),
    Key("r", "root", "app.root"),
    Key("tab", "pane", "app.focus_next"),
)

HELP = (
    ("Tree", ""),
    ("↑ ↓ j k", "one row up or down; PgUp, PgDn, Home, End"),
    ("→ ←", "open a module; close it, or go to the one above"),
    ("space", "open or close a module"),
    ("⏎", "a layer: read and draw its numbers; a module: open it"),
    ("tab", "to the other pane and back"),
    ("Find", ""),
    ("/", "search names: words, or a glob such as enc*conv; ⏎ keeps it"),
    ("f", "show one kind of layer only"),
    ("p", "show pointwise convolutions only, or all again"),
    ("esc", "show everything again"),
    ("Do", ""),
    ("c", "copy the command that converts this layer"),
    ("r", "another root of the file: model, ema, optimizer"),
    ("?", "this list"),
    ("q", "quit"),
    ("Numbers", ""),
    ("v", "picture or table of numbers"),
    ("[ ]", "another position of the kernel, or another tensor"),
    ("n p", "next or previous layer"),
    ("esc", "back to the tree"),
)
