"""Reports on a link: one that says the same as one before is not told again.

A host in a fleet reports every second, since it runs machines on the answer, and mostly nothing is new. So a
report that the manager has answered is what those after it are compared with; until it is answered reports
are whole, whatever was lost on the way.
"""

from __future__ import annotations

from msgspec.structs import replace

from gureum.errors import TransportError
from gureum.hostspec import HostReport
from gureum.transport.messages import Report, Same, Word


class ReportSender:
    """The sending end, of one link."""

    def __init__(self) -> None:
        self._told: HostReport | None = None
        """The last that was sent whole."""
        self._known = False
        """The other end has it, and knows what Same is."""

    def message(self, report: HostReport) -> Report | Same:
        """What to send, as the next message about reports, for the other end to have this one."""
        told = self._told
        if told is not None and self._known and replace(report, sequence=told.sequence) == told:
            return Same(sequence=report.sequence, base=told.sequence)
        self._told, self._known = report, False
        return Report(report)

    def answered(self, word: Word) -> None:
        if word.same and self._told is not None and word.sequence == self._told.sequence:
            self._known = True


class ReportReceiver:
    """The receiving end of one link."""

    def __init__(self) -> None:
        self._told: HostReport | None = None

    def take(self, message: Report | Same) -> HostReport:
        """The report that was meant. Raises TransportError for one that is as another which is not known."""
        told = self._told
        if isinstance(message, Report):
            if told is None or message.report.sequence > told.sequence:
                self._told = message.report
            return message.report
        if told is None or message.base != told.sequence:
            known = f"the last one is {told.sequence}" if told is not None else "there was none"
            raise TransportError(f"a report that says the same as {message.base}, and {known}")
        return replace(told, sequence=message.sequence)
