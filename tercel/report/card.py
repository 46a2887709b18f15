"""card.md: what one should know before using a model, on one page of Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tercel.core.files import write_atomic
from tercel.core.finding import Score, Severity
from tercel.report.ball_tables import COUNTS, by_rally, rules
from tercel.report.crowd_tables import counts
from tercel.report.reading import View, read_run
from tercel.report.words import count, duration, fixed, plain, score_of, when

FEW = 50  # truths below which a class's score says little
FEW_RALLIES = 10


def write_card(run: Path) -> Path:
    """Write card.md into the run folder.

    Raises:
        TercelError: not a run folder, or the file cannot be written.
    """
    path = run / "card.md"
    write_atomic(path, card(read_run(run, pictures=False)))
    return path


def card(view: View) -> str:
    """The model card as Markdown text."""
    info = view.info
    recipe = info.get("recipe") or {}
    parts = [
        f"# {_safe(view.name)}",
        f"{_what(view, recipe)} {count(info.get('parameters'))} parameters, input {_size(recipe)}.",
    ]
    if view.status != "finished":
        parts.append(f"**The run is {_safe(view.status)}: everything below is provisional.**")
    parts += [
        "## Scores",
        *_scores(view),
        "## How the checkpoint was chosen",
        _selection(view),
        "## Data",
        *_data(view),
    ]
    parts += ["## Conditions", _conditions(view), "## Limits", _bullets(_limits(view)), "## Licence of the weights"]
    parts.append(_licence(recipe))
    return "\n\n".join(p for p in parts if p) + "\n"


def _what(view: View, recipe: Mapping[str, Any]) -> str:
    """What the network is for."""
    if view.task == "ball":
        clip = (recipe.get("model") or {}).get("clip") or {}
        frames, answers = clip.get("frames", 1), {"all": "all of them", "last": "the last", "middle": "the middle one"}
        answered = answers.get(str(clip.get("answers", "all")), "–")
        seen = f"It sees {frames} frames at once and answers for {answered}." if frames != 1 else "It sees one frame."
        events = ", ".join(_safe(e) for e in view.schema.events)
        return f"A ball tracker for video. {seen}{f' Events: {events}.' if events else ''}"
    classes = view.schema.classes
    names = ", ".join(_safe(c) for c in classes)
    kind = f"A detector ({_safe(recipe.get('task', 'boxes'))})"
    points = ", ".join(_safe(k) for k in view.schema.keypoints)
    more = f" {len(view.schema.keypoints)} named points: {points}." if points else ""
    return f"{kind} for {len(classes)} class{'es' if len(classes) != 1 else ''}: {names}.{more}"


def _scores(view: View) -> list[str]:
    overall = [s for s in view.scores if view.is_overall(s) and s.name not in COUNTS]
    if not overall:
        return ["There are no scores yet."]
    out = [_rows(("score", "value", "95 % interval", "n"), [_row(s) for s in overall])]
    if not view.metrics.get("scores"):
        out.insert(0, "Of the last evaluation during training; there is no final judgement.")
    if (view.report.get("rule") or {}).get("protocol") == "crowd":
        out.append(f"{counts(view.report)}. Of MR-2 lower is better; AP, AR and COCO\\_AP50 are COCO's.")
    if view.last:
        same = ", ".join(f"{s.name} {fixed(view.last.get(s.name))}" for s in view.headline)
        out.append(f"The last weights, which nobody chose: {same}.")
    if view.task == "ball":
        return [f"Under the rule {_safe(view.rule)}:", *out, *_rules(view)]
    table = view.report.get("table") or ()
    if table:
        main, named = {"keypoints": ("OKS_AP", "OKS_AP"), "crowd": ("AP", "COCO AP")}.get(view.task, ("AP", "AP"))
        spread = {s.where.get("class"): s for s in view.scores if s.name == main and set(s.where) == {"class"}}
        rows = []
        for r in table:
            s = spread.get(r["class"])
            values = (fixed(r.get("AP")), _interval(s) if s else "–", fixed(r.get("AP50")))
            best = (fixed(r.get("threshold"), 2), fixed(r.get("precision")), fixed(r.get("recall")))
            rows.append((_safe(r["class"]), *values, count(r.get("GT")), *best))
        head = ("class", named, "95 % interval", f"{named}50", "objects", "threshold", "precision", "recall")
        out += ["Per class; threshold, precision and recall where F1 is best:", _rows(head, rows)]
    return [*out, *_points(view)]


def _points(view: View) -> list[str]:
    """PCK and errors of each named point."""
    names = ("PCK@.05", "PCK@.1")
    rows = [
        (_safe(r.get("point")), count(r.get("n")), *(fixed(r.get(n)) for n in names), fixed(r.get("median_px"), 2),
         fixed(100 * score_of(r.get("median")), 1), fixed(r.get("swap_rate")))
        for r in view.report.get("points") or ()
    ]  # fmt: skip
    head = ("point", "labelled", *names, "median error, px", "median error, % of the size", "swap rate")
    return ["Per point:", _rows(head, rows)] if rows else []


def _rules(view: View) -> list[str]:
    """All published rules on the same predictions."""
    rows = [
        (_safe(r["rule"]), _safe(r["words"]), *(count(r[k]) for k in COUNTS), *(fixed(r[k]) for k in _RATIOS))
        for r in rules(view)
    ]
    head = ("rule", "a hit", "hits", "wrong place", "ghosts", "missed", "empty", *_RATIOS)
    return ["The same predictions under every published rule:", _rows(head, rows)]


_RATIOS = ("accuracy", "precision", "recall", "F1")


def _row(s: Score) -> tuple[str, str, str, str]:
    return s.name, fixed(s.value), _interval(s), count(s.n)


def _interval(s: Score) -> str:
    return "–" if math.isnan(s.low) else f"{s.low:.3f} – {s.high:.3f}"


def _selection(view: View) -> str:
    which = view.metrics.get("checkpoint")
    how = _safe(view.info.get("selection") or "Not recorded.")
    return f"{how[:1].upper()}{how[1:].rstrip('.')}." + (f" Scores are those of `{_safe(which)}`." if which else "")


def _data(view: View) -> list[str]:
    sides = [view.info.get("train") or {}, view.info.get("val") or {}]
    stats = [s.get("statistics") or {} for s in sides]
    rows: list[Sequence[str]] = [
        ("source", *(_safe(s.get("source") or "–") for s in sides)),
        ("fingerprint", *(f"`{_safe(s.get('fingerprint') or '–')}`" for s in sides)),
    ]
    ball = view.task == "ball"
    named = (
        {"records": "rallies", "groups": "matches", "frames": "frames", "objects": "frames with a ball"}
        if ball
        else {"records": "pictures", "objects": "objects", "ignored": "ignore regions"}
    )
    rows += [(words, *(count(s.get(key)) for s in stats)) for key, words in named.items()]
    sizes = [_safe(", ".join(s.get("sizes") or ()) or "–") for s in stats]
    rows.append((f"{'frame' if ball else 'picture'} sizes, H×W", *sizes))
    extents = () if ball else ("width_px", "height_px")
    rows += [(f"object {key[:-3]}, px", *(_range(s.get(key)) for s in stats)) for key in extents]
    out = [_rows(("", "training", "validation"), rows)]
    dropped = [
        f"{title} data: {_safe(f.get('message'))} ({count(f.get('count'))}×)"
        for title, s in zip(("training", "validation"), sides, strict=True)
        for f in s.get("findings") or ()
    ]
    return [*out, _bullets(dropped)] if dropped else out


def _range(q: Any) -> str:
    return f"{q[0]:.4g} to {q[4]:.4g}, median {q[2]:.4g}" if q and len(q) == 5 else "–"


def _conditions(view: View) -> str:
    info = view.info
    machine = info.get("machine")
    git = info.get("git")
    items = [
        f"trained {when(info.get('started'))}, {duration(score_of(info.get('seconds')))}",
        f"command: `{_safe(info.get('command') or '–')}`",
        f"machine: {_safe(plain(machine)) if machine else '–'}",
        f"Tercel {_safe(info.get('tercel') or '–')}; {_safe(plain(info.get('packages') or {}))}",
        f"code: {_safe(git.get('commit'))}{' with uncommitted changes' if git.get('changed') else ''}" if git else "",
    ]
    items += [f"`{k}` = {_safe(plain(v))} (default {_safe(plain(d))})" for k, d, v in view.changed]
    return _bullets(i for i in items if i)


def _limits(view: View) -> Iterable[str]:
    """What the numbers do not cover, as far as the run itself can tell."""
    train, val = ((view.info.get(k) or {}) for k in ("train", "val"))
    yield from _ball_limits(view, val) if view.task == "ball" else _box_limits(view, train)
    if train.get("fingerprint") and train.get("fingerprint") == val.get("fingerprint"):
        yield "Training and validation data are the same: the scores do not say how well it sees new pictures."
    chosen = str(view.info.get("selection") or "")
    if re.search(r"validation|highest|best", chosen, re.I):
        yield "Checkpoint and scores come from the same validation data, which makes the scores a little too good."
    for f in view.findings:
        if f.severity is not Severity.INFO and not f.message.startswith(("training data", "validation data")):
            yield f"{f.severity.capitalize()}: {_safe(f.message)} ({count(f.count)}×)."
    yield "Not tested: other cameras, scenes and light than in the validation data; speed on other machines; fairness."


def _ball_limits(view: View, val: Mapping[str, Any]) -> Iterable[str]:
    number = score_of((val.get("statistics") or {}).get("records"))
    if number < FEW_RALLIES:
        yield f"Judged on only {count(number)} rallies: the intervals are too narrow for other matches."
    for r in by_rally(view)[:1]:
        yield f"The worst rally, {_safe(r['rally'])}, has F1 {fixed(r['F1'])}."
    yield "Scores of papers can be compared only under the same rule, on the same frames."


def _box_limits(view: View, train: Mapping[str, Any]) -> Iterable[str]:
    stats = train.get("statistics") or {}
    q = [stats.get("width_px") or [], stats.get("height_px") or []]
    if all(len(x) == 5 for x in q):
        wide, high = (f"{x[0]:.3g} to {x[4]:.4g} px" for x in q)
        yield f"Sizes seen in training: {wide} wide, {high} high, in the original pictures. Others were not learned."
    table: Sequence[Mapping[str, Any]] = view.report.get("table") or ()
    for r in table:
        if not r.get("GT"):
            yield f"Class {_safe(r['class'])} has no object in the validation data: nothing is known about it."
        elif r["GT"] < FEW:
            yield f"Class {_safe(r['class'])} was judged on only {r['GT']} objects: see its interval."
    for r in view.report.get("sizes") or ():
        if r.get("size") != "all" and not r.get("GT"):
            yield f"No {_safe(r['size'])} object was judged."


def _licence(recipe: Mapping[str, Any]) -> str:
    backbone = (recipe.get("model") or {}).get("backbone") or {}
    if backbone.get("weights"):
        name, where = _safe(backbone.get("model") or backbone.get("encoder")), "timm"
        if "encoder" in backbone:
            where = "segmentation-models-pytorch"
        return (
            f"The backbone started from published weights of `{name}` ({where}): their licence and that of the data "
            "they were trained on apply."
        )
    return (
        "Trained from scratch by Tercel (Apache-2.0): no weights of others are inside. The licence of the training "
        "data applies as far as it reaches."
    )


def _size(recipe: Mapping[str, Any]) -> str:
    size = (recipe.get("data") or {}).get("size")
    return f"{size[0]} × {size[1]} px (H × W)" if isinstance(size, list | tuple) and len(size) == 2 else "size –"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {i}" for i in items)


def _safe(value: Any) -> str:
    """Text from outside: one line, nothing of it taken for HTML or for Markdown's tables, links and code."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`|\[\]*])", r"\\\1", text)
