"""What each client could do, as a table in Markdown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.clients import CAPABILITIES, CLIENTS, Client

DOC = Path(__file__).parents[2] / "docs" / "clients.md"
BEGIN, END = "<!-- clients: made by make test-clients -->", "<!-- clients: end -->"


@dataclass
class Table:
    """Outcomes by client and capability: a cell may have several tests."""

    cells: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def add(self, client: str, capability: str, outcome: str) -> None:
        self.cells.setdefault((client, capability), set()).add(outcome)

    def is_whole(self) -> bool:
        """Whether every client ran, with all that it can do, and no test was skipped."""
        return "?" not in "".join(self._row(client) for client in CLIENTS)

    def render(self) -> str:
        """The table of the clients that ran."""
        ran = {name for name, _ in self.cells}
        lines = [
            "| client | version | " + " | ".join(CAPABILITIES.values()) + " |",
            "|---|---|" + ":-:|" * len(CAPABILITIES),
            *(self._row(client) for client in CLIENTS if client.name in ran),
            "",
            "A – means that the capability is not tested:",
            "",
            *_reasons(ran),
        ]
        return "\n".join(lines)

    def write(self) -> None:
        before, _, rest = DOC.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        DOC.write_text(f"{before}{BEGIN}\n\n{self.render()}\n\n{END}{after}")

    def _row(self, client: Client) -> str:
        marks = " | ".join(self._mark(client, capability) for capability in CAPABILITIES)
        return f"| {client.name} | {client.version} | {marks} |"

    def _mark(self, client: Client, capability: str) -> str:
        outcomes = self.cells.get((client.name, capability), set())
        if outcomes & {"failed", "error"}:
            return "✗"
        if outcomes == {"passed"}:
            return "✓"
        return "–" if capability in client.lacks and not outcomes else "?"


def _reasons(ran: set[str]) -> list[str]:
    """Each reason once, with the clients that it is given for."""
    clients: dict[str, list[str]] = {}
    for client in (one for one in CLIENTS if one.name in ran):
        for reason in dict.fromkeys(client.lacks.values()):
            clients.setdefault(reason, []).append(client.name)
    return [f"- {', '.join(names)}: {reason}." for reason, names in clients.items()]
