"""``lakescore serve``, ``lakescore serve token`` and ``lakescore trigger``: their options, and what they start."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lakescore.commands import Parser, run_command
from lakescore.errors import ConfigError

TOKENS = "tokens"
DEFAULT_STATE = "service-state"
TOKEN_VARIABLE = "LAKESCORE_TOKEN"
_SERVE_HELP = """Run pipelines when asked by REST, by schedule, and from a page in the browser.

A pipeline is a YAML file in a folder, as conf/score.yaml; its name is the file's. Its section service says which keys a caller may
set, when it runs by itself, and how. For example:
  lakescore serve token --name alice --role run
  lakescore serve --pipelines conf/pipelines
  lakescore trigger http://127.0.0.1:8080 flights run.date=2026-01-31 --wait

Exit codes: 0 ended by a signal, 1 it cannot listen, 2 usage."""
_TOKEN_HELP = """Make a token, print it once, and keep its hash.

The file has a line HASH ROLE NAME for each; taking a line out revokes the token, and the service need not be restarted."""
_TRIGGER_HELP = """Have a service run a pipeline.

  lakescore trigger http://127.0.0.1:8080 flights run.date=2026-01-31 --wait

The token is read from --token-file, else from the environment variable LAKESCORE_TOKEN. A request that gets no answer is sent again
with the same idempotency key: it makes one run. With --wait the exit code is that of the run, as lakescore score has it
(1 where it was cancelled or lost); without, 0 when it is queued. A request that is refused: 2; a service that does not answer: 1."""


def serve_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore serve``; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["token"]:
        return run_command(_token_options, _token, arguments[1:])
    return run_command(_serve_options, _serve, arguments)


def trigger_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore trigger``; returns the exit code."""
    return run_command(_trigger_options, _trigger, argv)


def _number(low: int, high: int) -> Callable[[str], int]:
    """A whole number of an option."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"got {text!r}; expected a number from {low} to {high}")
        return int(text)

    return number


def _serve_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore serve", _SERVE_HELP)
    add = parser.add_argument
    add("--pipelines", metavar="FOLDER", required=True, help="the pipelines' YAML files")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    add("--port", type=_number(0, 65_535), default=8080, help="port (default: 8080; 0: any that is free)")
    add("--state", metavar="FOLDER", default=DEFAULT_STATE, help=f"runs, logs and results are kept there (default: {DEFAULT_STATE})")
    add("--tokens", metavar="FILE", help=f"hashes of the tokens (default: {TOKENS} in the state's folder)")
    add("--no-auth", action="store_true", help="ask for no token; on a loopback address only")
    add("--concurrency", type=_number(1, 1_000), default=1, metavar="N", help="runs at once (default: 1)")
    add("--queue", type=_number(1, 100_000), default=100, metavar="N", help="runs that may wait; others get 429 (default: 100)")
    add("--rate", type=_number(1, 1_000_000), default=600, metavar="N", help="requests a minute and token (default: 600)")
    add("--grace", type=_number(0, 86_400), default=30, metavar="SECONDS", help="time a cancelled run has to end (default: 30)")
    add("--keep", type=_number(1, 36_500), default=90, metavar="DAYS", help="ended runs are forgotten after so many (default: 90)")
    add("--end-runs", action="store_true", help="when the service is ended, end its runs; default: they go on, and are found again")
    add("--job", metavar="FILE", default="jobs/score.py", help="what spark-submit is given (default: jobs/score.py)")
    add("--mlflow-url", metavar="URL", help="MLflow's page, for links (default: tracking.tracking_uri, where it is a server)")
    add("--certificate", metavar="FILE", help="TLS certificate; with --key")
    add("--key", metavar="FILE", help="its private key")
    add("--verbose", action="store_true", help="log more, and show the traceback of an error")
    return parser.parse_args(argv)


def _serve(options: argparse.Namespace) -> int:
    if (options.certificate is None) != (options.key is None):
        raise ConfigError("--certificate, --key: belong together")
    try:
        from lakescore.service import server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lakescore"):
            raise
        raise ConfigError(f"lakescore serve needs the package {error.name}: pip install 'lakescore[serve]'") from None
    return server.serve(
        server.Settings(
            pipelines=Path(options.pipelines),
            state=Path(options.state),
            tokens=None if options.no_auth else Path(options.tokens or Path(options.state) / TOKENS),
            host=options.host,
            port=options.port,
            concurrency=options.concurrency,
            queue=options.queue,
            rate=options.rate,
            grace=options.grace,
            keep_days=options.keep,
            end_runs=options.end_runs,
            job=Path(options.job),
            mlflow_url=options.mlflow_url,
            certificate=options.certificate,
            key=options.key,
        )
    )


def _token_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore serve token", _TOKEN_HELP)
    parser.add_argument("--name", required=True, help="whose it is; shown beside the runs")
    parser.add_argument("--role", required=True, choices=("read", "run"), help="read: look; run: look, run and cancel")
    parser.add_argument("--state", metavar="FOLDER", default=DEFAULT_STATE, help=f"as of lakescore serve (default: {DEFAULT_STATE})")
    parser.add_argument("--tokens", metavar="FILE", help=f"where its hash goes (default: {TOKENS} in the state's folder)")
    parser.add_argument("--verbose", action="store_true", help="log more, and show the traceback of an error")
    return parser.parse_args(argv)


def _token(options: argparse.Namespace) -> int:
    from lakescore.service import tokens

    print(tokens.add(Path(options.tokens or Path(options.state) / TOKENS), options.name, options.role))
    return 0


def _trigger_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore trigger", _TRIGGER_HELP)
    parser.add_argument("url", metavar="URL", help="of the service, as http://127.0.0.1:8080")
    parser.add_argument("pipeline", metavar="PIPELINE", help="its name")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="what the pipeline lets a caller set")
    parser.add_argument("--wait", action="store_true", help="until the run has ended; the exit code is the run's")
    parser.add_argument("--token-file", metavar="FILE", help=f"the token (default: the environment variable {TOKEN_VARIABLE})")
    parser.add_argument("--idempotency-key", metavar="KEY", help="with the same key: the same run (default: a new one)")
    parser.add_argument("--verbose", action="store_true", help="log more, and show the traceback of an error")
    return parser.parse_intermixed_args(argv)


def _trigger(options: argparse.Namespace) -> int:
    from lakescore.service import client

    token = os.environ.get(TOKEN_VARIABLE)
    if options.token_file is not None:
        try:
            token = Path(options.token_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"--token-file: got {options.token_file}, which cannot be read: {reason}") from error
    service = client.Client(options.url, (token or "").strip() or None)
    return client.trigger(service, options.pipeline, options.overrides, options.wait, options.idempotency_key)
