"""Text from files, on its way to a terminal: names and messages may contain commands that a terminal would obey."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment


def printable(text: str) -> str:
    """Return a text without line ends, terminal commands and undecodable bytes, which names of files may contain."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


class Terminal(Console):
    """A console that shows what is printed, and obeys nothing in it: only its own colours and movements are commands.

    Brackets are no markup, names between colons such as in `hf:dog:plain` no pictures, and numbers have no colours of
    their own. Lines of text are left to the terminal to break, so that what is copied or redirected has them whole;
    tables are made to fit.

    Args:
        options: of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts, or what rich can draw."""
        super().print(*objects, **{"soft_wrap": all(isinstance(each, str) for each in objects), **options})

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        """Yield the parts of what is printed."""
        for segment in super().render(*arguments, **options):
            text = segment.text
            if not segment.control and not text.isprintable():
                text = "\n".join(map(printable, text.split("\n")))
            yield segment._replace(text=text)
