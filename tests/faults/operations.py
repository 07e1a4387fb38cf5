"""Operations of the random tester: each does one thing to a world and says what it did."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

from indexer.errors import IndexerError
from indexer.publishing import history
from tests.faults import meddling
from tests.faults.corpus_model import Setup
from tests.faults.epoch_content import Broken
from tests.faults.index_model import IndexModel, other_setup
from tests.faults.steps import Killed, at_step, fail, kill

MOST_STEPS = 40

FEW_STEPS = 8

KEEP = 3

OTHER_SETUP = 0.3

REBUILT = 0.5

SECOND_INDEX = 0.3

HOLD = 0.5

CLEANED = 0.3


class World:
    """An index folder, its indices, and what was done to them.

    Attributes:
        random: Draws everything.
        index: Folder of the LanceDB database.
        models: The indices in it.
        stores_once: Whether there may be tables of documents.
        history: What was done.
    """

    def __init__(self, root: Path, seed: str, model: str, begin: Setup) -> None:
        """Begins with corpora and no index."""
        self.random = random.Random(seed)
        self.index = root / "index"
        self.backup = root / "backup"
        self.user_tables: dict[str, bytes] = {}
        # The second one's first tables have the names of the second generation of the first one's.
        names = ("docs", "docs_g2") if self.random.random() < SECOND_INDEX else ("docs",)
        self.stores_once = begin.stored != "copies"
        self.models = [IndexModel(root, name, model, self.random, begin) for name in names]
        self.history: list[str] = []
        self.backed_up_tables: dict[str, bytes] = {}
        self._backed_up: dict[str, dict[int, str]] = {}

    @property
    def model(self) -> IndexModel:
        """One of the indices."""
        return self.random.choice(self.models)

    def tables(self, model: IndexModel) -> list[str]:
        """Tables of the latest epoch of an index that are there."""
        epoch = model.store.latest_epoch()
        there = set(meddling.table_folders(self.index))
        return sorted(there & epoch.versions().keys()) if epoch else []

    def check(self) -> None:
        """What every index and every table of others must be."""
        for model in self.models:
            model.check()
        for name, content in self.user_tables.items():
            if meddling.user_table(self.index, name) != content:
                raise Broken(f"the table {name}, which is a user's, was touched")

    def settle(self, model: IndexModel) -> None:
        """A run brings the index up to date; a user's table whose name it wants is moved away when it says so."""
        model.settle(lambda text: self._make_way(model, text))

    def _make_way(self, model: IndexModel, text: str) -> bool:
        if "is a table of 'docs'" in text and not model.numbers:
            model.call(f"{model.name}-b")  # a new index: another one has taken its tables' names
            return True
        named = [name for name in self.user_tables if name in text]
        for name in named:
            meddling.replace_folder(self.index / f"{name}.lance", self.index / "nothing")
            del self.user_tables[name]
        return bool(named)

    def back_up(self) -> None:
        """Copies the whole folder."""
        meddling.replace_folder(self.backup, self.index)
        self.backed_up_tables = dict(self.user_tables)
        self._backed_up = {model.name: dict(model.known) for model in self.models}

    def restored(self, model: IndexModel, *, control: bool) -> None:
        """The folder, or only the control files, come from the backup."""
        model.forget(self._backed_up.get(model.name, {}) if control else model.known)


Operation = Callable[[World], str]


def edit(world: World) -> str:
    """The corpus changes."""
    return world.model.corpus.edit()


def night(world: World) -> str:
    """A run alone must bring the index up to date."""
    model = world.model
    world.settle(model)
    return model.name


def correct(world: World) -> str:
    """Somebody corrects the settings; the next run has them."""
    model = world.model
    model.setup = other_setup(model.setup, world.random)
    return str(model.setup)


def _interrupted(world: World, work: Callable[[], object], name: str) -> str:
    """Something happens at a durable step of some work, which may end of it."""
    at = world.random.randint(1, MOST_STEPS)
    when = world.random.choice(("before", "after"))
    action = world.random.choice((kill, kill, fail))
    with contextlib.suppress(Killed, OSError, IndexerError), at_step(at, **{when: action}):
        work()
    return f"{name}: {action.__name__} {when} step {at}"


