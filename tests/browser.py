"""The report of a study in headless Chromium: every page of it opened, and what a person reads there."""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REQUIRED = "RVLR_BROWSER_REQUIRED"
"""The environment variable with which a missing browser fails tests: continuous integration sets it."""
VISIT = """
<script>
const errors = [];
window.addEventListener('error', event => errors.push(event.message));
const images = {};  // before the page counts as loaded: what comes later may come too late for the copy of the page
for (const [path, result] of Object.entries(results)) {
  if (!result.mime_type.startsWith('image/')) continue;
  images[path] = document.body.appendChild(new Image());
  images[path].hidden = true;
  images[path].src = result.data_uri;
}
const visit = async () => {
  const pause = () => new Promise(done => setTimeout(done, 60));
  const pages = {};
  const look = async name => { await pause(); pages[name] = document.querySelector('#app').innerText; };
  await look('first');
  app.setView({content: 'stats'});
  await look('statistics');
  for (const [category, parts] of Object.entries(categories)) {
    app.showCategory(category);
    await look(category);
    for (const path of Object.values(parts).flat()) {
      app.showResultInfo(path);
      await look(path);
      if (path in images) pages[path] += `\\nimage ${images[path].naturalWidth} x ${images[path].naturalHeight}`;
      if (results[path].mime_type == 'text/html') {
        app.setView({content: 'html', contentPath: results[path].data_uri});
        await pause();
        pages[path] += `\\nframes ${document.querySelectorAll('iframe').length}`;
      }
    }
  }
  app.setView({content: 'rulegraph', navbarMode: 'menu'});
  await pause();
  return pages;
};
window.addEventListener('load', async () => {
  const pages = await visit().catch(error => { errors.push(String(error)); return {}; });
  const loaded = performance.getEntriesByType('resource').map(one => one.name.slice(0, 100));
  const found = document.createElement('textarea');
  found.id = 'visited';
  found.textContent = JSON.stringify({pages, loaded, errors});
  document.body.append(found);
});
</script>
"""


@dataclass(frozen=True)
class Visit:
    """What a browser shows of a report: the text of each page by its name, what was loaded from elsewhere, the messages
    of scripts that failed, and the first page as HTML."""

    pages: dict[str, str]
    loaded: list[str]
    errors: list[str]
    first: str


def chromium() -> str:
    """The browser; skips the test where there is none, or fails it where there must be one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        reason = f"a browser is needed, and none of {', '.join(NAMES)} is installed (Debian: apt install chromium)"
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def visit(report: Path, folder: Path) -> Visit:
    """Open every page of a report. `folder` is for a copy of the report and the browser's own files."""
    page = folder / "visited.html"
    page.write_text(report.read_text(encoding="utf-8") + VISIT, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder / 'profile'}"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=60000", "--dump-dom"]
    command = [chromium(), *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = re.search(r'<textarea id="visited">(.*?)</textarea>', done.stdout, re.DOTALL)
    assert found, done.stderr
    return Visit(**json.loads(html.unescape(found[1])), first=done.stdout[: found.start()])


def rows_of(page: str, table: str) -> list[list[str]]:
    """The cells of a table of a page, by the id of the element around the table."""
    found = re.search(rf'id="{table}">(.*?)</table>', page, re.DOTALL)
    assert found
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", found[1], re.DOTALL)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]
