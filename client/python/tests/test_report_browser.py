"""The report as a browser shows it: a headless Chromium, skipped where there is none."""

from __future__ import annotations

import html
import http.server
import json
import pathlib
import re
import shutil
import subprocess
import threading
from typing import Any, Iterator

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib")

import report_values as values  # noqa: E402
from laplace_client.report.page import report  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)"
)

KEYS = ["spectrum", "bias", "residual", "prior", "reliability", "scores", "roc"]

# What the browser made of each figure, written into the page. The policy allows no script, so this
# runs in a copy without one.
LOOK = """<script>
const within = (a, b) =>
  a.left > b.left - 1 && a.right < b.right + 1 && a.top > b.top - 1 && a.bottom < b.bottom + 1;
const figures = [...document.querySelectorAll("svg")].map((svg) => {
  const box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")];
  const marks = [...svg.querySelectorAll("path, use")].map((m) => m.getBoundingClientRect());
  return {
    section: svg.closest("section").id, width: box.width, height: box.height,
    marks: marks.filter((m) => m.width + m.height > 0).length,
    text: getComputedStyle(texts[0]).fill,
    outside: texts.filter((t) => !within(t.getBoundingClientRect(), box)).map((t) => t.textContent),
  };
});
const result = document.createElement("pre");
result.id = "looked-at";
result.textContent = JSON.stringify(figures);
document.body.append(result);
</script>"""


def browse(page: pathlib.Path, folder: pathlib.Path, *options: str) -> str:
    """The document after everything has been loaded."""
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--window-size=1000,900",
         f"--user-data-dir={folder / 'profile'}", *options, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def page() -> str:
    return report(
        values.model(), values.posterior(), values.answers(), [values.answers("far", 300, 2.0)]
    )


def without_policy(page: str) -> str:
    changed, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert count == 1
    return changed


def looked_at(page: str, folder: pathlib.Path, *options: str) -> list[dict[str, Any]]:
    file = folder / "looked_at.html"
    file.write_text(without_policy(page).replace("</body>", LOOK + "</body>"), encoding="utf-8")
    found = re.search(r'<pre id="looked-at">(.*?)</pre>', browse(file, folder, *options), re.DOTALL)
    assert found is not None
    figures: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    return figures


def test_every_figure_is_drawn_and_nothing_is_cut_off(page: str, tmp_path: pathlib.Path) -> None:
    figures = looked_at(page, tmp_path)
    assert [figure["section"] for figure in figures] == KEYS
    for figure in figures:
        assert figure["width"] > 600 and figure["height"] > 100, figure
        assert figure["marks"] > 20, figure
        assert figure["outside"] == [], figure


# Blink's numbers for the scheme that the user prefers.
@pytest.mark.parametrize("scheme, letters", [(1, "rgb(27, 31, 36)"), (0, "rgb(232, 234, 237)")])
def test_figures_follow_the_light_and_the_dark_scheme(
    page: str, tmp_path: pathlib.Path, scheme: int, letters: str
) -> None:
    figures = looked_at(page, tmp_path, f"--blink-settings=preferredColorScheme={scheme}")
    assert {figure["text"] for figure in figures} == {letters}


class Recorder(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *unused: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Address of a server that records what it is asked for."""
    Recorder.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_policy_lets_nothing_be_loaded(
    page: str, tmp_path: pathlib.Path, elsewhere: str
) -> None:
    loads = (
        f'<img src="{elsewhere}/image" alt=""><link rel="stylesheet" href="{elsewhere}/style">'
        f'<script src="{elsewhere}/script"></script><iframe src="{elsewhere}/frame"></iframe>'
    )
    guarded, open_page = tmp_path / "guarded.html", tmp_path / "open.html"
    guarded.write_text(page.replace("</body>", loads + "</body>"), encoding="utf-8")
    open_page.write_text(
        without_policy(page).replace("</body>", loads + "</body>"), encoding="utf-8"
    )
    browse(guarded, tmp_path)
    assert Recorder.asked == []
    # The same loads do reach the server where the policy does not stop them.
    browse(open_page, tmp_path)
    assert sorted(Recorder.asked) == ["/frame", "/image", "/script", "/style"]
