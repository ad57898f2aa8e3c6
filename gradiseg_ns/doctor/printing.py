"""The findings as a table on the terminal."""

from __future__ import annotations

from gradiseg_ns.doctor.judgement import Finding


def show(findings: list[Finding], sentence: str) -> None:
    """Print a table of findings, and a last sentence."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column("state", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("found", overflow="fold")
    styles = {"ok": "green", "note": "yellow", "problem": "bold red"}
    for f in findings:
        mark = f.state.upper() if f.state == "problem" else f.state
        text = Text(f"{f.found}\n> {f.way_out}" if f.way_out else f.found)
        table.add_row(Text(mark, style=styles[f.state]), f.name, text)
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(sentence, style="bold"))