def killed_night(world: World) -> str:
    """A run dies, or storage fails, at a durable step."""
    model = world.model
    setup = other_setup(model.setup, world.random) if world.random.random() < OTHER_SETUP else model.setup
    rebuild = setup != model.setup and world.random.random() < REBUILT
    return _interrupted(world, lambda: model.run(setup, rebuild=rebuild), f"night of {model.name} with {setup}")


def corrected_night(world: World) -> str:
    """A run with wrong settings dies; they are corrected, and the next run finds what is staged. Or no longer."""
    model = world.model
    wrong = other_setup(model.setup, world.random)
    said = _interrupted(world, lambda: model.run(wrong, rebuild=True), f"night of {model.name} with {wrong}")
    for name in meddling.table_folders(world.index) if world.random.random() < CLEANED else ():
        said += f"; {meddling.optimize(world.index, name)}"
    model.setup = world.random.choice((model.setup, wrong, other_setup(wrong, world.random)))
    world.settle(model)
    return f"{said}; {model.setup}"


def together(world: World) -> str:
    """While a run, a rollback or a prune is at a durable step, something else is done to its index."""
    model = world.model
    work = world.random.choice((_same_run, _same_run, _same_run, _rolled_back, _pruned))
    beside = world.random.choice(BESIDE)
    at = world.random.randint(1, MOST_STEPS if work is _same_run else FEW_STEPS)
    said = []

    def do() -> None:
        said.append(beside(world, model))

    with at_step(at, before=do):
        try:
            done = work(world, model)
        except IndexerError as error:
            done = f"{type(error).__name__}: {error}"
    return f"{model.name}: {work.__name__} with {beside.__name__} at step {at} ({said}): {done}"


def stray_night(world: World) -> str:
    """Somebody writes to the tables while a run that has something to do is at a durable step."""
    model = world.model
    edits = model.corpus.edit(), model.corpus.edit()
    said: list[str] = []
    at = world.random.randint(1, MOST_STEPS)
    with at_step(at, before=lambda: said.append(_stray(world, model))):
        refused = model.run()
    return f"{model.name} after {edits}: {said} at step {at}: {refused}"


def _other_run(world: World, model: IndexModel) -> str:
    setup = other_setup(model.setup, world.random)
    return f"{setup}: {model.run(setup)}"


def _same_run(_: World, model: IndexModel) -> str:
    return str(model.run())


def _edit_beside(_: World, model: IndexModel) -> str:
    model.loose = True
    return model.corpus.edit()


def _pruned(world: World, model: IndexModel) -> str:
    history.prune(str(world.index), model.store, KEEP)
    return ""


def _rolled_back(world: World, model: IndexModel) -> str:
    numbers = [number for number in model.numbers if number not in model.lost]
    if not numbers:
        return "no epoch"
    number, hold = world.random.choice(numbers), world.random.random() < HOLD
    epoch = history.rollback(str(world.index), model.store, number, hold=hold)
    return f"epoch {epoch.number} is {number} again{', held' if hold else ''}"


def _stray(world: World, model: IndexModel) -> str:
    names = world.tables(model)
    return meddling.write_astray(world.index, world.random.choice(names), world.random) if names else "no table"


BESIDE = (_other_run, _same_run, _edit_beside, _pruned, _rolled_back, _stray)


def rollback(world: World) -> str:
    """An old epoch is published again."""
    return _rolled_back(world, world.model)


def killed_rollback(world: World) -> str:
    """A rollback dies."""
    model = world.model
    return _interrupted(world, lambda: _rolled_back(world, model), f"rollback of {model.name}")


def prune(world: World) -> str:
    """Old epochs are forgotten, and nothing is left of them."""
    model = world.model
    numbers = model.numbers
    if not numbers:
        return "nothing to prune"
    before = {name: _named(world, model, name) for name in meddling.table_folders(world.index)}
    keep = world.random.randint(1, KEEP)
    history.prune(str(world.index), model.store, keep)
    left = meddling.leftovers(world.index, model.store, model.name, before)
    if left or model.numbers != numbers[-keep:]:
        raise Broken(f"{model.name}: a prune has left {left}")
    return f"{model.name}, {keep} kept"


