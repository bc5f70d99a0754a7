"""The line in which a search is typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.binding import BindingType
from textual.events import Key
from textual.widget import Widget
from textual.widgets import Input

if TYPE_CHECKING:
    from convinspect.browsing.app import Browser


class SearchInput(Input):
    """Searches while one types; Enter keeps what was found, Escape shows everything again.

    Args:
        query: The search so far.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "leave", "back"),
        ("down", "keep", "to the tree"),
    ]

    def __init__(self, query: str) -> None:
        super().__init__(
            query, placeholder="part of a name, or a glob", id="search", compact=True, select_on_focus=False
        )

    @property
    def browser(self) -> Browser:
        """The app."""
        return cast("Browser", self.app)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.browser.search_for(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_keep()

    def action_keep(self) -> None:
        """Go on with what was found."""
        self.browser.end_search(keep=True)

    def action_leave(self) -> None:
        """Forget the search."""
        self.browser.end_search(keep=False)


def take(search: Widget, event: Key) -> None:
    """Type a key into the search that another part of the screen was given."""
    event.stop()
    event.prevent_default()
    if isinstance(search, SearchInput) and event.character is not None:
        search.insert_text_at_cursor(event.character)
