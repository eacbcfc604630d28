"""The job report: one page that stands alone, from the files a run left."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from sptcore.errors import SptError
from sptcore.files import write_atomically
from sptcore.progress import SILENT, Progress
from sptcore.reporting.curves import run_curves
from sptcore.reporting.facts import RunFacts, accuracy_words, read_facts
from sptcore.runs import Run
from sptcore.runs.demo import is_demo
from sptcore.runs.models import load_model
from sptcore.training.config import format_for
from sptcore.viz.pages import page, picture, section, table
from sptcore.viz.pictures import Picture, Reading, find_pictures
from sptcore.viz.selection import Look, Watcher, see

SELECTION_FIGURES = ("select_ratio", "label_ratio", "recall", "precision")
LOG_LINES = 40


@dataclass(frozen=True)
class ReportResult:
    """The page, and what it could not show (the data set of the run is elsewhere, say)."""

    page: Path
    facts: RunFacts
    missing: tuple[str, ...]


def report(run: Run, out: Path | None = None, *, images: int = 4, progress: Progress = SILENT) -> ReportResult:
    """Write the page of a run (default `report.html` in its folder; beside you for a lone weights file).

    `images` of its validation data become heat maps. Raises DataError for a run without weights, EnvironmentFault when
    the page cannot be written.
    """
    facts = read_facts(run)
    target = out or (run.folder or Path()) / "report.html"
    missing: list[str] = []
    sections = [
        _summary(facts),
        _section("Curves", _grid(run_curves(facts))),
        _section("Validations", _validations(facts)),
        _section("Where the model looks", _heatmaps(facts, images, missing, progress)),
        _section("What the backbone costs", _costs(facts)),
        _section("Settings", _settings(facts)),
        _section("Environment", _environment(facts)),
        _section("Log", _log(facts)),
    ]
    write_atomically(target, page(f"{facts.spec.variant}: {facts.name}", _lead(facts), filter(None, sections)))
    return ReportResult(target, facts, tuple(missing))


def _section(heading: str, content: str) -> str:
    return section(heading, content) if content else ""


def _grid(parts: list[str]) -> str:
    return f'<div class="grid">{"".join(parts)}</div>' if parts else ""


def _lead(facts: RunFacts) -> str:
    data = facts.settings.get("data") or facts.run.info.notes.get("data") or "unknown data"
    steps = "" if facts.step is None else f", best weights of step {facts.step}"
    demo = ", bundled demo weights" if is_demo(facts.run) else ""
    bound = f", {facts.bound}" if facts.bound else ""
    kind = "" if facts.spec.task != "detect" else ", masks and boxes" if facts.spec.masks else ", boxes"
    classes = len(facts.spec.categories)
    tool = facts.run.info.tool_version
    return f"{facts.spec.task} on {data}, {classes} classes{kind}{steps}{demo}{bound}; written by spt {tool}"


def summary(facts: RunFacts) -> list[tuple[str, object]]:
    """The few figures that say what a run came to, as (name, value)."""
    lines: list[tuple[str, object]] = [("selection", facts.bound)] if facts.bound else []
    lines += [(word, facts.figures[name]) for name, word in accuracy_words([facts]).items() if name in facts.figures]
    for name, value in facts.figures.items():
        figure, _, stage = name.partition(".stage")
        if stage and figure in ("select_ratio", "recall"):
            lines.append((f"{figure.replace('_', ' ')}, stage {stage}", value))
    saved = 1 - facts.cost.actual / facts.cost.dense
    lines += [
        ("parameters, million", facts.params / 1e6),
        ("backbone GMACs an image", facts.cost.actual / 1e9),
        ("all tokens selected, GMACs", facts.cost.dense / 1e9),
        ("MACs saved by selection", f"{100 * saved:.1f}%"),
    ]
    if facts.seconds:
        lines.append(("training time", duration(facts.seconds)))
    return lines


def duration(seconds: float) -> str:
    """`"1 h 02 min"`, `"3 min 20 s"`, `"8 s"`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _summary(facts: RunFacts) -> str:
    return section("In short", table(["", "value"], summary(facts)))


