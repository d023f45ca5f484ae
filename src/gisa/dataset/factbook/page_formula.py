"""A formula of a page as text: its TeX where the page has it, or else its MathML on one line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_SOURCE_CLASS = re.compile(r"mwe-math-mathml|katex-mathml|mjx_assistive", re.IGNORECASE)
_DRAWN_CLASS = re.compile(
    r"katex-html|mwe-math-fallback|mathjax_(preview|svg|chtml|display)\b|(?<!\S)mathjax(?!\S)|mjx-math", re.IGNORECASE
)
_DISPLAY = re.compile(r"\{\\(?:displaystyle|textstyle)\s+(.*)\}", re.DOTALL)


def holds_source(kind: str) -> bool:
    """Tell whether an element of a class holds the source of a formula, even if it is hidden."""
    return _SOURCE_CLASS.search(kind) is not None


def is_drawn(name: str, kind: str) -> bool:
    """Tell whether an element, by its name and class, shows a formula whose source stands beside it.

    MathJax 3 draws in ``mjx-math``, and has the source beside it in the element of the class that its second version
    draws in.
    """
    return name == "mjx-math" or (name != "mjx-container" and _DRAWN_CLASS.search(kind) is not None)


def of_tex(tex: str) -> str:
    """Write TeX as text."""
    tex = " ".join(tex.split())
    display = _DISPLAY.fullmatch(tex)
    return f"${(display[1] if display else tex).strip()}$"


class Formula:
    """Takes the events of a parser within a ``math`` element."""

    def __init__(self, attributes: Mapping[str, str]) -> None:
        """Begin; ``alttext`` of its attributes holds TeX, too."""
        self._tex = attributes.get("alttext", "").strip()
        self._open: list[tuple[str, Mapping[str, str], list[str]]] = [("math", attributes, [])]

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Begin an element."""
        self._open.append((tag, attributes, []))

    def data(self, text: str) -> None:
        """Take text."""
        if text.strip():
            self._open[-1][2].append(" ".join(text.split()))

    def end(self) -> None:
        """End the innermost element."""
        tag, attributes, parts = self._open.pop()
        if tag == "annotation" and "tex" in attributes.get("encoding", "").lower():
            self._tex = "".join(parts) or self._tex
        elif tag not in ("annotation", "annotation-xml"):
            self._open[-1][2].append(_on_one_line(tag, parts))

    def text(self) -> str:
        """Return all of it, once every element within has ended."""
        return of_tex(self._tex) if self._tex else _on_one_line("math", self._open[0][2])


def _on_one_line(tag: str, parts: Sequence[str]) -> str:
    """Write an element of MathML, given its parts."""
    group = [part if len(part) < 2 or part.isalnum() else f"({part})" for part in parts]
    if tag in ("msup", "mover") and len(parts) == 2:
        return f"{group[0]}^{group[1]}"
    if tag in ("msub", "munder") and len(parts) == 2:
        return f"{parts[0]}_{group[1]}"
    if tag in ("msubsup", "munderover") and len(parts) == 3:
        return f"{parts[0]}_{group[1]}^{group[2]}"
    if tag == "mfrac" and len(parts) == 2:
        return f"{group[0]}/{group[1]}"
    if tag == "mroot" and len(parts) == 2:
        return f"root({parts[1]}, {parts[0]})"
    if tag == "msqrt":
        return f"sqrt({''.join(parts)})"
    if tag in ("mtable", "mtr", "mlabeledtr"):
        return ("; " if tag == "mtable" else ", ").join(parts)
    return "".join(parts)
