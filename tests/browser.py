"""A page in a real browser, as wide as one likes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DARK = {"light": 1, "dark": 0}


def shown(page: Path, probe: str, folder: Path, width: int, scheme: str = "light") -> subprocess.CompletedProcess[str]:
    """What the browser makes of a page, and what it says: the page's ``probe``, a script, tells of it in its title.

    Args:
        page: the file.
        probe: is put at the end of its body.
        folder: for what the browser needs.
        width: in CSS pixels.
        scheme: what the reader's system asks for.
    """
    copy = folder / "copy.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{probe}</body>"), encoding="utf-8")
    # Headless windows have a least width of about 500, so a narrow page is shown in a frame.
    frame = folder / "frame.html"
    frame.write_text(
        f"<iframe id=f src='copy.html' style='width:{width}px;height:4000px;border:0'></iframe><script>"
        "f.onload = () => document.title = f.contentDocument.title</script>"
    )
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += ["--enable-logging=stderr", f"--blink-settings=preferredColorScheme={DARK[scheme]}"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    return subprocess.run(
        [*command, frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(folder)},
    )
