from click.testing import CliRunner

from underway.capabilities.packs.cli import pack


def test_detect_writes_nothing(tmp_path):
    (tmp_path / "index.html").write_text("x")
    result = CliRunner().invoke(pack, ["detect", str(tmp_path)])
    assert result.exit_code == 0
    assert "language: static" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_create_names_what_it_wrote(tmp_path):
    (tmp_path / "app.py").write_text("")
    result = CliRunner().invoke(pack, ["create", str(tmp_path), "--name", "shop", "--port", "9000"])
    assert result.exit_code == 0
    assert "wrote .underway/deploy.yaml" in result.output
    assert "name: shop" in (tmp_path / ".underway/deploy.yaml").read_text()
    again = CliRunner().invoke(pack, ["create", str(tmp_path)])
    assert "nothing was missing" in again.output
