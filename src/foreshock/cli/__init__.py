"""The command line: parses, calls, prints. One module a command or group of commands.

Exit codes: 0 fine, 2 bad input or usage, 3 resources (memory, time), 130 interrupted, 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from foreshock import __version__
from foreshock.cli import (
    adapt,
    config,
    data,
    detect,
    doctor,
    evaluate,
    inspect,
    label,
    make,
    plan,
    runs,
    score,
    serve,
    weights,
)
from foreshock.errors import ForeshockError

app = typer.Typer(
    name="foreshock",
    help="Finds what is going wrong in a microservice system before it becomes an outage, "
    "from its metrics alone.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would cost half of the start-up time
    pretty_exceptions_enable=False,
)
app.command()(score.score)
app.command()(detect.detect)
app.command()(inspect.inspect)
app.add_typer(weights.app, name="weights")
app.add_typer(data.app, name="data")
app.command()(doctor.doctor)
app.add_typer(config.app, name="config")
app.add_typer(runs.app, name="runs")
app.command()(evaluate.evaluate)
app.command()(adapt.adapt)
app.command()(label.label)
app.command()(make.simulate)
app.command()(make.pretrain)
app.command()(plan.plan)
app.command()(serve.serve)


def _version(asked: bool) -> None:
    if asked:
        print(f"foreshock {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error comes from (anywhere).")
    ] = False,
) -> None:
    """Options before the command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    sys.exit(run([word for word in words if word != "--debug"], debug=debug))


def run(words: list[str], *, debug: bool = False) -> int:
    """Run one command and say its exit code; a deliberate error becomes one line on stderr."""
    try:
        code = app(words, prog_name="foreshock", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # such as `foreshock … | head`
        sys.stderr.close()
        return 0
    except ForeshockError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except MemoryError:
        if debug:
            raise
        return _fail("memory ran out; set memory.budget, or take a smaller table or model.", 3)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # usage, as typer puts it
            if type(error).__name__ == "NoArgsIsHelpError":
                print(error.format_message(), file=sys.stderr)
                return 2
            return _fail(f"{error.format_message()} See `foreshock --help`.", int(error.exit_code))
        if debug:
            raise
        words_ = f"{type(error).__name__}: {error}"
        return _fail(f"{words_} (this is our bug; please report it with the output of --debug)", 1)


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code
