"""``marspipe reprocess`` as cron, systemd and spark-submit call it."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest
from pyspark.sql import SparkSession

from marspipe.cli import cli, run_command
from marspipe.cli.reprocess import reprocess
from marspipe.store.catalog import Catalog, open_catalog
from marspipe.store.lock import held
from tests.pipeline.reprocess_scans import LEAN, PATIENT, write_raw
from tests.systemd import require_sound_units


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """A catalog with a scan that has not been reconstructed yet."""
    monkeypatch.setenv("MARSPIPE_CATALOG", str(tmp_path / "catalog.sqlite"))
    (tmp_path / "recipe.yaml").write_text(LEAN)
    raw = write_raw(tmp_path / PATIENT, "one", views=16)
    catalog = open_catalog()
    recipe = str(tmp_path / "recipe.yaml")
    catalog.put_scan("one", raw_uri=str(raw), out_uri=str(tmp_path / "out"), recipe_uri=recipe)
    return catalog


def call(*arguments: str | Path) -> int:
    return run_command(cli, ["reprocess", *map(str, arguments)], "marspipe")


def test_a_night_and_the_next_one(
    spark: SparkSession, catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--dry-run", "--json", "-") == 0
    said = capsys.readouterr()
    assert [scan["result"] for scan in json.loads(said.out)["scans"]] == ["due"]
    assert "it has no volume yet" in said.err
    assert not (tmp_path / "out").exists()

    summary, log = tmp_path / "summary.json", tmp_path / "logs" / "reprocess.jsonl"
    assert call("--json", summary, "--log", log) == 0
    table = capsys.readouterr().out
    assert re.search(r"^one +it has no volume yet +done +0:0\d:\d\d +\S+/out/volume/\S+$", table, re.MULTILINE)
    assert json.loads(summary.read_text())["counts"]["done"] == 1

    assert call("--json", summary, "--log", log) == 0
    assert capsys.readouterr().out == "nothing to do; 1 up to date\n"
    assert call("--dry-run", "--recipe", _recipe(tmp_path, "filter: {window: hann}")) == 0
    assert re.search(r"^one +made by recipe .* due ", capsys.readouterr().out, re.MULTILINE)
    assert {json.loads(line)["scan_id"] for line in log.read_text().splitlines()} == {"one", None}
    for word in PATIENT.split():
        assert word not in log.read_text()


def _recipe(folder: Path, text: str) -> Path:
    (folder / "other.yaml").write_text(text)
    return folder / "other.yaml"


def test_some_failed_is_exit_code_1(
    spark: SparkSession, catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog.put_scan("broken", raw_uri=str(tmp_path / "nowhere"), out_uri=str(tmp_path / "broken"), priority=1)
    assert call() == 1
    said = capsys.readouterr()
    assert "1 done, 1 failed; 0 up to date" in said.out
    assert "broken: " in said.out and "there is no scan manifest" in said.out


def test_another_instance_is_exit_code_75(catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, arguments in ((f"{tmp_path}/catalog.sqlite.reprocess", ()), (f"{tmp_path}/lock", ("--lock-dir",))):
        with held(folder, "marspipe reprocess", name="_marspipe_reprocess_lock.json"):
            assert call(*arguments, *([folder] if arguments else [])) == 75
        said = capsys.readouterr().err
        assert said.startswith("marspipe: another instance reprocesses the scans of sqlite:///")
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--scan", "unknown"), "knows no scan unknown"),
        (("--recipe", "no/such.yaml"), "there is no recipe"),
        (("--catalog", "mysql://host/name"), "catalog cannot be kept at mysql"),
        (("--keep", "0"), "--keep"),
        (("--max-hours", "-1"), "--max-hours"),
        (("--log", "/proc/no/such.jsonl"), "--log /proc/no/such.jsonl cannot be written"),
    ],
)
def test_bad_input_is_exit_code_2(
    catalog: Catalog, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    assert said in capsys.readouterr().err


def test_the_job_runs_under_spark_submit(project: Path, catalog: Catalog, tmp_path: Path) -> None:
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    command = [str(submit), "--master", "local[2]", "--conf", "spark.ui.enabled=false"]
    command += ["--driver-memory", "512m", str(project / "jobs" / "reprocess.py"), "--json", str(tmp_path / "s.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "s.json").read_text())["counts"]["done"] == 1
    (run,) = catalog.runs("one")
    assert (run.kind, run.state) == ("reprocess", "done")
    assert run.application_id and run.application_id.startswith("local-")


def commands_of_crontab(project: Path) -> list[str]:
    """Return the commands of the crontab, those that are commented out too."""
    lines = (project / "conf" / "crontab.example").read_text().splitlines()
    found = [m[1] for m in (re.fullmatch(r"#?(?:[\d*/,-]+ +){5}(.*)", line) for line in lines) if m]
    assert len(found) == 3
    return found


def command_of_unit(project: Path) -> str:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(project / "conf" / "systemd" / "marspipe-reprocess.service")
    assert unit["Service"]["Type"] == "oneshot"
    assert unit["Service"]["SuccessExitStatus"] == "75"
    return unit["Service"]["ExecStart"]


def test_the_commands_of_the_examples_are_understood(project: Path) -> None:
    for command in [*commands_of_crontab(project), command_of_unit(project)]:
        words = shlex.split(command.partition("2>>")[0])
        (first,) = [n for n, w in enumerate(words) if w == "reprocess" or w.endswith("jobs/reprocess.py")]
        assert Path(words[first - 1]).name == "marspipe" or "spark-submit" in words[0]
        context = reprocess.make_context("reprocess", words[first + 1 :])
        assert not context.args


def test_the_crontab_says_where_everything_is(project: Path) -> None:
    lines = (project / "conf" / "crontab.example").read_text().splitlines()
    variables = [line.partition("=")[0] for line in lines if re.match(r"[A-Z_]+=", line)]
    assert variables == ["SHELL", "PATH", "MAILTO", "MARSPIPE_CATALOG", "JAVA_HOME"]
    # Everything else is a comment, or five fields and a command.
    rest = [line for line in lines if line and not line.startswith("#") and not re.match(r"[A-Z_]+=", line)]
    assert all(re.match(r"(?:[\d*/,-]+ +){5}marspipe reprocess ", line) for line in rest)
    assert not [line for line in rest if "%" in line]


def test_the_units_are_what_systemd_expects(project: Path, tmp_path: Path) -> None:
    timer = (project / "conf" / "systemd" / "marspipe-reprocess.timer").read_text()
    for line in ("Persistent=true", "RandomizedDelaySec=15min", "WantedBy=timers.target"):
        assert line in timer.splitlines()
    require_sound_units(project / "conf" / "systemd", tmp_path, "marspipe-reprocess.*")
