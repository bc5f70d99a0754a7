"""A layer's numbers on a screen of their own: a picture, a table that scrolls, and statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.worker import Worker, get_current_worker

from convinspect.browsing.bars import Bar, Key, Keys, Message
from convinspect.browsing.model import Model
from convinspect.browsing.sheet import SheetView
from convinspect.browsing.views import Page
from convinspect.kinds import shown_kind
from convinspect.records import Layer
from convinspect.render.cells import shape
from convinspect.render.style import HEAD, QUIET

if TYPE_CHECKING:
    from convinspect.browsing.app import Browser
    from convinspect.browsing.numbers import Numbers

_KEYS = (
    Key("esc", "back", "screen.back"),
    Key("v", "view", "screen.view"),
    Key("n p", "layer", "screen.layer(1)"),
    Key("c", "copy command", "screen.copy"),
    Key("?", "help", "app.help"),
    Key("[ ]", "position", "screen.sheet(1)"),
    Key("q", "quit", "app.quit"),
)


class KernelScreen(Screen[None]):
    """The numbers of one layer after the other.

    Args:
        model: The file.
        layer: The first one to show.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back"),
        Binding("v", "view", "picture or table"),
        Binding("left_square_bracket", "sheet(-1)", "previous tap"),
        Binding("right_square_bracket", "sheet(1)", "next tap"),
        Binding("n", "layer(1)", "next layer"),
        Binding("p", "layer(-1)", "previous layer"),
        Binding("c", "copy", "copy the command"),
        # Of the tree, which is not seen here.
        Binding("slash,f,r,space", "nothing", show=False),
    ]
    CSS = """
    #sheet { height: 1fr; width: 1fr; }
    #stats { height: auto; max-height: 40%; width: 1fr; border-top: solid ansi_bright_black; }
    """

    def __init__(self, model: Model, layer: Layer) -> None:
        super().__init__()
        self._model, self.shown = model, layer
        self.numbers: Numbers | None = None
        self._number = 0
        self._reading: Worker[None] | None = None

    @property
    def browser(self) -> Browser:
        """The app."""
        return cast("Browser", self.app)

    def compose(self) -> ComposeResult:
        """A head, the picture or table, the statistics, messages and keys."""
        yield Bar("head", HEAD)
        yield SheetView("sheet")
        yield Page("stats")
        yield Message("status", QUIET)
        yield Keys(_KEYS)

    def on_mount(self) -> None:
        self.query_one("#sheet", SheetView).focus()
        self._read()

    def on_unmount(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    # ------------------------------------------------------------------------------------------------- reading

    def _read(self) -> None:
        """Read the layer's numbers beside the screen; what was being read is given up."""
        layer = self.shown
        kind = shown_kind(layer.kind, layer.tags)
        title = f"{layer.name or '(root)'} · {kind} {shape(layer.weight.shape)} · {layer.weight.dtype}"
        self.query_one("#head", Bar).say(title)
        self.query_one("#sheet", SheetView).clear()
        self.query_one("#stats", Page).show(lambda width: ())
        self.numbers, self._number = None, 0
        self.say("reading …", QUIET)
        if self._reading is not None:
            self._reading.cancel()
        self._reading = self.run_worker(
            lambda: self._work(layer), thread=True, exit_on_error=False, group="numbers", exclusive=True
        )

    def _work(self, layer: Layer) -> None:
        """In a thread of its own, which loads numpy too."""
        from convinspect.browsing.numbers import Stopped, read_numbers

        worker = get_current_worker()
        try:
            numbers = read_numbers(self._model.checkpoint, layer, lambda: worker.is_cancelled)
        except Stopped:
            return
        except Exception as error:
            # Whatever a file does to us is a line here, since a traceback would end the screen.
            failure = error
            self._tell(worker, lambda: self.browser.complain(failure))
            return
        self._tell(worker, lambda: self._show(layer, numbers))

    def _tell(self, worker: Worker[None], what: Callable[[], None]) -> None:
        if not worker.is_cancelled and self.is_running:
            self.app.call_from_thread(what)

    def _show(self, layer: Layer, numbers: Numbers) -> None:
        if layer is not self.shown or not self.is_attached:
            return
        from convinspect.browsing.stats_lines import stats_lines

        self.numbers = numbers
        self.query_one("#stats", Page).show(lambda width: stats_lines(numbers, width))
        self._show_sheet()

    def _show_sheet(self) -> None:
        numbers = self.numbers
        if numbers is None or not numbers.sheets:
            self.say("no numbers")
            return
        sheet = numbers.sheets[self._number]
        self.query_one("#sheet", SheetView).show(sheet)
        of = f"{sheet.title} ({self._number + 1} of {len(numbers.sheets)}) · " if len(numbers.sheets) > 1 else ""
        self.say(f"{of}{sheet.shape[0]:,} rows × {sheet.shape[1]:,} columns", QUIET)

    def say(self, text: str, style: str = "") -> None:
        """Tell something above the keys."""
        self.query_one("#status", Message).say(text, style=style)

    # ------------------------------------------------------------------------------------------------- keys

    def action_back(self) -> None:
        """To the tree, at the layer that was shown."""
        self.dismiss()
        self.browser.go_to(self.shown)

    def action_view(self) -> None:
        """The picture instead of the table, or back."""
        view = self.query_one("#sheet", SheetView)
        if self.numbers is not None and self.numbers.sheets and not self.numbers.sheets[self._number].row_names:
            self.say("it is too large for a table of numbers; convinspect weights shows parts of it", QUIET)
            return
        view.toggle()

    def action_sheet(self, by: int) -> None:
        """Another tap of the kernel, or another tensor."""
        if self.numbers is not None and self.numbers.sheets:
            self._number = (self._number + by) % len(self.numbers.sheets)
            self._show_sheet()

    def action_layer(self, by: int) -> None:
        """The next or the previous layer of those that the tree shows."""
        layers = self.browser.shown_layers()
        place = next((place for place, layer in enumerate(layers) if layer is self.shown), None)
        if place is None or not 0 <= place + by < len(layers):
            self.say("there is no further layer", QUIET)
            return
        self.shown = layers[place + by]
        self._read()

    def action_copy(self) -> None:
        """Copy the command that converts this layer."""
        self.browser.copy_command(self.shown)

    def action_nothing(self) -> None:
        """A key of the tree."""
