"""Tables as LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .cells import Cell, Column
from .tables import Line, Table

LAST_T1_LETTER = "\u017f"
_SPELLING = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after a line break it would begin an optional argument
    "]": "{]}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def to_latex(tables: Iterable[Table]) -> str:
    """One table environment each; the document needs booktabs, graphicx and T1 fonts.

    Best values are bold, second best underlined; the paper's columns stand behind a gap under their
    own heading.
    """
    preamble = "% \\usepackage[T1]{fontenc} \\usepackage{booktabs} \\usepackage{graphicx}\n"
    return preamble + "\n".join(_one(table) for table in tables)


def escape(text: str) -> str:
    """Text that LaTeX sets as written; letters outside the T1 fonts become a question mark."""
    return "".join(_letter(letter) for letter in " ".join(text.split()))


def _letter(letter: str) -> str:
    return _SPELLING.get(letter) or (letter if letter <= LAST_T1_LETTER else "?")


def _one(table: Table) -> str:
    body: list[str] = []
    for group, members in table.groups():
        heading = rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\emph{{{escape(group)}}}}} \\"
        body += [r"\midrule", heading, *(_line(line) for line in members)]
    notes = [escape(note) for note in table.notes]
    notes += [f"$^{{{number}}}$ {escape(note)}" for number, note in enumerate(table.footnotes, 1)]
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{escape(table.title.partition('. ')[2] or table.title)}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{_alignment(table.columns)}}}",
            r"\toprule",
            *_headings(table.columns),
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            *(rf"\par\smallskip{{\footnotesize {note}\par}}" for note in notes),
            r"\end{table*}",
            "",
        ]
    )


def _alignment(columns: Sequence[Column]) -> str:
    letters = ["l" if column.kind == "label" else "r" for column in columns]
    first = next((i for i, column in enumerate(columns) if column.kind == "paper"), None)
    if first is not None:
        letters[first] = r"@{\hspace{3em}}r"
    return "".join(letters)


def _headings(columns: Sequence[Column]) -> list[str]:
    """The line of names, under a line that says which columns are the paper's."""
    n_paper = sum(column.kind == "paper" for column in columns)
    names = " & ".join(escape(_name(column)) for column in columns) + r" \\"
    if not n_paper:
        return [names]
    first = len(columns) - n_paper + 1
    blank = "& " * (len(columns) - n_paper)
    above = rf"{blank}\multicolumn{{{n_paper}}}{{c}}{{Paper, another protocol}} \\"
    return [above, rf"\cmidrule(l){{{first}-{len(columns)}}}", names]


def _name(column: Column) -> str:
    return column.heading.removeprefix("paper: ")


def _line(line: Line) -> str:
    return " & ".join(_cell(cell) for cell in line.cells) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    elif cell.second:
        text = rf"\underline{{{text}}}"
    marks = ",".join(str(number) for number in cell.notes)
    return text + (f"$^{{{marks}}}$" if marks else "")
