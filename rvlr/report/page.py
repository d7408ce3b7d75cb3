"""Tables as a page for browsers.

Input: Markdown that `rvlr.report.tables` writes. Output: one HTML file that loads nothing.
"""

import re
from html import escape

import markdown

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; margin: 2rem; max-width: 75rem; }
h1 { font-size: 1.5rem; } h2 { margin-top: 2.2rem; border-bottom: 2px solid #cbd5e1; } h3 { margin-bottom: 0.3rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; white-space: nowrap; border-bottom: 1px solid #e2e8f0; }
th { background: #f1f5f9; vertical-align: bottom; }
"""


def of_markdown(text: str) -> str:
    """The page with the headings, lists and tables of `text`. HTML in it is shown as text."""
    found = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    # names of runs and notes on data come from outside; Markdown would pass their tags on
    body = markdown.markdown(escape(text, quote=False), extensions=["tables", "sane_lists"])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(found[1] if found else "Tables")}'
        f"</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
