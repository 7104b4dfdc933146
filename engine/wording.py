"""Numbers and foreign text in words: what reports and remarks print, wherever they go."""

from __future__ import annotations


def printable(text: object) -> str:
    """``str(text)`` with everything escaped that is no visible character.

    File names and manifests come from anywhere; none of them may move the cursor or break a line.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in str(text)
    )


def megabytes(size: float) -> str:
    """A file size for people."""
    return f"{size / 1e6:.1f} MB"


def percent(share: float, digits: int = 1) -> str:
    """A share of 0 .. 1 for people; "100%" is said of all alone, never of what rounds to it."""
    most = 100 if share >= 1 else 100 - 10.0**-digits
    return f"{min(100 * share, most):.{digits}f}%"
