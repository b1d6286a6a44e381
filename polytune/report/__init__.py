"""The report: one self-contained HTML page of an evaluation or of a comparison.

Charts are Vega-Lite, drawn by the library that the page carries along; maps and trees are SVG that `script.js` draws.
Nothing is loaded from a network.
"""

from polytune.report import of_comparison, of_evaluation
from polytune.report.page import Page, as_html, write_page

REPORT_FILE = "report.html"

__all__ = ["REPORT_FILE", "Page", "as_html", "of_comparison", "of_evaluation", "write_page"]