def _validations(facts: RunFacts) -> str:
    rows = facts.validations()
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name.startswith("val.")]
    accuracy = accuracy_words([facts])
    kept = [name for name in names if name[4:] in accuracy or name[4:].partition(".")[0] in SELECTION_FIGURES]
    cells = [[row["step"], round(row["epoch"], 2), *(row.get(name) for name in kept)] for row in rows]
    return table(["step", "epoch", *(name[4:] for name in kept)], cells) if rows else ""


def _heatmaps(facts: RunFacts, images: int, missing: list[str], progress: Progress) -> str:
    """Selection, labels beside, of validation images with several objects; where that is not possible, a line."""
    if not images or not facts.spec.backbone.num_spa_blocks:
        return ""
    try:
        pictures = _pictures(facts, images)
        watcher = Watcher(facts.name, load_model(facts.run), is_demo(facts.run))
        seen = list(see(pictures, [watcher], Look(labels=True), progress))
    except SptError as error:
        missing.append(f"no heat maps: {error}")
        return f'<p class="soft">Not shown: {escape(str(error))}</p>'
    return _grid([picture(one.figure) for one in seen])


def _pictures(facts: RunFacts, images: int) -> list[Picture]:
    settings = facts.settings
    if not settings and not is_demo(facts.run):
        data = str(facts.run.info.notes.get("data") or "sample")
        return find_pictures(data, Reading(format=format_for(data, "auto", facts.spec.task)), limit=images)
    data = str(settings.get("val_data") or settings.get("data") or "sample")
    reading = Reading(
        split=str(settings.get("val_split", "val")),
        root=_path(settings.get("root")),
        ann=_path(settings.get("val_ann")),
        format=format_for(data, str(settings.get("format", "auto")), facts.spec.task),
        follow_symlinks=bool(settings.get("follow_symlinks")),
        allow_truncated=bool(settings.get("allow_truncated")),
    )
    found = find_pictures(data, reading)
    several = [one for one in found if one.record is not None and len(one.record.instances) > 1]
    return (several or found)[:images]


def _path(value: Any) -> Path | None:
    return None if value is None else Path(value)


def _costs(facts: RunFacts) -> str:
    long_side, short_side = facts.spec.resolution
    rows = [[stage.stage, stage.select_ratio, stage.macs / 1e9, stage.macs_eq9 / 1e9] for stage in facts.cost.stages]
    note = (
        f'<p class="soft">One image of {long_side} x {short_side}, every block at the ratio its stage was measured at. '
        "GMACs: what runs. Eq. 9: the paper's count, whose FLOPs are these MACs.</p>"
    )
    return note + table(["stage", "select ratio", "GMACs", "GMACs Eq. 9"], rows)


def _settings(facts: RunFacts) -> str:
    if facts.run.folder is None:
        backbone = facts.spec.backbone.to_dict()
        return table(["backbone", "value"], [[name, str(value)] for name, value in backbone.items()])
    command = facts.run.home / "command.txt"
    typed = f"<pre>{escape(command.read_text(encoding='utf-8').strip())}</pre>" if command.is_file() else ""
    config = (facts.run.home / "config.toml").read_text(encoding="utf-8")
    return f"{typed}<details><summary>config.toml</summary><pre>{escape(config)}</pre></details>"


def _environment(facts: RunFacts) -> str:
    flat = {name: value for name, value in facts.environment.items() if not isinstance(value, dict)}
    flat |= facts.environment.get("packages", {})
    return table(["", "value"], [[name, str(value)] for name, value in flat.items()]) if flat else ""


def _log(facts: RunFacts) -> str:
    path = None if facts.run.folder is None else facts.run.folder / "log.txt"
    if path is None or not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return f"<pre>{escape(chr(10).join(lines))}</pre>"
