"""The report: a page that shows what happened to every file, and how good it is.

``load_report_data`` reads a results folder, ``funnel`` accounts for every row of the
sheet, ``build_page`` makes one self-contained HTML text, ``to_png`` one picture.
"""

from __future__ import annotations

from skymill.report.funnel import Fate, Funnel, FunnelError, GroupOutcome, Reason, funnel
from skymill.report.load import load_report_data
from skymill.report.model import ReportData
from skymill.report.page import build_page, verdict
from skymill.report.pictures import to_png

__all__ = [
    "Fate",
    "Funnel",
    "FunnelError",
    "GroupOutcome",
    "Reason",
    "ReportData",
    "build_page",
    "funnel",
    "load_report_data",
    "to_png",
    "verdict",
]
