"""What `longtake eval` says: what is missing, the result's tables, published figures beside."""

from __future__ import annotations

from longtake.evaluate.plan import Plan
from longtake.evaluate.report import Report, compared
from longtake.places import names_of
from longtake.terminal import say, table


def tell_missing(plan: Plan) -> None:
    """Say which videos and subtitles are not there."""
    videos = plan.missing_videos
    if videos:
        say(
            f"{len(videos)} videos are missing ({names_of(videos)}); their "
            f"{len(plan.missing)} questions are not asked",
            kind="warning",
        )
    if plan.silent:
        say(
            f"{len(plan.silent)} files of subtitles are missing ({names_of(plan.silent)}); "
            "questions about their videos are asked without",
            kind="warning",
        )


def report_text(report: Report) -> str:
    """A result as tables: figures, what was left out, published figures beside them."""
    rows: list[tuple[str, ...]] = [(report.title, "", "metric", "%", "95 %", "questions")]
    for one in report.figures:
        interval = "" if one.low is None else f"{one.low:.1f}-{one.high:.1f}"
        rows.append(
            (one.axis, one.value, one.metric, f"{one.score:.1f}", interval, f"{one.asked:,}")
        )
    parts = [table(rows, "<<<>>>"), "\n".join(notes(report))]
    beside = comparison(report)
    return "\n\n".join([*parts, beside] if beside else parts)


def notes(report: Report) -> list[str]:
    """What a reader of the figures must know."""
    whole = "all" if report.complete else "NOT all"
    lines = [
        f"{report.answered:,} of {report.total:,} questions answered: {whole} of the annotations"
    ]
    told = {
        "failed with an error and are not counted": len(report.failed),
        f"not asked: {len(report.missing)} videos are missing": report.missing_questions,
        "answers name no option, or no moment, and count as wrong": report.unread,
        "have no right answer among their options and count as wrong": report.keyless,
        "were asked without subtitles, there being none at what was seen": report.unsubtitled,
        "files of subtitles are missing": len(report.missing_subtitles),
        "were not answered in every order and are not counted": report.incomplete,
    }
    lines += [f"{count:,} {what}" for what, count in told.items() if count]
    lines += [f"  {row['key']}: {row['error']}" for row in report.failed[:3]]
    return lines


def comparison(report: Report) -> str:
    """Published figures of the same model beside these; a line if there are none."""
    frames = report.header.get("frames")
    here = "here" if frames is None else f"here, {frames:,} frames"
    rows: list[tuple[str, ...]] = [("published", "setting", "figure", "%", here, "difference")]
    for row, name, score, own in compared(report):
        rows.append(
            (row.model, row.setting, name, f"{score:.1f}", f"{own:.1f}", f"{own - score:+.1f}")
        )
    if len(rows) > 1:
        return table(rows, "<<<>>>")
    return "no published figures for this model" if "system" in report.header else ""
