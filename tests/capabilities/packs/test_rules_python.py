import pytest

from underway.base.errors import BadRequest
from underway.capabilities.packs.model import Listing, Plan
from underway.capabilities.packs.rules import detect
from underway.capabilities.packs.rules.python import dependencies

FLASK = "from flask import Flask\napp = Flask(__name__)\n"


def of(files: dict[str, str], port: int | None = None) -> Plan:
    return detect(Listing(frozenset(files), files), port)


def test_flask_under_gunicorn_when_it_is_listed():
    found = of({"requirements.txt": "Flask==3\ngunicorn>=20", "app.py": FLASK})
    assert found.language == "python"
    assert found.command == ("gunicorn", "--bind", "0.0.0.0:8000", "app:app")
    assert found.port == 8000


def test_flask_without_a_server_listens_on_all_addresses():
    found = of({"requirements.txt": "flask", "app.py": FLASK})
    assert found.command[:3] == ("flask", "--app", "app:app")
    assert "0.0.0.0" in found.command
    assert found.port == 5000


def test_a_flask_script_that_listens_by_itself_is_run_as_it_is():
    text = FLASK + "if __name__ == '__main__':\n    app.run(host='0.0.0.0', port=8123)\n"
    found = of({"requirements.txt": "flask", "app.py": text})
    assert found.command == ("python", "app.py")
    assert found.port == 8123


def test_a_flask_factory_is_found():
    text = "from flask import Flask\ndef create_app():\n    return Flask(__name__)\n"
    files = {"requirements.txt": "flask\ngunicorn", "shop/__init__.py": text}
    assert of(files).command[-1] == "shop:create_app()"


def test_fastapi_under_uvicorn():
    text = "import fastapi\napi: fastapi.FastAPI = fastapi.FastAPI(title='x')\n"
    found = of({"requirements.txt": "fastapi\nuvicorn[standard]", "main.py": text})
    assert found.command[0] == "uvicorn"
    assert found.command[-1] == "main:api"


def test_fastapi_with_the_standard_extra_brings_uvicorn():
    text = "from fastapi import FastAPI\napp = FastAPI()\n"
    assert of({"requirements.txt": "fastapi[standard]", "main.py": text}).command[0] == "uvicorn"


def test_fastapi_without_a_server_is_run_as_a_script():
    text = "from fastapi import FastAPI\napp = FastAPI()\n"
    assert of({"requirements.txt": "fastapi", "main.py": text}).command == ("python", "main.py")


def test_django_under_gunicorn_and_by_itself():
    files = {"requirements.txt": "django\ngunicorn", "manage.py": "", "shop/wsgi.py": ""}
    assert of(files).command[-1] == "shop.wsgi:application"
    own = of({"requirements.txt": "django", "manage.py": "", "shop/wsgi.py": ""}, 9000)
    assert own.command[-1] == "0.0.0.0:9000"


def test_a_procfile_decides_and_expands_its_port():
    files = {
        "requirements.txt": "httpbin\ngunicorn",
        "Procfile": "worker: x\nweb: gunicorn -b 0.0.0.0:$PORT httpbin:app\n",
    }
    found = of(files)
    assert found.command == ("/bin/sh", "-c", "exec gunicorn -b 0.0.0.0:$PORT httpbin:app")
    assert found.port == 8000
    assert of(files, 9001).port == 9001


def test_a_procfile_with_several_commands_keeps_its_shell():
    files = {"requirements.txt": "", "Procfile": "web: python migrate.py && python app.py"}
    assert of(files).command[-1] == "python migrate.py && python app.py"


def test_a_plain_script_names_its_port():
    text = "from http.server import *\nHTTPServer(('', 8081), X).serve_forever()\n"
    found = of({"app.py": text})
    assert (found.command, found.port) == (("python", "app.py"), 8081)


def test_a_port_from_the_environment_is_the_habit_or_the_one_asked_for():
    text = "import os\nserve(port=int(os.environ.get('PORT', 1234)))\n"
    assert of({"main.py": text}).port == 8000
    assert of({"main.py": text}, 4321).port == 4321


def test_a_package_that_can_be_run_and_a_command_it_installs():
    module = {"pyproject.toml": "[project]\nname='x'\n", "shop/__main__.py": ""}
    assert of(module).command == ("python", "-m", "shop")
    script = "[build-system]\nrequires=[]\n[project]\nname='x'\n[project.scripts]\nshop='a:b'\n"
    found = of({"pyproject.toml": script})
    assert found.command == ("shop",)
    assert found.values["install_late"] == "pip install --no-cache-dir ."


def test_nothing_to_run_says_what_helps():
    with pytest.raises(BadRequest, match="nothing says what to run") as caught:
        of({"requirements.txt": "httpbin\ngunicorn"})
    assert "Procfile" in caught.value.hint


def test_a_static_site_beside_idle_python_is_still_shipped():
    assert of({"requirements.txt": "mkdocs", "site/index.html": ""}).language == "static"


def test_dependencies_from_every_file():
    found = dependencies(
        Listing(
            frozenset(),
            {
                "requirements.txt": "# no\n-r other.txt\nZope.Interface >= 5\nuvicorn[standard]\n",
                "pyproject.toml": "[project]\ndependencies=['a>1']\n"
                "[tool.poetry.dependencies]\npython='^3'\nb='*'\n",
                "Pipfile": "[packages]\nc = '*'\n",
                "setup.py": "setup(install_requires=['d>=1', \"e[x]\"])",
            },
        )
    )
    assert {"zope-interface", "a", "b", "c", "d", "e"} <= found.keys()
    assert found["uvicorn"] == "standard"


def test_requirements_that_install_the_source_come_after_it():
    found = of({"requirements.txt": "flask\n-e .\n", "app.py": FLASK})
    assert "install_early" not in found.values
    assert found.values["install_late"] == "pip install --no-cache-dir -r requirements.txt"


def test_broken_toml_is_no_reason_to_fail():
    assert of({"pyproject.toml": "[[[", "app.py": ""}).command == ("python", "app.py")
