"""A test at real processes that failed is run a second time, on parts that are all made anew.  Knows no product.

Such tests wait for guests, kernels and other people's programs, which fail now and then for reasons of their own
(CONTRIBUTING.md has those that were found).  What failed at first is not hidden: its whole report stands at the end of
the run, as `rerun`, and is somebody's to explain.  A worker runs MOST tests again and no more, since where more than
that fail it is no accident.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

MOST = 3
"""Tests that a worker runs again."""
OPTION = "--once"


class SecondRun:
    """The plugin; `folders` (names below the one where the tests are) say whose tests it is for."""

    def __init__(self, tests: Path, folders: tuple[str, ...]) -> None:
        self._folders = tuple(tests / folder for folder in folders)
        self._left = MOST
        self._second: pytest.Item | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if item is self._second or not self._left or not self._concerns(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if any(report.failed for report in reports):
            self._left -= 1
            self._again(item, nextitem, [report for report in reports if report.failed])
            return True
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _concerns(self, item: pytest.Item) -> bool:
        return not item.config.getoption(OPTION) and any(
            item.path.is_relative_to(folder) for folder in self._folders
        )

    def _again(
        self, item: pytest.Item, nextitem: pytest.Item | None, failed: list[pytest.TestReport]
    ) -> None:
        """Through all hooks, so that a time limit begins anew, too."""
        ended = pytest.CallInfo.from_call(lambda: item.session._setupstate.teardown_exact(None), "teardown")
        if ended.excinfo is not None:
            failed[0].sections.append(("the end of what tests share", str(ended.excinfo.value)))
        for report in failed:
            report.outcome = "rerun"  # type: ignore[assignment]
            item.ihook.pytest_runtest_logreport(report=report)
        self._second = item
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        finally:
            self._second = None

    @staticmethod
    def pytest_report_teststatus(
        report: pytest.TestReport,
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        if str(report.outcome) == "rerun":
            return "rerun", "R", ("RERUN", {"yellow": True})
        return None

    @staticmethod
    def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
        reports = terminalreporter.getreports("rerun")
        if not reports:
            return
        terminalreporter.section("failed at first")
        for report in reports:
            terminalreporter.write_sep("_", f"{report.nodeid} ({report.when})", yellow=True)
            for title, text in [("", report.longreprtext), *report.sections]:
                terminalreporter.line(f"{title}\n{text}".strip())
