"""The terminal explorer: a tree of modules, what is known of the one under the cursor, and a search."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Key
from textual.worker import get_current_worker

from convinspect.browsing.bars import Bar, Keys, Message
from convinspect.browsing.facts import Line, convert_command, error_line, layer_lines, module_lines, why_not
from convinspect.browsing.kind_filters import filters, is_of
from convinspect.browsing.look import CSS, HELP, KEYS
from convinspect.browsing.matching import found
from convinspect.browsing.model import Model, open_model
from convinspect.browsing.outline import Outline, Row
from convinspect.browsing.tree_rows import head_texts, tree_line
from convinspect.browsing.views import Page, Rows
from convinspect.errors import ConvInspectError, unreadable
from convinspect.render.style import BAD, GOOD, HEAD, QUIET
from convinspect.text import plural

if TYPE_CHECKING:
    from textual.timer import Timer

    from convinspect.converting.possible import Possible
    from convinspect.records import Layer

_PAUSE = 0.08
"""Seconds that the cursor rests on a layer before it is worked out what that could become."""


class Browser(App[None]):
    """The explorer of one file.

    Args:
        model: The file at a root.
    """

    CSS = CSS
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012, Textual says it is no class variable
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("slash", "search", "search"),
        Binding("f", "filter", "filter"),
        Binding("p", "pointwise", "pointwise"),
        Binding("c", "copy", "copy the command"),
        Binding("r", "root", "root"),
        Binding("question_mark", "help", "help"),
        Binding("space", "open_or_close", "open or close"),
        Binding("right,l", "unfold", "open"),
        Binding("left,h", "fold", "close"),
        Binding("escape", "everything", "show all"),
        Binding("tab", "focus_next", "pane", show=False),
    ]

    def __init__(self, model: Model) -> None:
        # The terminal's own colours, so that light and dark ones both look as their owner set them. Before all else,
        # since the style sheet is made of it.
        self.set_reactive(App.theme, "ansi-dark")
        super().__init__()
        self.model = model
        self.outline = Outline(model)
        self._query = ""
        self._kind = ""
        self._possible: dict[int, Possible] = {}
        self._resting: Timer | None = None
        self._is_clean = True

    def compose(self) -> ComposeResult:
        """A head, two panes, a line for what is to be told, and the keys."""
        yield Bar("head", HEAD)
        with Container(id="panes"):
            yield Rows("tree")
            yield Page("facts")
        yield Message("status", QUIET)
        yield Keys(KEYS)

    def on_mount(self) -> None:
        self.rows.focus()
        self._show_model()

    def on_ready(self) -> None:
        # A command is short and collects no reference cycles; this one goes on, and makes some with every key.
        if not gc.isenabled():
            gc.freeze()
            gc.enable()

    @property
    def rows(self) -> Rows:
        """The pane with the tree."""
        return self.screen_stack[0].query_one("#tree", Rows)

    @property
    def pane(self) -> Page:
        """The pane with what is known of a row."""
        return self.screen_stack[0].query_one("#facts", Page)

    @property
    def row(self) -> Row | None:
        """The current row; None where there is none."""
        rows = self.outline.rows
        return rows[self.rows.cursor] if self.rows.cursor < len(rows) else None

    @property
    def current(self) -> Layer | None:
        """The layer of the current row."""
        row = self.row
        return row.node.layers[0] if row is not None and row.node.layers else None

    def _handle_exception(self, error: Exception) -> None:
        """Leave the screen on an error of ours; `failure` is raised where the terminal is whole again.

        Textual would draw a traceback with the values of all variables, which are texts of the file.
        """
        self._return_code = 1
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
        self._close_messages_no_wait()

    @property
    def failure(self) -> Exception | None:
        """What ended it, where that was no key."""
        return self._exception

    def say(self, text: str, style: str = "") -> None:
        """Tell something in the line above the keys of the uppermost screen."""
        for screen in reversed(self.screen_stack):
            for line in screen.query("#status").results(Message):
                line.say(text, style=style)
                return

    def complain(self, error: BaseException) -> None:
        """Tell what went wrong, in one line."""
        self.say(error_line(error), BAD)

    def _show_model(self) -> None:
        checkpoint = self.model.checkpoint
        self.screen_stack[0].query_one("#head", Bar).say(*head_texts(self.model))
        self._show_rows(0)
        if checkpoint.problems:
            self.say(f"error: {checkpoint.problems[0]}", BAD)
        elif not self.model.nodes:
            self.say("no tensor in this root", BAD)
        elif len(checkpoint.roots) > 1:
            self.say(f"{plural(len(checkpoint.roots), 'root')}: r chooses another", QUIET)
        elif checkpoint.notes:
            self.say(checkpoint.notes[0], QUIET)

    def _show_rows(self, cursor: int) -> None:
        rows = self.outline.rows
        self.rows.show(len(rows), lambda number, width: tree_line(rows[number], width), cursor)

    def on_rows_moved(self, event: Rows.Moved) -> None:
        if event.rows is self.rows:
            self._show_facts()

    def _show_facts(self) -> None:
        row, layer = self.row, self.current
        if row is None:
            self.pane.show(lambda width: ())
            return
        if layer is None:
            self.pane.show(lambda width: module_lines(self.model, row.node, width))
            return
        self.pane.show(self._facts_of(layer))
        if self._resting is not None:
            self._resting.stop()
        if id(layer) not in self._possible:
            self._resting = self.set_timer(_PAUSE, lambda: self._work_out(layer))

    def _facts_of(self, layer: Layer) -> Callable[[int], list[Line]]:
        return lambda width: layer_lines(self.model, layer, self._possible.get(id(layer)), width)

    def _work_out(self, layer: Layer) -> None:
        """Work out what a layer could become, beside the screen: it takes a look at every layer of the model."""
        if self.screen_stack:
            self.run_worker(lambda: self._show_possible(layer), thread=True, group="possible", exclusive=True)

    def _show_possible(self, layer: Layer) -> None:
        worker = get_current_worker()
        self.possible_of(layer)
        if not worker.is_cancelled and self.is_running:
            self.call_from_thread(self._show_again, layer)

    def _show_again(self, layer: Layer) -> None:
        if self.screen_stack and self.current is layer:
            self.pane.show(self._facts_of(layer), keep_place=True)

    def possible_of(self, layer: Layer) -> Possible:
        """What a layer could become; worked out once, for all that are alike."""
        known = self._possible.get(id(layer))
        if known is None:
            # What plans a conversion is loaded after the first screen.
            from convinspect.converting.possible import Possible, asked_with, possible

            layers = self.model.layers
            asked = asked_with(layer, layers)
            try:
                known = possible(self.model.checkpoint, layers, asked)
            except OSError as error:
                known = Possible({}, {}, (), unreadable(error, self.model.checkpoint.path))
            self._possible |= {id(each): known for each in asked}
        return known

    async def on_rows_chosen(self, event: Rows.Chosen) -> None:
        if event.rows is self.rows:
            await self.action_enter()

    async def action_enter(self) -> None:
        """Show the numbers of a layer; open or close a module."""
        if self.current is None:
            self.action_open_or_close()
            return
        from convinspect.browsing.kernel_screen import KernelScreen

        await self.push_screen(KernelScreen(self.model, self.current))

    def action_open_or_close(self) -> None:
        """Open or close the current row."""
        if self.row is not None:
            self._set_open(not self.row.is_open)

    def action_unfold(self) -> None:
        """Open the current row, or go to the first row under it."""
        if self.row is not None and self.row.is_open:
            self.rows.action_move(1)
        else:
            self._set_open(True)

    def action_fold(self) -> None:
        """Close the current row, or go to the row that it lies under."""
        if self.row is not None and self.row.is_open:
            self._set_open(False)
        elif self.row is not None:
            self.rows.move_to(self.outline.parent(self.rows.cursor))

    def _set_open(self, is_open: bool) -> None:
        if self.row is not None:
            self.outline.set_open(self.rows.cursor, is_open)
            self._show_rows(self.rows.cursor)

    def go_to(self, layer: Layer) -> None:
        """Make a layer's row the current one."""
        node = next((node for node in self.model.nodes if any(each is layer for each in node.layers)), None)
        if node is not None and node is not (self.row.node if self.row else None):
            self._show_rows(self.outline.reveal(node))

    def shown_layers(self) -> list[Layer]:
        """The layers that the search and the filter let through, in the order of the tree."""
        return [self.model.nodes[place].layers[0] for place in self._places()]

    def on_key(self, event: Key) -> None:
        """Give the search what was typed while it opened: those keys went to the tree."""
        if event.is_printable and self.focused is not None and self.focused.id == "search":
            from convinspect.browsing.search import take

            take(self.focused, event)

    async def action_search(self) -> None:
        """Ask for a part of a name; what is found is shown while it is typed."""
        from convinspect.browsing.search import SearchInput

        status = self.query_one("#status", Message)
        if not self.query("#search"):
            # It is waited for, so that what is typed at once is typed into it.
            search = SearchInput(self._query)
            await self.screen.mount(search, before=status)
            status.display = False
            self.screen.set_focus(search)

    def search_for(self, query: str) -> None:
        """Show the layers whose name a query finds."""
        self._query = query
        self._narrow()

    def end_search(self, keep: bool) -> None:
        """Put the line of messages back; without `keep` everything is shown again."""
        self.query("#search").remove()
        self.query_one("#status", Message).display = True
        self.rows.focus()
        if not keep:
            self.action_everything()

    async def action_filter(self) -> None:
        """Ask for a kind of layer."""
        from convinspect.browsing.dialogs import Choice

        known = filters(self.model.layers)
        choices = ["", *known]
        counts = [f"all · {len(self.model.nodes):,}", *(f"{kind} · {number:,}" for kind, number in known.items())]

        def chosen(number: int | None) -> None:
            if number is not None:
                self._kind = choices[number]
                self._narrow()

        current = choices.index(self._kind) if self._kind in choices else 0
        await self.push_screen(Choice("Show layers of one kind", counts, current), chosen)

    def action_pointwise(self) -> None:
        """Show pointwise convolutions only, or all layers again."""
        self._kind = "" if self._kind == "pointwise" else "pointwise"
        self._narrow()

    def action_everything(self) -> None:
        """Drop the search and the filter."""
        if self._query or self._kind:
            self._query = self._kind = ""
            self._narrow()

    def _places(self) -> list[int]:
        nodes = self.model.nodes
        places = found(self.model.names, self._query)
        if self._kind:
            places = [place for place in places if any(is_of(layer, self._kind) for layer in nodes[place].layers)]
        return places

    def _narrow(self) -> None:
        """Show what both the search and the filter let through, with the cursor where it was or on the first hit."""
        model, before = self.model, self.row.node if self.row is not None else None
        places = self._places()
        self.outline.keep(places)
        node = before if before is not None and not (self._query or self._kind) else None
        if places and (self._query or self._kind):
            node = next(
                (model.nodes[place] for place in places if model.nodes[place] is before), model.nodes[places[0]]
            )
        self._show_rows(self.outline.reveal(node) if node is not None else 0)
        self._show_facts()
        by = " and ".join(filter(None, (f"“{self._query}”" if self._query else "", self._kind)))
        if by:
            self.say(
                f"{by}: {len(places):,} of {plural(len(model.nodes), 'layer')}; esc shows all", "" if places else BAD
            )
        else:
            self.say("")

    def action_copy(self) -> None:
        """Copy the command that converts the current layer."""
        if self.current is None:
            self.say("no layer is chosen here: c copies the command that converts a layer", BAD)
        else:
            self.copy_command(self.current)

    def copy_command(self, layer: Layer) -> None:
        """Put the command that converts a layer into the clipboard, and show it."""
        possible = self.possible_of(layer)
        changes = possible.changes.get(id(layer), ())
        if not changes:
            reason = why_not(layer, possible)
            why = f": {reason}" if reason else ", which nothing else holds the numbers of"
            self.say(f"{layer.name or '(root)'} stays {layer.kind}{why}", BAD)
            return
        command = convert_command(self.model, layer, changes[0])
        self.copy_to_clipboard(command)
        self.say(f"copied: {command}", GOOD)

    async def action_root(self) -> None:
        """Ask for another root of the file."""
        from convinspect.browsing.dialogs import Choice

        checkpoint = self.model.checkpoint
        roots = [root for root in checkpoint.roots if root.tensors]
        texts = [f"{root.path or '(top)'} · {root.role} · {plural(len(root.tensors), 'tensor')}" for root in roots]
        if len(roots) < 2:
            self.say("this file has one root only", QUIET)
            return

        def chosen(number: int | None) -> None:
            if number is not None and roots[number].path != checkpoint.root.path:
                self._open_root(roots[number].path)

        current = next((place for place, root in enumerate(roots) if root.path == checkpoint.root.path), 0)
        await self.push_screen(Choice("Show another root", texts, current), chosen)

    def _open_root(self, path: str) -> None:
        try:
            model = open_model(self.model.checkpoint.path, path or ".")
        except (ConvInspectError, OSError, MemoryError) as error:
            self.complain(error)
            return
        self.model, self.outline = model, Outline(model)
        self._query = self._kind = ""
        self._possible.clear()
        self.say("")
        self._show_model()

    async def action_help(self) -> None:
        """Show what the keys do."""
        from convinspect.browsing.dialogs import Help

        await self.push_screen(Help(HELP))
