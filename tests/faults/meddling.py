"""What people and programs do to the folder of an index without asking: writes, clean-ups, copies, foreign files."""

import contextlib
import os
import random
import shutil
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa

from indexer.storage.control import ControlStore

DAYS_8 = 8 * 24 * 3600

FOREIGN = (".DS_Store", ".nfs0000000123", "README", "README.md", "000000000001 (conflicted copy).json", "x.tmp")

FOLDERS = ("", "epochs", "intents", "receipts", "digests", "quarantine", "removals")


def table_folders(index: Path) -> list[str]:
    """Names of the tables of a LanceDB database; of one that is half deleted a folder may be left."""
    return sorted(path.stem for path in index.glob("*.lance") if any(path.glob("_versions/*.manifest")))


def write_astray(index: Path, name: str, drawn: random.Random) -> str:
    """Somebody writes to a table with LanceDB; says what."""
    dataset = lance.dataset(str(index / f"{name}.lance"))
    columns = dataset.schema.names
    text = next((column for column in ("lang", "kind", "detail") if column in columns), None)
    what = drawn.choice(("append", "delete", "update", "add", "drop", "alter"))
    if what == "append":
        rows = dataset.head(1)
        if rows.num_rows:
            ids = pa.array([f"stray-{drawn.randrange(1000)}"], pa.string())
            dataset.insert(rows.set_column(columns.index("id"), rows.schema.field("id"), ids))
    elif what == "delete":
        dataset.delete(drawn.choice(("true", "id like 'd1%'")))
    elif what == "update" and text:
        dataset.update({text: "'stray'"})
    elif what == "add" and "note" not in columns:
        dataset.add_columns({"note": "'stray'"})
    elif what == "drop" and text:
        dataset.drop_columns([text])
    elif what == "alter" and text:
        dataset.alter_columns({"path": text, "name": f"{text}_stray"})
    return f"{what} {name}"


def user_table(index: Path, name: str) -> bytes:
    """A table of a user; made if it is not there. Gives its content."""
    path = str(index / f"{name}.lance")
    if not Path(path).exists():
        lance.write_dataset(
            pa.table({"id": ["mine"], "vector": pa.array([[0.0] * 4], pa.list_(pa.float32(), 4))}), path
        )
    return repr(lance.dataset(path).to_table().to_pylist()).encode()


def optimize(index: Path, name: str) -> str:
    """What LanceDB's ``optimize`` does eight days later: compacts, and cleans up what is older than seven."""
    age(index)
    dataset = lance.dataset(str(index / f"{name}.lance"))
    try:
        dataset.optimize.compact_files()
        dataset.optimize.optimize_indices()
    except OSError:  # a prune that died has deleted a part of it
        return f"optimize {name}: refused"
    with contextlib.suppress(OSError, ValueError):  # it refuses where a version has a tag
        dataset.cleanup_old_versions(older_than=timedelta(0))
    return f"optimize {name}"


def age(index: Path) -> None:
    """All files are eight days old."""
    for path in index.rglob("*"):
        at = path.stat().st_mtime - DAYS_8
        os.utime(path, (at, at))


def foreign(control: Path, drawn: random.Random) -> str:
    """A file that is none of ours in a folder of control files."""
    folder = control / drawn.choice(FOLDERS)
    if not folder.is_dir():
        return "no such folder"
    path = folder / drawn.choice(FOREIGN)
    path.write_bytes(drawn.choice((b"", b"foreign")))
    return f"foreign {path.relative_to(control)}"


def empty_newest(control: Path, kinds: Iterable[str]) -> str:
    """The power went off before the newest file of a kind was on the disk: it has its name and no content."""
    for kind in kinds:
        found = [path for path in (control / kind).rglob("0*") if path.is_file()] if (control / kind).is_dir() else []
        if found:
            newest = max(found, key=lambda path: path.stat().st_mtime_ns)
            newest.write_bytes(b"")
            return f"empty {newest.relative_to(control)}"
    return "nothing to empty"


def replace_folder(target: Path, source: Path) -> None:
    """Restores a folder from a backup, or makes one."""
    shutil.rmtree(target, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, target)


def unreferenced(index: Path, name: str) -> set[str]:
    """Data files of a table that no version of it has."""
    path = index / f"{name}.lance"
    dataset = lance.dataset(str(path))
    held = {
        file.path
        for version in dataset.versions()
        for fragment in lance.dataset(str(path), version=version["version"]).get_fragments()
        for file in fragment.metadata.files
    }
    return {file.name for file in (path / "data").glob("*")} - held if (path / "data").is_dir() else set()


def leftovers(index: Path, store: ControlStore, name: str, before: dict[str, set[str]]) -> list[str]:
    """What a prune has left although nobody needs it.

    Args:
        index: Folder of the index.
        store: Its control files.
        name: Its name.
        before: For every table the data files that versions or closed receipts named before the prune.
    """
    epochs = store.epochs()
    needed: dict[str, set[int]] = {}
    for epoch in epochs:
        for table, version in epoch.versions().items():
            needed.setdefault(table, set()).add(version)
    found = []
    latest = store.epoch_numbers()[-1]
    for table, versions in sorted(needed.items()):
        if table not in table_folders(index):
            continue  # somebody deleted it
        dataset = lance.dataset(str(index / f"{table}.lance"))
        # A tag of a later epoch is that of a run, or of epochs that the control folder no longer knows.
        later = {tag["version"] for name, tag in dataset.tags.list().items() if int(name.split("-")[1]) > latest}
        known = {int(version["version"]) for version in dataset.versions()}
        if not versions & known:
            continue  # nothing is left of what the epochs say: somebody restored an older table
        found += [f"{table} version {old}" for old in sorted(known - versions - later) if old < max(versions & known)]
        found += [f"{table} file {file}" for file in sorted(unreferenced(index, table) & before.get(table, set()))]
    control = index / f"_{name}"
    for kind in ("intents", "receipts", "removals"):
        closed = [path for path in (control / kind).glob("0*") if path.stem.isdigit() and int(path.stem) <= latest]
        found += [
            f"{kind} {path.name}" for path in closed if path.stat().st_size and (path.is_file() or any(path.rglob("*")))
        ]
    return found
