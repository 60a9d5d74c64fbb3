"""The command line: one command a question, imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

app = App(
    name="roofserve",
    help="Analytical roofline simulator of LLM serving. Every command answers one question.",
    default_parameter=Parameter(show_default=False, show_env_var=False),
)
COMMANDS = (
    # name, where it is, what it answers
    (
        "sched_compare",
        "experiments.sched_compare:sched_compare",
        "Which scheduler answers sooner, and what a cache saves.",
    ),
    ("explain", "experiments.explain:explain", "Where the time of the slowest requests goes."),
    ("systems", "experiments.systems:systems", "What each serving system does and can do, at its date."),
    ("timeline", "experiments.timeline:timeline", "What a replica did, moment by moment, for ui.perfetto.dev."),
    ("hardware", "experiments.hardware:hardware", "What the chips are, each number with its source."),
    ("sizing", "experiments.sizing:sizing", "How many cards a model needs, beside what the article recommends."),
    ("capacity", "experiments.capacity:capacity", "How many requests a candidate can be asked within its promises."),
    ("pareto", "experiments.pareto:pareto", "What speed for each user costs in tokens per card."),
    ("sensitivity", "experiments.sensitivity:sensitivity", "Which assumption turns a decision round."),
    ("claims", "experiments.claims:article_claims", "Which statements of the article hold."),
    ("tp_scaling", "experiments.tp_scaling:tp_scaling", "How many cards should share a model."),
    (
        "offload",
        "experiments.offload:offload",
        "What streaming weights from the host costs against more cards.",
    ),
    ("precision", "experiments.precision:precision", "What each number format is worth."),
    (
        "replicas_vs_tp",
        "experiments.replicas_vs_tp:replicas_vs_tp",
        "Whether the same cards serve better as many replicas or as few.",
    ),
    ("routers", "experiments.routers:routers", "Which router shares requests best among replicas."),
    ("prefix_sharing", "experiments.prefix_sharing:prefix_sharing", "What a prefix cache saves."),
    ("chunk_size", "experiments.chunk_size:chunk_size", "How many tokens an iteration should have."),
    ("batching", "experiments.batching:batching", "What each step in the history of batching was worth."),
    ("frameworks", "experiments.frameworks:frameworks", "What products serve, of January 2024 and of today."),
    ("eviction", "experiments.eviction:eviction", "What it costs to pause requests when KV blocks run out."),
    ("conformance", "experiments.conformance:conformance", "Whether our batches are those of the real schedulers."),
    ("roofline", "experiments.roofline:run", "What an iteration consists of, and what bounds each part."),
    ("validate", "experiments.validate:run", "How far off the cost model is, table by table."),
    ("calibrate", "experiments.calibrate:run", "The constants of a chip, fitted to measurements."),
    ("benchmark", "experiments.benchmark:run", "How fast the simulator is on this machine."),
)
for name, path, answers in COMMANDS:
    app.command(path, name=name, help=answers)


def main(tokens: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0, 2 for a user's mistake (one sentence, no traceback), 130 for Ctrl-C."""
    try:
        status = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except (CycloptsError, ValueError) as error:
        _fail(str(error))
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(
            f"{error.filename or 'the system'}: {error.strerror or error}; allowed: a path that can be read or written"
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    sentence = " ".join(message.split())
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    print(f"\033[31m{sentence}\033[0m" if colour else sentence, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
