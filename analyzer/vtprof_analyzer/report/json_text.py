"""The report as one JSON document: the object itself, in the order of its fields, with finite numbers only."""

import json

from vtprof_analyzer.report.model import Report


def render(report: Report) -> str:
    """Return the document, indented; raise ``ValueError`` on NaN or infinity, which JSON cannot hold.

    Text is kept readable; characters that UTF-8 cannot hold (lone surrogates) are escaped.
    """
    document = json.dumps(report.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        document.encode()
    except UnicodeEncodeError:
        document = json.dumps(report.as_dict(), indent=2, ensure_ascii=True, allow_nan=False)
    return document + "\n"
