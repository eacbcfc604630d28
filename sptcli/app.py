"""The `spt` command: one literal table of commands, each imported only when it is asked for.

Adding a command takes a module, a line in COMMANDS and a test. The module is an ordinary typer function:

    # sptcli/greet.py
    EXAMPLES = ("spt greet coco", "spt greet coco --times 2 --json")      # shown in --help and docs/cli.md

    def command(ctx: typer.Context, data: options.Data, times: Annotated[int, typer.Option(min=1)] = 1) -> None:
        '''Greet a data set. The first paragraph is the summary, the rest explains defaults.'''
        from sptcore.greeting import greet                                 # the job: imported here, never above

        session = Session.of(ctx)
        report = greet(data, times=times, progress=session.progress)       # bar, plain lines, JSON or nothing
        session.show({"greeted": report.count}, table(["data", "count"], [[data, report.count]]))
        session.finish(artefacts={"log": report.path}, next=f"spt stats {data}")

    # COMMANDS:  "greet": Entry("sptcli.greet", "Data", "greet a data set"),
    # tests/sptcli/test_greet.py
    ran = spt("greet", "coco", "--json")
    assert (ran.code, ran.document["greeted"]) == (0, 1)

What the frame does for every command, so that none does it again:

- `--config --set --json --quiet --verbose --debug --progress --version --help`, before or after the command's name;
- flag > SPT_<CMD>_<FLAG> > --set > --config FILE.toml [cmd] > preset > default. A module may have a function
  `preset(values) -> tuple[name, {parameter: value}] | None`: its values replace defaults, never what a person set.
  `session.explicit("lr")` and `session.origin("lr")` tell what was set and where;
- `session.as_toml()` is the text of a --config file that re-runs the job;
- a module may have `extra_settings() -> {key: settings.Extra(default, help)}`: settings for --set and --config without
  a flag; those that were set are in `session.extra`. A file spells a flag by any of its long names or its Python name;
- an SptError becomes one screen and its exit code; `--json` prints one document {"schema", "ok", ...}, on failure too:
  show the result first, then raise IntegrityError for a failed `--fail-under`, and both are in it;
- Ctrl-C is 130, SIGTERM 143 (raised as SystemExit(143) in the main thread), MemoryError 7, a closed pipe 141, a bug 1.

`print` is not used: results go through `session.show`, remarks through `session.note` and `session.warn`.
`tests.support.cli.spt(*args)` runs the frame in this process, `spt_process(*args)` in a fresh interpreter.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from sptcli.dispatch import Entry, SptGroup

COMMANDS: dict[str, Entry] = {
    "make-sparse": Entry("sptcli.make_sparse", "Data", "cut the sparse images out of a data set"),
    "make-labels": Entry("sptcli.make_labels", "Data", "rasterise boxes and masks into selection labels (HDF5)"),
    "stats": Entry("sptcli.stats", "Data", "how sparse a data set is, what is in it, what is wrong with it"),
    "prepare": Entry("sptcli.prepare", "Data", "unpack and check a data set, name what is missing"),
    "train": Entry("sptcli.train", "Train and test", "train a detector or classifier that selects its tokens"),
    "evaluate": Entry("sptcli.evaluate", "Train and test", "accuracy, selection and MACs of a run on a data set"),
    "predict": Entry("sptcli.predict", "Train and test", "what a model finds in images and videos"),
    "reproduce": Entry("sptcli.reproduce", "Train and test", "the paper's tables and figures as resumable run plans"),
    "profile": Entry("sptcli.profile", "Efficiency", "parameters, multiply-accumulates, latency and memory of models"),
    "export": Entry("sptcli.export", "Efficiency", "a model as ONNX, torch.export or weights, compared with itself"),
    "report": Entry("sptcli.report", "Look", "a run on one page: curves, tables, heat maps, settings"),
    "compare": Entry("sptcli.compare", "Look", "runs side by side: figures, settings, accuracy against cost"),
    "viz-selection": Entry("sptcli.viz_selection", "Look", "heat maps of the tokens a model selects"),
    "models": Entry("sptcli.models", "Setup", "the models: parameters, cost, origin, weights that fit"),
    "config": Entry("sptcli.config", "Setup", "show, write or check settings, and where each comes from"),
    "demo": Entry("sptcli.demo", "Setup", "the whole road on the built-in sample, in a few minutes on a CPU"),
    "doctor": Entry("sptcli.doctor", "Setup", "versions, devices, folders and self-tests, with cures"),
}


class Spt(SptGroup):
    """The root command over COMMANDS."""

    table = COMMANDS


app = typer.Typer(
    cls=Spt,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def spt() -> None:
    """Spend transformer compute only where objects are: sparse data sets, selection labels, training, measurement.

    Data names: coco bdd voc tiny-imagenet sample, or a path. Start with: spt demo
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: sys.argv) and return its exit code; the console script `spt`."""
    try:
        typer.main.get_command(app).main(args=list(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
