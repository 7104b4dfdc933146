"""Reading detectron2's YAML files: `_BASE_` chains, defaults, unknown keys, overrides, and typed access to the result.

What this accepts is what detectron2's own configuration accepts (fvcore ``CfgNode``), except that YAML can make
nothing but plain data here.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...errors import ConfigError
from ...files.fields import shown
from ...files.reading import NotRegularError, TooLargeError, expand_user, read_regular

BASE_KEY = "_BASE_"
#: ``MODEL.ROI_HEADS.NAME`` of the first generation's Parsing R-CNN.
SHARED = "SharedROIHeads"
# A complete dump of detectron2's configuration has 20 KB and 1,000 values.
_MAX_BYTES, _MAX_VALUES, _MAX_DEPTH = 1 << 18, 20_000, 50
_MAX_FILES, _MAX_CHAIN = 64, 16
_MAX_LITERAL = 4096  # characters of a string that may be a Python literal
_NAMED = 20  # keys in a message
# detectron2 creates these nodes with `new_allowed`: whatever is in them is known.
_FREE_NODES = frozenset(
    {
        "MODEL.ROI_DENSEPOSE_HEAD.CSE.EMBEDDERS",
        "DATASETS.CATEGORY_MAPS",
        "DATASETS.WHITELISTED_CATEGORIES",
        "DATASETS.CLASS_TO_MESH_NAME_MAPPING",
    }
)


class _Loader(yaml.SafeLoader):
    """Plain data only, plus ``!!python/tuple``, which detectron2 itself writes; of bounded size, aliases counted in."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = 0
        self._sizes: dict[int, int] = {}  # values in each node, by its id

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # An alias is a few bytes and stands for all that its anchor holds: whoever walks over the data walks over it
        # every time, so that a few lines of lists of aliases are work without end.
        event = self.peek_event()
        mark, alias = event.start_mark, isinstance(event, yaml.AliasEvent)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"it nests deeper than {_MAX_DEPTH} levels", mark)
        before = self._values
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if alias and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias stands inside of what it names", mark)
        if alias:
            self._values += self._sizes[id(node)]
        else:
            self._values += 1
            self._sizes[id(node)] = self._values - before
        if self._values > _MAX_VALUES:
            text = f"it holds more than {_MAX_VALUES} values, aliases counted as what they stand for"
            raise yaml.composer.ComposerError(None, None, text, mark)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # PyYAML copies merged mappings, so a few nested `<<` can fill the memory; detectron2's files have none.
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not supported", key.start_mark)
        super().flatten_mapping(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except RecursionError:
            raise
        except Exception as error:  # PyYAML's constructors trust the text behind a tag: `!!int ""` is an IndexError
            value = shown(node.value) if isinstance(node, yaml.ScalarNode) else f"a {type(node).__name__}"
            text = f"{value} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark) from error


def _construct_tuple(loader: _Loader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _construct_tuple)


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's mapping with its ``_BASE_`` files merged beneath it. Raises :class:`ConfigError`."""
    return _Chain().read(path, ())


class _Chain:
    """The files that one configuration is made of."""

    def __init__(self) -> None:
        self._files = 0

    def read(self, path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
        """``path`` over its bases; ``chain``: who named it, the outermost first."""
        named_by = f" (named by {BASE_KEY} of {chain[-1]})" if chain else ""
        key = BASE_KEY if chain else None
        try:
            path = expand_user(path).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a link that leads to itself; a name with a zero byte
            raise ConfigError(f"cannot read the configuration {path}{named_by}: {error}", key) from error
        if path in chain:
            cycle = " -> ".join(str(p) for p in (*chain[chain.index(path) :], path))
            raise ConfigError(f"{BASE_KEY} goes round in a circle: {cycle}", BASE_KEY)
        self._files += 1
        if len(chain) >= _MAX_CHAIN or self._files > _MAX_FILES:
            limits = f"{_MAX_CHAIN} files deep and {_MAX_FILES} files in all"
            raise ConfigError(f"{path}{named_by}: {BASE_KEY} is followed {limits}, not further", BASE_KEY)
        tree = _parse(_read_text(path, named_by, key), path)
        bases = tree.pop(BASE_KEY, [])
        merged: dict[str, Any] = {}
        for base in bases if isinstance(bases, list) else [bases]:
            if not isinstance(base, str) or not base:
                raise ConfigError(f"{path}: {BASE_KEY} must be a file name, got {shown(base)}", BASE_KEY)
            if "://" in base:
                raise ConfigError(f"{path}: {BASE_KEY} is a URL ({base:.200}); download it and name the file", BASE_KEY)
            try:
                below = path.parent / expand_user(base)
            except FileNotFoundError as error:
                raise ConfigError(f"{path}: {BASE_KEY}: {error}", BASE_KEY) from error
            merged = _overlay(merged, self.read(below, (*chain, path)))
        return _overlay(merged, tree)


def _read_text(path: Path, named_by: str, key: str | None) -> str:
    try:
        return read_regular(path, _MAX_BYTES).decode("utf-8")
    except TooLargeError as error:
        raise ConfigError(f"{path}{named_by} is no configuration: it {error}", key) from error
    except NotRegularError as error:
        raise ConfigError(f"cannot read the configuration{named_by}: {error}", key) from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}{named_by}: {error}", key) from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.constructor.ConstructorError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(
            f"{path}: {error.problem}{where}; only plain values and !!python/tuple are read from a configuration"
        ) from error
    except yaml.MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path} is not valid YAML{where}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys, this is a {type(tree).__name__}")
    return tree


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both mappings in one; where both have a mapping they are merged, else ``above`` wins."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _overlay(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


