"""docs/operators.md, run as a reader would: its commands in order, its files where it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

PAGE = Path(__file__).parents[3] / "docs" / "operators.md"
BLOCK = re.compile(r"^```(\w+)\n(?:# (\S+\.py)\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)
# What is in PATH for a reader, as functions of the shell: this Python, and its `underway`.
SHELL = f"""set -e
python() {{ {sys.executable} "$@"; }}
underway() {{ {sys.executable} -c 'from underway.dist.main import main; main()' "$@"; }}
"""


def test_the_tutorial_is_true(tmp_path):
    folder = tmp_path
    ran = []
    for language, file, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "python":
            target = folder / file
            target.write_text(code, encoding="utf-8")
            compile(code, file, "exec")
        elif language == "yaml":
            assert yaml.safe_load(code)["kind"] == "CompositeController"
        else:
            assert language == "sh"
            ran.append(run(code, folder))
            if "cd greeter" in code:
                folder = folder / "greeter"
    assert "4 passed" in ran[0]
    assert "2 passed" in ran[1]
    rbac = (folder / "deploy" / "rbac.yaml").read_text()
    assert "configmaps" in rbac
    assert "deployments" not in rbac
    imported = run("python -c 'import webhooks; print(webhooks.add_webhooks.__name__)'", folder)
    assert imported.strip() == "add_webhooks"


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-c", SHELL + code],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
