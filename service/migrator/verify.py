"""What can be told of revisions from their files alone, within a second."""

import ast
import importlib.util
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from alembic.script.revision import RevisionError
from alembic.util.exc import CommandError

from service.migrator.errors import ExitCode
from service.migrator.lint.findings import Finding, line_of
from service.migrator.phases import Phase
from service.migrator.revisions import Revisions, complaint_of_heads

_NAME: Final = re.compile(r"(\d{4}_\d{2}_\d{2}_\d{4})-([0-9a-z_]+?)_(\w+)\.py")
_GRAPH: Final = "graph"
_EDITED: Final = "edited"


def verify(revisions: Revisions, *, released: Mapping[str, bytes] | None = None) -> list[Finding]:
    """What is wrong with the files of the revisions.

    Args:
        revisions: The revisions.
        released: The files as they were released, by their names: they may not change any more.
    """
    paths = sorted(revisions.versions.glob("*.py"))
    edited = [*_edited(revisions.versions, released or {})]
    modules = [_load(path) for path in paths]
    broken = [module for module in modules if isinstance(module, Finding)]
    if broken:
        # Without all of them nothing can be said of how they hang together.
        return [*edited, *broken]
    loaded = [module for module in modules if isinstance(module, ModuleType)]
    return [
        *edited,
        *_graph(revisions, loaded),
        *(finding for module in loaded for finding in _file(module)),
        *_dates(loaded),
    ]


def exit_code(found: Sequence[Finding]) -> ExitCode:
    """The exit code for what was found: the gravest counts."""
    rules = {finding.rule for finding in found}
    if _GRAPH in rules:
        return ExitCode.HEADS
    if _EDITED in rules:
        return ExitCode.CHECKSUM
    return ExitCode.LINT if rules else ExitCode.DONE


def _load(path: Path) -> ModuleType | Finding:
    spec = importlib.util.spec_from_file_location(re.sub(r"\W", "_", path.stem), path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001 - whatever a file does when it is imported
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        return Finding(path, line_of(error, path), "import", message)
    return module


def _graph(revisions: Revisions, modules: list[ModuleType]) -> Iterator[Finding]:
    """Whether there is one way from the first to the last."""
    by_id: dict[str, ModuleType] = {}
    for module in modules:
        if other := by_id.get(_id(module)):
            message = f"{Path(str(other.__file__)).name} has the identifier {_id(module)} as well"
            yield _finding(module, "revision", _GRAPH, message)
        by_id[_id(module)] = module
    missing = [(m, before) for m in modules for before in _before(m) if before not in by_id]
    for module, before in missing:
        message = f"there is no revision {before} that it could follow"
        yield _finding(module, "down_revision", _GRAPH, message)
    first = [module for module in modules if not _before(module)]
    for module in first[1:]:
        message = f"follows no revision, as {_id(first[0])} does; set down_revision"
        yield _finding(module, "down_revision", _GRAPH, message)
    if not missing:
        yield from _heads(revisions, by_id)


def _heads(revisions: Revisions, by_id: Mapping[str, ModuleType]) -> Iterator[Finding]:
    try:
        with warnings.catch_warnings():
            # Two of one identifier, which was told.
            warnings.simplefilter("ignore", UserWarning)
            heads = revisions.scripts.get_heads()
            # It is here that Alembic finds a circle.
            _ = [*revisions.scripts.walk_revisions()]
    except (CommandError, RevisionError) as error:
        yield Finding(revisions.versions, 1, _GRAPH, str(error).splitlines()[0])
        return
    if len(heads) > 1:
        yield _finding(by_id[heads[-1]], "down_revision", _GRAPH, complaint_of_heads(heads))


def _file(module: ModuleType) -> Iterator[Finding]:
    path = Path(str(module.__file__))
    name = _NAME.fullmatch(path.name)
    if name is None:
        message = "call it YYYY_MM_DD_HHMM-REVISION_words.py, as `tidegate migrate new` does"
        yield Finding(path, 1, "file-name", message)
    elif not path.name[16:].startswith(f"{_id(module)}_"):
        yield Finding(path, 1, "file-name", f"it holds the revision {_id(module)}, another one")
    if not (module.__doc__ or "").strip():
        yield Finding(path, 1, "description", "say in its docstring what it does")
    if getattr(module, "phase", None) not in [*Phase]:
        message = 'write phase = "expand" or phase = "contract"'
        yield _finding(module, "phase", "phase-missing", message)
    yield from _way_back(module)


def _way_back(module: ModuleType) -> Iterator[Finding]:
    reason = getattr(module, "irreversible", None)
    if reason is None:
        if not _is_written(module, "downgrade"):
            message = 'write downgrade(), or irreversible = "why there is no way back"'
            yield _finding(module, "downgrade", "not-reversible", message)
    elif not isinstance(reason, str) or not reason.strip():
        message = "say in it why there is no way back"
        yield _finding(module, "irreversible", "not-reversible", message)
    if not _is_written(module, "upgrade"):
        yield _finding(module, "upgrade", "not-written", "write upgrade()")


def _dates(modules: list[ModuleType]) -> Iterator[Finding]:
    """A revision is not older than the one that it follows: files lie in the order of the graph."""
    dates = {_id(m): Path(str(m.__file__)).name[:15] for m in modules}
    for module in modules:
        for before in _before(module):
            if before in dates and dates[before] > dates[_id(module)]:
                message = f"its date is before the one of {before}, which it follows; rename it"
                yield Finding(Path(str(module.__file__)), 1, "file-date", message)


def _edited(versions: Path, released: Mapping[str, bytes]) -> Iterator[Finding]:
    for name, content in released.items():
        path = versions / name
        if not path.exists():
            message = "it is released, and may have been applied: restore the file"
            yield Finding(path, 1, _EDITED, message)
        elif path.read_bytes().replace(b"\r\n", b"\n") != content.replace(b"\r\n", b"\n"):
            message = "it is released, and may have been applied: restore it, write a new revision"
            yield Finding(path, 1, _EDITED, message)


def _id(module: ModuleType) -> str:
    return str(getattr(module, "revision", ""))


def _before(module: ModuleType) -> tuple[str, ...]:
    given = getattr(module, "down_revision", None)
    return (given,) if isinstance(given, str) else tuple(given or ())


def _is_written(module: ModuleType, name: str) -> bool:
    """Whether there is such a function, and it is not the one of the template."""
    tree = ast.parse(Path(str(module.__file__)).read_bytes())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    bodies = [node.body for node in functions if node.name == name]
    return bool(bodies) and not any(
        isinstance(node, ast.Raise) and "NotImplementedError" in ast.dump(node)
        for node in bodies[0]
    )


def _finding(module: ModuleType, name: str, rule: str, message: str) -> Finding:
    """A finding at the line that sets a name or defines a function of that name."""
    path = Path(str(module.__file__))
    pattern = re.compile(rf"(def )?{name}\b")
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    line = next((number for number, words in lines if pattern.match(words)), 1)
    return Finding(path, line, rule, message)