@functools.cache
def _defaults(first_generation: bool) -> dict[str, Any]:
    def read(name: str) -> dict[str, Any]:
        return yaml.load(Path(__file__).with_name(name).read_text(encoding="utf-8"), Loader=_Loader)

    defaults = read("defaults.yaml")
    return _overlay(defaults, read("defaults_generation1.yaml")) if first_generation else defaults


def with_defaults(mapping: Mapping[Any, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """``mapping`` over its generation's defaults, and the dotted names of its keys that this generation does not have.

    A tree of DensePoseFnL's first generation (:func:`is_first_generation`) gets the defaults of then.
    """
    unknown: list[str] = []
    return _merge(_defaults(is_first_generation(mapping)), mapping, "", unknown), tuple(unknown)


#: Sections of ``MODEL`` that only DensePoseFnL's first generation has.
_FIRST_GENERATION = ("EFFICIENTNETS", "ROI_SHARED_HEAD", "ROI_SHARED_BLOCK", "ROI_DENSEPOSE_PREDICTOR")


def is_first_generation(mapping: Mapping[Any, Any]) -> bool:
    """Whether a configuration is one of DensePoseFnL's first generation, by what only that generation knows.

    Its DensePose R-CNN with a ResNet, written by hand, names nothing of the kind; there the checkpoint tells.
    """
    model = mapping.get("MODEL")
    if not isinstance(model, Mapping):
        return False
    names = [section.get("NAME") for key in ("BACKBONE", "ROI_HEADS") if isinstance(section := model.get(key), Mapping)]
    named = any(isinstance(name, str) and (name.startswith("build_efficientnet") or name == SHARED) for name in names)
    return named or any(section in model for section in _FIRST_GENERATION)


def _merge(defaults: dict[str, Any], mapping: Mapping[Any, Any], prefix: str, unknown: list[str]) -> dict[str, Any]:
    result = dict(defaults)
    for key, value in mapping.items():
        name = prefix + (key if isinstance(key, str) else shown(key))
        if key not in defaults:
            unknown.append(name[:200])
        elif name in _FREE_NODES or not isinstance(defaults[key], dict):
            if isinstance(value, Mapping) != isinstance(defaults[key], dict):
                raise ConfigError(f"{name} must be {_kind(defaults[key])}, got {_kind(value)}", name)
            result[key] = _plain(value) if isinstance(value, Mapping) else _decode(value)
        elif isinstance(value, Mapping):
            result[key] = _merge(defaults[key], value, f"{name}.", unknown)
        else:
            raise ConfigError(f"{name} must be a section with keys below it, got {shown(value)}", name)
    return result


def _kind(value: object) -> str:
    return "a section" if isinstance(value, Mapping) else "a value"


def _plain(node: Mapping[Any, Any]) -> dict[Any, Any]:
    """A free node as a dictionary that is not the caller's, in which overrides may be set."""
    return {key: _plain(value) if isinstance(value, Mapping) else value for key, value in node.items()}


def _decode(value: Any) -> Any:
    """detectron2 reads strings that look like Python literals, so `(512, 864)` and `1e-3` are not strings."""
    if isinstance(value, str) and len(value) <= _MAX_LITERAL:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return value
    return value


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Sets ``KEY VALUE`` pairs, detectron2's command-line form, in ``tree``. Unknown keys are refused here."""
    if isinstance(overrides, str) or len(overrides) % 2:
        raise ConfigError(f"overrides are pairs of KEY and VALUE, got {shown(overrides)}")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        *sections, leaf = key.split(".")
        node: Any = tree
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node or isinstance(node[leaf], dict):
            raise ConfigError(f"the override {shown(key)} names no configuration value of detectron2", key[:200])
        node[leaf] = _decode(value)


class Values:
    """Typed access to a merged tree by dotted key; a value that does not fit is a :class:`ConfigError`."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = tree

    def raw(self, key: str) -> Any:
        """The value as it stands in the file."""
        node: Any = self._tree
        for part in key.split("."):
            node = node[part]
        return node

    def refuse(self, key: str, supported: str) -> ConfigError:
        """The error for a value that cannot be exported; ``supported`` says what can."""
        return ConfigError(f"{key} is {shown(self.raw(key))}; supported: {supported}", key)

    def flag(self, key: str) -> bool:
        value = self.raw(key)
        if not isinstance(value, bool) and not (isinstance(value, int) and value in (0, 1)):
            raise self.refuse(key, "true or false")
        return bool(value)

    def require(self, key: str, wanted: bool, because: str) -> None:
        """Refuses a switch that is not as export needs it."""
        if self.flag(key) is not wanted:
            raise self.refuse(key, f"{str(wanted).lower()} ({because})")

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.raw(key)
        if not _is_integer(value) or not low <= value <= high:
            raise self.refuse(key, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self.raw(key)
        if not _is_number(value) or not low <= value <= high:
            raise self.refuse(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def text(self, key: str, choices: Sequence[str]) -> str:
        value = self.raw(key)
        if not isinstance(value, str) or value not in choices:
            raise self.refuse(key, ", ".join(repr(choice) for choice in choices))
        return value

    def numbers(self, key: str, length: int, low: float = -math.inf) -> tuple[float, ...]:
        """Exactly ``length`` numbers above ``low``."""
        value = self.raw(key)
        if not _is_list(value) or len(value) != length or not all(_is_number(v) and v > low for v in value):
            above = "" if low == -math.inf else f" above {low:g}"
            raise self.refuse(key, f"{length} numbers{above}")
        return tuple(float(v) for v in value)

    def names(self, key: str, choices: Sequence[str]) -> tuple[str, ...]:
        """One or more different names out of ``choices``."""
        value = self.raw(key)
        if not _is_list(value) or not value or not all(isinstance(v, str) and v in choices for v in value):
            raise self.refuse(key, f"a list out of {', '.join(choices)}")
        if len(set(value)) != len(value):
            raise self.refuse(key, "every name once")
        return tuple(value)

    def integers(self, key: str) -> Iterator[int]:
        """One or more whole numbers."""
        value = self.raw(key)
        if not _is_list(value) or not value or not all(_is_integer(v) for v in value):
            raise self.refuse(key, "a list of whole numbers")
        return iter(value)

    def per_level(self, key: str, levels: int) -> tuple[tuple[float, ...], ...]:
        """Positive numbers per level: one list per level, or a single list (nested or not) for all of them."""
        value = self.raw(key)
        rows = value if _is_list(value) and value and all(_is_list(row) for row in value) else [value]
        good = all(_is_list(row) and 0 < len(row) <= 64 and all(_is_number(v) and v > 0 for v in row) for row in rows)
        if not good or len(rows) not in (1, levels):
            raise self.refuse(key, f"1 or {levels} lists of positive numbers")
        return tuple(tuple(float(v) for v in row) for row in (rows * levels if len(rows) == 1 else rows))


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_integer(value) and abs(value) < 1 << 53  # so that float() is exact
