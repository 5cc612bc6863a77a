"""The `tokens` artifacts of other runs that a mixture replays: opened, and whether they are what they were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.outside import changed_outside
from pocketlm.pipeline.storage import MANIFEST


def replayed(places: Mapping[str, str], verify: bool) -> dict[str, Artifact]:
    """Name -> artifact of what lies at `places`; InputError when one is not a tokens artifact, CorruptionError when
    `verify` finds other bytes than its manifest names."""
    opened = {}
    for name, place in places.items():
        folder = Path(place)
        if not (folder / MANIFEST).is_file():
            raise InputError(
                f"mixture.replay.{name}: {folder} is no artifact. Give the folder of a run's tokens, such as "
                "runs/NAME/artifacts/tokenize"
            )
        opened[name] = Artifact.open(folder, verify)
        if opened[name].kind != "tokens":
            raise InputError(f"mixture.replay.{name}: {folder} holds '{opened[name].kind}', not 'tokens'")
    return opened


def replay_identity(places: Mapping[str, str], verify: bool = False) -> str:
    """sha256 over names and digests of what is replayed."""
    digests = [[name, artifact.digest] for name, artifact in replayed(places, verify).items()]
    return sha256(json.dumps(digests).encode()).hexdigest()


def not_as_replayed(places: Mapping[str, str], mixture: Artifact) -> str:
    """Why what lies at `places` is not what a mixture was made from, every byte looked at; empty when it is."""
    if not places:
        return ""
    what = f"outside folders of mixture.replay ({', '.join(places.values())})"
    return changed_outside(mixture, what, lambda: replay_identity(places, verify=True))
