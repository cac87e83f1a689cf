"""Tables in LaTeX: a tabular for the booktabs package that is never wider than the text."""

import re

from macer.results.tables import Table, marked

_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the beginning of a row it would be an argument of the line break above
    "σ": r"$\sigma$",
    "α": r"$\alpha$",
    "ε": r"$\varepsilon$",
    "−": "$-$",
    "\N{REPLACEMENT CHARACTER}": "?",
}
_WORDS = {"sigma": r"$\sigma$", "alpha": r"$\alpha$"}
_LONGEST_WORD = 20
"""Characters of a word in a note, such as the path of a file, after which its line may break."""


def to_latex(table: Table) -> str:
    """Return a tabular with the notes below it.

    It needs the packages booktabs and graphicx. What is wider than the text is made smaller, and notes are broken into
    lines.
    """
    columns = "l" + "r" * (len(table.header) - 1)
    body = [
        (r"\midrule" + "\n" if number in table.breaks else "") + " & ".join(row) + r" \\"
        for number, row in enumerate(marked(table, _text, r"\textbf{{{}}}"))
    ]
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{minipage}{\linewidth}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(_WORDS.get(title, _text(title)) for title in table.header) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip{{\raggedright\footnotesize {_note(note)}\par}}" for note in table.lines_below),
        r"\end{minipage}",
    ]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Return a text that stands for itself, with minus signs before numbers."""
    minus = re.sub(r"(?<![^\s\[,(])-(?=\d)", "−", text)
    return "".join(_SPECIAL.get(character, character) for character in minus)


def _note(text: str) -> str:
    """Return a note, whose line may break in long words, too."""
    text = re.sub(r"\bsigma(?=:| \d)", "σ", re.sub(r"\balpha(?=:| \d)", "α", text))
    words = (re.findall(rf".{{1,{_LONGEST_WORD}}}", word) for word in text.split(" "))
    return " ".join(r"\allowbreak{}".join(map(_text, pieces)) for pieces in words)
