"""What the sections say of their keys, for people: the schema that editors read, and the tables of config/README.md.

`python -m rvlr.config.document`, in the root of the repository, writes both again; a test fails where they differ.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from rvlr.config.sources import SOURCES, Source
from rvlr.config.study import Study
from rvlr.config.training import DISTANCE_NAMES
from rvlr.faults import Schema, Tree

SCHEMA = Path("workflow/schemas/config.schema.yaml")
README = Path("config/README.md")
_TABLE = re.compile(r"(<!-- (keys|sources):? ?([\w ]*) -->\n\n).*?(\n<!-- end -->)", re.DOTALL)


def schema() -> Schema:
    """The JSON schema of a configuration file. No key is required, since a file may be laid over another one."""
    whole = Study.model_json_schema()
    kinds = whole["properties"]["dataset"]["discriminator"]["mapping"]
    named = {kind: whole["$defs"][reference.rpartition("/")[2]] for kind, reference in kinds.items()}
    short = [kind for kind, section in named.items() if set(section.get("required", [])) <= {"kind"}]
    found: Schema = _plain(whole)
    keys, sections = found["properties"], found["$defs"]
    keys["dataset"]["anyOf"].insert(0, {"enum": short})
    for group in ("models", "teachers", "students"):
        keys[group]["additionalProperties"] = False
    for teacher in keys["teachers"]["patternProperties"].values():
        teacher["anyOf"].append({"type": "null"})
    sections["Student"]["properties"]["distance"]["enum"] += DISTANCE_NAMES
    origin = keys["sources"].pop("additionalProperties")
    keys["sources"] |= {"properties": dict.fromkeys(SOURCES, origin), "additionalProperties": False}
    base = "Another file, by its path from this one, that this file is laid over."
    found["properties"] = {"base": {"type": "string", "description": base}, **keys}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of rvlr",
        "$comment": "Made by `python -m rvlr.config.document` from rvlr/config; do not edit.",
        **found,
    }


def _plain(node: Any) -> Any:
    """A node without what editors have no use for, and with `oneOf` as `anyOf`: parts of files fit several kinds."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    plain = {
        "anyOf" if key == "oneOf" else key: _plain(value)
        for key, value in node.items()
        if key not in ("title", "required", "discriminator", "allowed")
        and not (key == "default" and isinstance(value, dict))
    }
    if isinstance(text := plain.get("description"), str):
        plain["description"] = _flat(text)
    return plain


def _flat(text: str) -> str:
    return " ".join(text.split())


# --- tables --------------------------------------------------------------------------------------------------------


def tables(text: str) -> str:
    """A document with its tables made again, each between a comment, `keys: SECTION ...` or `sources`, and `end`."""
    tree = Tree(Study)
    own = {name for match in _TABLE.finditer(text) for name in match[3].split()}

    def table(match: re.Match[str]) -> str:
        if match[2] == "sources":
            titles = ["name", "what", "terms", "size", "checked by", "from"]
            rows = [list(_source(entry)) for entry in SOURCES.items()]
        else:
            titles = ["key", "meaning", "allowed", "default"]
            sections = {name: {"Study": tree.root, **tree.root["$defs"]}[name] for name in match[3].split()}
            rows = list(_rows(tree, sections, own, {}, ""))
        lined = [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]
        return match[1] + "\n".join(lined) + "\n" + match[4]

    return _TABLE.sub(table, text)


def _rows(
    tree: Tree, sections: Mapping[str, Schema], own: set[str], defaults: Mapping[str, Any], prefix: str
) -> Iterator[list[str]]:
    """The rows of the keys of one section, or of several that share a table; sections without a table come below the
    key that they belong to. defaults: what the key above gives by default, by section."""
    keys = dict.fromkeys(key for section in sections.values() for key in section["properties"])
    for key in sorted(keys, key=lambda key: ("kind", "name").index(key) if key in ("kind", "name") else 2):
        nodes = {name: one["properties"][key] for name, one in sections.items() if key in one["properties"]}
        given = {name: (defaults.get(name) or {}).get(key, node.get("default", ...)) for name, node in nodes.items()}
        inner = {name: one for name, node in nodes.items() if (one := _section(tree, node)) is not None}
        some = f"Only {_listed(tree, nodes)}. " if len(nodes) < len(sections) else ""
        yield [
            f"{prefix}`{key}`",
            some + _joined(tree, {name: _flat(node["description"]) for name, node in nodes.items()}, " "),
            _joined(tree, {name: "" if name in inner else _words(tree, node) for name, node in nodes.items()}, ", "),
            _joined(tree, {name: _default(given[name], name in inner) for name in nodes}, ", "),
        ]
        named = [node for node in inner.values() if node.get("title") not in own]
        if named:
            lower = {name: value for name, value in given.items() if isinstance(value, dict)}
            yield from _rows(tree, dict.fromkeys(inner, named[0]), own, lower, f"{prefix}`{key}`: ")


def _section(tree: Tree, node: Schema) -> Schema | None:
    """The section that a key stands for, if it is one."""
    return next((one for one in tree.branches(node) if "properties" in one and "discriminator" not in node), None)


def _joined(tree: Tree, cells: Mapping[str, str], sign: str) -> str:
    """One cell of what several sections say, each named by its kind where they differ."""
    if len(set(cells.values())) == 1:
        return next(iter(cells.values()))
    return sign.join(f"{_listed(tree, [name])}: {cell}" for name, cell in cells.items())


def _listed(tree: Tree, names: Any) -> str:
    return ", ".join(f"`{tree.root['$defs'][name]['properties']['kind']['const']}`" for name in names)


def _words(tree: Tree, node: Schema) -> str:
    """What is allowed, as messages say it, but for the long words for names."""
    return re.sub("a name of letters.* characters", "a name", tree.words(node)).replace("'", "`")


def _default(value: Any, is_section: bool) -> str:
    if value is ...:
        return "required"
    if is_section and value is not None:
        return ""
    return f"`{value if isinstance(value, str) and value != 'no' else json.dumps(value)}`"


def _source(entry: tuple[str, Source]) -> Iterator[str]:
    name, source = entry
    origin = source.origin
    size = (origin.size or 0) / 2**20
    checks = ((origin.checksum or "").partition(":")[0], "size" if origin.size else "")
    images = f"{origin.images:,} images" if origin.images else ""
    yield from (f"`{name}`", source.about, source.terms)
    yield "" if not size else f"{size / 1024:.1f} GiB" if size > 1024 else f"{size:.1f} MiB"
    yield ", ".join(check for check in (*checks, images) if check)
    yield ", ".join(str(urlsplit(address).hostname) for address in origin.addresses) or f"[a form]({source.request})"


if __name__ == "__main__":
    SCHEMA.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(yaml.safe_dump(schema(), sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
    README.write_text(tables(README.read_text(encoding="utf-8")), encoding="utf-8")
