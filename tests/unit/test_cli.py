"""The command line: exit codes, and one line on stderr for whoever made a mistake."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from lakescore.cli import main, score_main
from lakescore.commands import Parser, run_command
from lakescore.version import __version__

Streams = pytest.CaptureFixture[str]


def test_the_version_is_printed(capsys: Streams) -> None:
    code = main(["--version"])

    assert (code, capsys.readouterr().out) == (0, f"lakescore {__version__}\n")


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["-h"], 0), ([], 2)])
def test_help_names_the_commands_and_only_asking_for_it_is_success(arguments: list[str], code: int, capsys: Streams) -> None:
    assert main(arguments) == code
    assert capsys.readouterr().out.startswith("usage: lakescore COMMAND ...\n\ncommands:\n  score ")


def test_the_help_of_score_succeeds_and_shows_an_example(capsys: Streams) -> None:
    with pytest.raises(SystemExit) as caught:
        score_main(["--help"])

    assert caught.value.code == 0
    assert "lakescore score model.uri=models:/churn@champion" in capsys.readouterr().out


def test_an_unknown_command_is_refused_with_the_nearest(capsys: Streams) -> None:
    code = main(["scor"])

    assert (code, capsys.readouterr().err) == (
        2,
        "lakescore: unknown command 'scor'; known: score, replay, backfill, read, register, stats, drift, doctor, delete-batch, "
        "serve, trigger, setup-spark. Did you mean 'score'?\n",
    )


def test_a_wrong_option_of_setup_spark_is_one_line(capsys: Streams) -> None:
    assert main(["setup-spark", "--nope"]) == 2
    assert capsys.readouterr().err == "lakescore: unrecognized arguments: --nope; see lakescore setup-spark --help\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--nope"], "unrecognized arguments: --nope; see lakescore score --help"),
        (["--config"], "argument --config: expected one argument; see lakescore score --help"),
        (["--config", "missing.yaml"], "--config: missing.yaml does not exist."),
        (["--config", "good.yaml", "run.nme=x"], "run.nme: unknown key. Did you mean 'name'? (command line)"),
        (["--config", "good.yaml", "run.name"], "override 'run.name': expected section.key=value"),
        (["--dry-run=1"], "argument --dry-run: ignored explicit argument '1'; see lakescore score --help"),
        (["--conf", "good.yaml"], "unrecognized arguments: --conf; see lakescore score --help"),
        (["--config", "good.yaml", "--dry-run", "run.nme=x"], "run.nme: unknown key. Did you mean 'name'? (command line)"),
        (["run.nme=x", "--config", "good.yaml", "run.name=y"], "run.nme: unknown key. Did you mean 'name'? (command line)"),
        (
            ["--config", "good.yaml", "tracking.tracking_uri=[http://user:hunter2@host]"],
            "tracking.tracking_uri: got ['http://***@host'] (a list); expected text (command line)",
        ),
        (["--config", "empty.yaml"], "empty.yaml: is empty; expected sections such as model:, source: and output:"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], line: str, capsys: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text("model: {uri: m}\nsource: {path: a}\noutput: {path: b}\n", encoding="utf-8")
    Path("empty.yaml").touch()

    code = score_main(arguments)

    assert (code, capsys.readouterr().err) == (2, f"lakescore: {line}\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["stats", "a/b"], "--output: is required without --model: a file for the statistics"),
        (["stats", "a/b", "--output", "x.json", "run.name=y"], "--config, section.key=value: belong to --model, which is not given"),
        (["stats", "a/b", "--output", "nowhere/x.json"], "--output: there is no folder {folder}/nowhere"),
        (["stats", "a/b", "--output", "."], "--output: . is a folder; give a file in it"),
        *(
            (arguments, "drift: give DATA and --reference, or --history; see lakescore drift --help")
            for arguments in (["drift", "a/b"], ["drift", "a/b", "--reference", "a/c", "--history", "d/e"])
        ),
        *(
            (
                [*arguments, "--possible-threshold", "0.8"],
                "--possible-threshold, --detected-threshold: possible_threshold and detected_threshold: got 0.8 and 0.7; "
                "expected 0 < possible_threshold < detected_threshold < 1",
            )
            for arguments in (["drift", "a/b", "--reference", "a/c"], ["drift", "--history", "d/e"])
        ),
    ],
)
def test_wrong_options_of_stats_and_drift_are_refused_before_spark(
    arguments: list[str], line: str, capsys: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    code = main(arguments)

    assert (code, capsys.readouterr().err) == (2, f"lakescore: {line.format(folder=tmp_path)}\n")


def test_the_last_configuration_file_wins(capsys: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("first.yaml").write_text("run: {name: [a]}\nmodel: {uri: m}\nsource: {path: a}\noutput: {path: b}\n", encoding="utf-8")
    Path("last.yaml").write_text("run: {name: [b]}\n", encoding="utf-8")

    code = score_main(["--config", "first.yaml", "--config", "last.yaml"])

    assert (code, capsys.readouterr().err) == (2, "lakescore: run.name: got ['b'] (a list); expected text (last.yaml)\n")


def test_without_a_file_the_default_one_is_read_or_the_keys_alone(capsys: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = ["model.uri=m", "source.path=a", "output.path=b"]

    codes = [main(["score", *some]) for some in ([], keys[:2], [*keys, "--dry-run"])]

    assert codes == [2, 2, 3]
    nothing, half, whole = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lakescore: ")]
    assert nothing == "lakescore: --config: conf/score.yaml does not exist."
    assert half == "lakescore: output: is required (command line) (no --config was given, and conf/score.yaml is not here)"
    assert whole.startswith("lakescore: model.uri: m does not exist")


def test_verbose_shows_the_traceback_and_ends_with_the_line(capsys: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    code = score_main(["--verbose", "--config", "missing.yaml"])

    shown = capsys.readouterr().err
    assert (code, "Traceback (most recent call last):" in shown) == (2, True)
    assert shown.endswith("\nlakescore: --config: missing.yaml does not exist.\n")


def test_a_tracking_server_that_is_not_there_is_exit_code_1_and_one_line(capsys: Streams, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model: {uri: m}\nsource: {path: a}\noutput: {path: b}\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    code = score_main(["--config", str(file), f"tracking.tracking_uri=http://user:hunter2@127.0.0.1:{port}"])

    assert (code, capsys.readouterr().err) == (
        1,
        f"lakescore: tracking.tracking_uri: the MLflow server http://***@127.0.0.1:{port} does not answer: Connection refused; start it, "
        "or give another URI\n",
    )


def test_a_secret_in_a_log_is_hidden(capsys: Streams) -> None:
    score_main(["--config", "missing.yaml"])
    capsys.readouterr()

    logging.getLogger("lakescore.session").warning("connecting to %s", "http://user:hunter2@host")

    assert capsys.readouterr().err.endswith(" WARNING lakescore.session: connecting to http://***@host\n")


def test_what_ends_the_process_before_the_work_is_done_is_a_failure(capsys: Streams) -> None:
    def run(options: object) -> int:
        raise SystemExit(0)

    parser = Parser("lakescore x", "")
    parser.add_argument("--verbose", action="store_true")

    assert run_command(parser.parse_args, run, []) == 1
    assert capsys.readouterr().err == "lakescore: something ended the process before the work was done (SystemExit: 0)\n"