def _named(world: World, model: IndexModel, table: str) -> set[str]:
    """Data files that a version or a closed receipt names."""
    latest = model.store.epoch_numbers()[-1]
    staged = model.store.staged_files(latest)
    data = world.index / f"{table}.lance" / "data"
    held = {file.name for file in data.glob("*")} - meddling.unreferenced(world.index, table)
    return held | staged.get(table, set())


def killed_prune(world: World) -> str:
    """A prune dies half way."""
    model = world.model
    return _interrupted(world, lambda: history.prune(str(world.index), model.store, KEEP), f"prune of {model.name}")


def stray(world: World) -> str:
    """Somebody writes to a published table."""
    return _stray(world, world.model)


def optimize(world: World) -> str:
    """LanceDB's clean-up, eight days later."""
    names = world.tables(world.model)
    return meddling.optimize(world.index, world.random.choice(names)) if names else "no table"


def user_table(world: World) -> str:
    """Somebody makes a table of his own, with a name that the index may come to want."""
    names = ["docs_d32", "docs_g2_d64", "docs_g3_d64", "docs_g3_quarantine"]
    name = world.random.choice([*names, "docs_documents"] if world.stores_once else names)
    if name in meddling.table_folders(world.index):
        return f"{name} is there"
    world.user_tables[name] = meddling.user_table(world.index, name)
    return name


def back_up(world: World) -> str:
    """The folder is copied."""
    world.back_up()
    return ""


def restore(world: World) -> str:
    """The whole folder is restored from a backup."""
    if not world.backup.is_dir():
        return "no backup"
    meddling.replace_folder(world.index, world.backup)
    world.user_tables = dict(world.backed_up_tables)
    for model in world.models:
        world.restored(model, control=True)
    return ""


def restore_control(world: World) -> str:
    """Only the control files are restored, or were copied before the tables."""
    if not world.backup.is_dir():
        return "no backup"
    model = world.model
    meddling.replace_folder(model.control, world.backup / model.control.name)
    world.restored(model, control=True)
    return model.name


def remove_control(world: World) -> str:
    """The control files are gone."""
    model = world.model
    meddling.replace_folder(model.control, world.backup / "nothing")
    model.forget({})
    return model.name


def foreign(world: World) -> str:
    """A file that is none of ours lies among the control files."""
    return meddling.foreign(world.model.control, world.random)


def power_loss(world: World) -> str:
    """A run dies, and the newest control file has no content."""
    model = world.model
    said = killed_night(world)
    emptied = meddling.empty_newest(model.control, (world.random.choice(("epochs", "intents", "receipts")),))
    if emptied.startswith("empty epochs"):
        number = int(emptied.split("/")[-1].split(".")[0])
        model.emptied[number] = model.known.pop(number, "")
    return f"{said}; {emptied}"


def restore_tables(world: World) -> str:
    """Only the tables are restored, or were copied before the control files."""
    if not world.backup.is_dir():
        return "no backup"
    for name in meddling.table_folders(world.index):
        if name not in world.user_tables:
            meddling.replace_folder(world.index / f"{name}.lance", world.backup / f"{name}.lance")
    for model in world.models:
        model.forget(model.known)
    return ""


def lose_table(world: World) -> str:
    """Somebody deletes a table."""
    model = world.model
    names = world.tables(model)
    if not names:
        return "no table"
    name = world.random.choice(names)
    meddling.replace_folder(world.index / f"{name}.lance", world.backup / "nothing")
    model.forget(model.known)
    return name


OPERATIONS: dict[Operation, int] = {
    edit: 20,
    night: 16,
    correct: 8,
    killed_night: 12,
    corrected_night: 6,
    stray_night: 8,
    together: 12,
    rollback: 4,
    killed_rollback: 2,
    prune: 4,
    killed_prune: 2,
    stray: 4,
    optimize: 2,
    user_table: 1,
    foreign: 2,
    power_loss: 2,
    back_up: 2,
    restore: 1,
    restore_control: 1,
    restore_tables: 1,
    remove_control: 1,
    lose_table: 1,
}
"""What is drawn, and how often."""
