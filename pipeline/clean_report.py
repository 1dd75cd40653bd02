"""What `packline clean` does and shows: what may go, how much of it there is, and why."""

from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table

from pipeline.clean import Cleaning, find_orphans, remove_orphans, store_time
from schemas.store import Folder


def clean(output: Folder, age: timedelta, console: Console, *, delete: bool) -> None:
    """Raises DatasetError as finding and removing do."""
    now = store_time(output) if delete else datetime.now(UTC)
    cleaning = find_orphans(output, age, now)
    if delete:
        remove_orphans(output, cleaning)
    _print_cleaning(cleaning, now, console, is_removed=delete)


def _print_cleaning(cleaning: Cleaning, now: datetime, console: Console, *, is_removed: bool) -> None:
    table = Table("folder", "files", "bytes", "last written", "why", box=None, pad_edge=False)
    for column in table.columns[1:3]:
        column.justify = "right"
    for orphans in cleaning.orphans:
        size = sum(file.bytes for file in orphans.files)
        latest = max(file.modified for file in orphans.files)
        table.add_row(orphans.folder, f"{len(orphans.files):,}", f"{size:,}", _ago(now, latest), orphans.reason)
    if cleaning.uploads:
        latest = max(upload.initiated for upload in cleaning.uploads)
        table.add_row("uploads", f"{len(cleaning.uploads):,}", "?", _ago(now, latest), "parts of files never finished")
    if table.row_count:
        console.print(table)
    kept = ", ".join(f"{count:,} {reason}" for reason, count in cleaning.kept.items() if count)
    console.print(f"kept: {kept or 'nothing'}", highlight=False)
    console.print(_conclusion(cleaning, is_removed), highlight=False)


def _conclusion(cleaning: Cleaning, is_removed: bool) -> str:
    count = sum(len(orphans.files) for orphans in cleaning.orphans) + len(cleaning.uploads)
    if not count:
        return "nothing to remove"
    return f"removed: {count:,}" if is_removed else f"{count:,} to remove; nothing is removed without --delete"


def _ago(now: datetime, then: datetime) -> str:
    hours = (now - then).total_seconds() / 3600
    return f"{hours:.0f} h ago" if hours < 72 else f"{hours / 24:.0f} days ago"
