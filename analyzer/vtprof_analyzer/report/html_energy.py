"""The energy section of the HTML report: phases as a table with bars, and what a request, a token and the GPUs took."""

from vtprof_analyzer.report import energy_phrases
from vtprof_analyzer.report.html_tags import bar, cell, note, row_head, section, table
from vtprof_analyzer.report.model import Report


def energy(report: Report) -> str:
    """Return the section; empty where nothing recorded energy."""
    told = report.energy
    if told is None:
        return ""
    rows = []
    for row in told.phases:
        phase, *numbers, label = energy_phrases.cells(row, told)
        rows.append(
            row_head(phase, colour=True)
            + bar(energy_phrases.share(row, told))
            + "".join(cell(words, "n") for words in numbers)
            + cell(label, "word")
        )
    phase_head, *number_heads, label_head = energy_phrases.HEADS
    heads = [(phase_head, ""), ("", ""), *((head, "n") for head in number_heads), (label_head, "")]
    caption = "Shares of the steps' energy that requests were given, by phase; the interval sums up those of their stretches"
    return section(
        "energy",
        energy_phrases.title(told),
        table(caption, heads, rows) if rows else "",
        *(note(f"{line}.") for line in energy_phrases.lines(told, report.counters)),
    )
