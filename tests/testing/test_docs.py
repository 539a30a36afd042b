"""The how-to's code, run as a reader would run it: from files, by pytest, with the plugin."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "test-operators.md"
BLOCK = re.compile(r"^```python\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.peer
def test_the_how_to_is_true(tmp_path):
    pytest.importorskip("kopf", reason="the how-to's operator is written with kopf")
    blocks = dict(BLOCK.findall(PAGE.read_text()))
    assert len(blocks) == PAGE.read_text().count("```python")
    for name, code in blocks.items():
        (tmp_path / name).write_text(code)
    (tmp_path / "test_async.py").write_text(
        "import asyncio\nimport test_context_manager\n\n\n"
        "def test_async_with():\n    asyncio.run(test_context_manager.use())\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "error::ResourceWarning",
        ],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout
