"""Engine files with a changed manifest or payload, and hashes that are right all the same."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def rewrite(
    source: Path,
    target: Path,
    change: Callable[[dict[str, Any]], Any] = lambda manifest: None,
    payload: Mapping[str, bytes] | None = None,
) -> Path:
    """Write ``source`` to ``target`` with what ``change`` does to its manifest; ``payload`` replaces members.

    What ``change`` returns, if it returns something, is the manifest.
    """
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    members |= payload or {}
    for name in payload or {}:
        entry = {"size": len(members[name]), "sha256": hashlib.sha256(members[name]).hexdigest()}
        manifest["payload"][name] = entry
    changed = change(manifest)
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest if changed is None else changed))
        for name, data in members.items():
            archive.writestr(name, data)
    return target
