"""What `--listen` serves: /healthz, /readyz, /status and /metrics. Imported only then: it takes 5 MB of memory."""

from collections.abc import Callable

from agent.calls import Outcome
from agent.health import Health, greeting_problem
from agent.metrics import CONTENT_TYPE, Metrics
from agent.pages import Page, Pages, json_page
from agent.recent import Recent
from agent.scheduler import Scheduler
from agent.server import Server
from agent.threads import Threads
from plugins.__main__ import VERSION


class Monitoring:
    """Observes calls from the start; the pages are served from `open` on."""

    def __init__(self) -> None:
        self._health, self._metrics, self.recent = Health(), Metrics(), Recent()
        self.on_batch = self._metrics.on_batch

    def on_outcome(self, outcome: Outcome) -> None:
        """Take a call into account."""
        self._health.on_outcome(outcome)
        self._metrics.on_outcome(outcome)

    def open(self, where: str, server: Server, scheduler: Scheduler, threads: Threads) -> Callable[[], None]:
        """Serve the pages at `where`, a path or HOST:PORT; a function that ends that. Raises OSError."""
        for name, meaning, value in (
            ("slash24_workers_busy", "Threads that have a call", lambda: threads.busy),
            ("slash24_workers_limit", "Maximum number of threads", lambda: threads.limit),
            ("slash24_calls_under_way", "Calls that are not finished", lambda: scheduler.under_way),
            ("slash24_requests_declined", "Requests left to their launchers", lambda: server.declined),
            ("slash24_requests_malformed", "Malformed or incomplete requests", lambda: server.malformed),
        ):
            self._metrics.add_gauge(name, meaning, value)
        return Pages(where, self._pages(server)).close

    def _pages(self, server: Server) -> dict[str, Page]:
        def healthz() -> tuple[int, str, bytes]:
            problem = greeting_problem(server.path)
            return json_page(503 if problem else 200, {"problem": problem} if problem else {"ok": True})

        def readyz() -> tuple[int, str, bytes]:
            problems = [problem for problem in (greeting_problem(server.path),) if problem]
            problems += [f"the last {verb} failed" for verb in self._health.failing()]
            problems += [] if server.is_listening else ["ending"]
            document = {"ready": not problems, "problems": problems, "last": self._health.describe()}
            return json_page(503 if problems else 200, document)

        return {
            "/healthz": healthz,
            "/readyz": readyz,
            "/status": lambda: json_page(200, {"version": VERSION, "errors": self.recent.describe()}),
            "/metrics": lambda: (200, CONTENT_TYPE, self._metrics.text()),
        }
