"""Tables as LaTeX with booktabs, in the layout of the paper's."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace

from . import paper
from .cells import NO_VALUE, Cell, Column
from .evaluation_tables import RANDOM_MARK
from .rows import COST_METRICS, LATENCY_METRIC
from .tables import Line, Table

LAST_T1_LETTER = "\u017f"
UNSET = frozenset("ĦħĸĿŀŉŦŧſ")  # letters up to the last one that the T1 fonts of pdflatex lack
LABEL_WIDTH, HEADING_WIDTH = 34, 18  # letters of a line of a cell; what is longer gets several lines
LONG_WORD, PIECE = 24, 8  # letters: in running text longer words may be broken after every piece
PREAMBLE = "% \\usepackage[T1]{fontenc} \\usepackage{booktabs} \\usepackage{graphicx}\n"
BREAK = r"\allowbreak{}"
SHORT_NOTES = {  # what stands there in other words under a table with bold values
    paper.PROTOCOL_NOTE: f"Paper: {paper.SOURCE}; measured under another protocol, not comparable with this run.",
}
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
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after a line break it would begin an optional argument
    "]": "{]}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "’": "'",
}
_GREEK = {
    "αβγδεζηθικλμ": "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu",
    "νξπρστυφχψω": "nu xi pi rho sigma tau upsilon phi chi psi omega",
    "ΓΔΘΛΞΠΣΦΨΩ": "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega",
}
_SPELLING |= {
    letter: rf"$\{name}$"
    for letters, names in _GREEK.items()
    for letter, name in zip(letters, names.split(), strict=True)
}


def to_latex(tables: Iterable[Table]) -> str:
    """One table environment each; the document needs booktabs, graphicx and T1 fonts.

    What is marked is bold; the paper's columns stand behind a gap under their own heading.
    Tables wider than the page are made smaller. Of the seconds of stages only their sum is shown, as in the paper.
    """
    return PREAMBLE + "\n".join(_one(_narrower(table)) for table in tables)


def label(table: Table) -> str:
    r"""What `\ref` calls a table: `tab:` and its name, letters that LaTeX gives a meaning as hyphens."""
    return "tab:" + "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in table.name)


def escape(text: str) -> str:
    """Text that LaTeX sets as written; letters that T1 fonts lack become their plain form or a question mark."""
    return "".join(_letter(letter) for letter in " ".join(text.split()))


def _letter(letter: str) -> str:
    if letter in _SPELLING:
        return _SPELLING[letter]
    if letter.isprintable() and letter <= LAST_T1_LETTER and letter not in UNSET:
        return letter
    plain = [part for part in unicodedata.normalize("NFKD", letter) if part.isascii() and part.isalnum()]
    return "".join(plain) or "?"


def _narrower(table: Table) -> Table:
    """Without the parts of the time where their sum is shown, too."""
    keys = [column.key for column in table.columns]
    parts = {*COST_METRICS} - {LATENCY_METRIC} if LATENCY_METRIC in keys else set()
    kept = [i for i, key in enumerate(keys) if key not in parts]
    rows = tuple(replace(line, cells=tuple(line.cells[i] for i in kept)) for line in table.rows)
    return replace(table, columns=tuple(table.columns[i] for i in kept), rows=rows)


def _one(table: Table) -> str:
    body: list[str] = []
    for group, members in table.groups():
        heading = rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\emph{{{escape(group)}}}}} \\"
        body += [r"\midrule", heading, *(_line(line, table.columns) for line in members)]
    return "\n".join(
        [
            r"\begin{table*}[tbp]",
            r"\centering",
            r"\setlength{\abovecaptionskip}{0pt}\setlength{\belowcaptionskip}{4pt}\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{_breakable(table.title.partition('. ')[2] or table.title)}}}\label{{{label(table)}}}",
            r"\footnotesize",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{_alignment(table.columns)}}}",
            r"\toprule",
            *_headings(table.columns),
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            *_notes(table),
            r"\end{table*}",
            "",
        ]
    )


def _notes(table: Table) -> list[str]:
    """One small paragraph under the table."""
    notes = [_breakable(SHORT_NOTES.get(note, note.replace("Marked:", "Bold:"))) for note in table.notes]
    notes += [f"$^{{{number}}}$ {_ended(_breakable(note))}" for number, note in enumerate(table.footnotes, 1)]
    if not notes:
        return []
    return [r"\par\vspace{3pt}\parbox{\linewidth}{\scriptsize\raggedright", *notes, "}"]


def _ended(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _breakable(text: str) -> str:
    """Running text whose long words may be broken."""
    return " ".join(
        BREAK.join(escape(word[i : i + PIECE]) for i in range(0, len(word), PIECE))
        if len(word) > LONG_WORD
        else escape(word)
        for word in text.split()
    )


def _alignment(columns: Sequence[Column]) -> str:
    letters = ["l" if column.kind == "label" else "r" for column in columns]
    first = next((i for i, column in enumerate(columns) if column.kind == "paper"), None)
    if first is not None:
        letters[first] = r"@{\hspace{2em}}r"
    return "".join(letters)


def _headings(columns: Sequence[Column]) -> list[str]:
    """The line of names and that of units, under a line that says which columns are the paper's."""
    names = [" & ".join(_name(column) for column in columns) + r" \\"]
    if any(map(_unit, columns)):
        names.append(" & ".join(_unit(column) for column in columns) + r" \\")
    n_paper = sum(column.kind == "paper" for column in columns)
    if not n_paper:
        return names
    first = len(columns) - n_paper + 1
    blank = "& " * (len(columns) - n_paper)
    above = rf"{blank}\multicolumn{{{n_paper}}}{{c}}{{Paper, another protocol}} \\"
    return [above, rf"\cmidrule(l){{{first}-{len(columns)}}}", *names]


def _name(column: Column) -> str:
    """FD_incep as the paper prints it, with a subscript; no word is broken."""
    head, underscore, below = column.title.removesuffix(RANDOM_MARK).partition("_")
    if underscore and head and below:
        name = rf"{escape(head)}\textsubscript{{{escape(below.replace('_', ' '))}}}"
    else:
        name = _stacked(head, HEADING_WIDTH, words=True)
    return " ".join(part for part in (name, escape(column.arrow)) if part)


def _unit(column: Column) -> str:
    """Under the name; also that the extractors have random weights."""
    unit = f"({_times(column.unit)})" if column.unit else ""
    mark = RANDOM_MARK if column.title.endswith(RANDOM_MARK) else ""
    return escape(f"{unit} {mark}".strip())


def _line(line: Line, columns: Sequence[Column]) -> str:
    return " & ".join(_cell(cell, column) for cell, column in zip(line.cells, columns, strict=True)) + r" \\"


def _cell(cell: Cell, column: Column) -> str:
    text = "--" if cell.text == NO_VALUE else _stacked(_spelled(cell, column), LABEL_WIDTH)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    marks = ",".join(str(number) for number in cell.notes)
    return text + (f"$^{{{marks}}}$" if marks else "")


def _spelled(cell: Cell, column: Column) -> str:
    if column.kind == "count":
        return _times(cell.text)
    return cell.text.replace("-", "−") if column.kind == "metric" and cell.value is not None else cell.text


def _times(text: str) -> str:
    """1x2 and x100 with a sign for the letter."""
    before, letter, after = text.partition("x")
    return f"{before}×{after}" if letter and f"{before}{after}".isdecimal() else text


def _stacked(text: str, width: int, *, words: bool = False) -> str:
    """In lines of at most `width` letters; words: longer where a word is."""
    lines = [escape(line) for line in textwrap.wrap(text, width, break_long_words=not words)]
    if len(lines) < 2:
        return escape(text)
    return r"\begin{tabular}[t]{@{}l@{}}" + r"\\".join(lines) + r"\end{tabular}"
