"""An evaluation before anything is computed: what is measured against what, by which networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from ...assets.folder import FolderAsset
from ...base.errors import MissingError
from ...base.files import digest_of, file_sha256
from ..protocol.model import Protocol
from ..protocol.rules import SHA256, asset_seed, select
from ..protocol.values import Values
from .features import Towers, towers_of
from .looks import Cloud, GaussianLook, MeshLook, Studio, studio_of
from .options import EvaluateOptions, Settings, checked_name, chosen_protocol, read_settings
from .pairs import Contents, Files, files_in, matched

LISTED = 5  # names in a message
NOT_GENERATED = "not generated"


@dataclass(frozen=True)
class Pair:
    """An asset of the reference and what the system made of it; None: nothing.

    Attributes:
        seed: of the points on both meshes.
    """

    id: str
    truth: MeshLook
    seed: int
    mesh: MeshLook | None
    gaussians: GaussianLook | None


@dataclass(frozen=True)
class Plan:
    """What an evaluation does.

    Attributes:
        pairs: sorted by id.
        reference: name of the folder. own_reference: it is the folder of the generated assets.
        unused: generated assets that the reference does not have.
    """

    name: str
    protocol: Protocol
    settings: Settings
    studio: Studio
    towers: Towers
    pairs: tuple[Pair, ...]
    reference: str
    own_reference: bool
    unused: tuple[str, ...]
    geometry_only: bool
    latency: float | None
    steps: int | None
    nfe: int | None

    @cached_property
    def key(self) -> str:
        """Digest of all that decides the rows."""
        made = [[pair.id, _content(pair.mesh), _content(pair.gaussians)] for pair in self.pairs]
        cost = [self.latency, self.steps, self.nfe]
        return digest_of(
            [self.name, self.protocol.sha256, self.reference_sha(self.pairs), made, self.towers.versions, cost]
        )

    def reference_sha(self, pairs: Sequence[Pair]) -> str:
        """Digest of assets of the reference, the points drawn on them, and the protocol."""
        return digest_of([[[pair.id, pair.truth.content, pair.seed] for pair in pairs], self.protocol.sha256])

    def cloud(self, pair: Pair) -> Cloud:
        """The points of a pair's meshes."""
        return Cloud(pair.seed, self.towers.ulip_points.points)


def resolve(options: EvaluateOptions) -> Plan:
    """Check everything that can be checked without computing.

    Raises:
        MissingError: no such folder, no file that belongs to the reference, weights that are not there.
        UsageError: a wrong name or value, or a folder with two files where one is allowed.
    """
    name, settings = checked_name(options.name), read_settings(options.changes)
    protocol = chosen_protocol(options.protocol)
    reference = options.reference or options.folder
    made = files_in(options.folder)
    truth = {key: files.mesh for key, files in files_in(reference).items() if files.mesh}
    if not truth:
        raise MissingError(f"No mesh in {reference}, so nothing to compare with. Give --reference a folder of meshes.")
    keys = matched(sorted(truth), made)
    unused = tuple(sorted(set(made) - set(keys.values())))
    chosen = _chosen(protocol.values, truth)[: options.limit]
    if not any(key in keys for key in chosen):
        raise MissingError(
            f"No file in {options.folder} has the id of an asset of {reference} (those are {_some(chosen)}) - name "
            "each file after the asset's id, such as ID.glb."
        )
    if options.geometry_only and not any(made[keys[key]].mesh for key in chosen if key in keys):
        raise MissingError(f"--geometry-only measures meshes, and {options.folder} has none. Leave it out.")
    towers = towers_of(protocol.values, settings, options.weights.expanduser(), geometry_only=options.geometry_only)
    return Plan(
        name=name,
        protocol=protocol,
        settings=settings,
        studio=studio_of(protocol.values),
        towers=towers,
        pairs=_pairs(chosen, truth, made, keys, protocol.values, settings.run_seed),
        reference=reference.resolve().name,
        own_reference=reference.resolve() == options.folder.resolve(),
        unused=unused,
        geometry_only=options.geometry_only,
        latency=options.latency,
        steps=options.steps,
        nfe=options.nfe,
    )


def _pairs(
    ids: Sequence[str],
    truth: Mapping[str, FolderAsset],
    made: Mapping[str, Files],
    keys: Mapping[str, str],
    values: Values,
    run_seed: int,
) -> tuple[Pair, ...]:
    contents, pairs = Contents(), []
    for name in ids:
        files = made[keys[name]] if name in keys else Files()
        mesh = MeshLook(files.mesh, contents.of_mesh(files.mesh)) if files.mesh else None
        gaussians = GaussianLook(files.gaussians, file_sha256(files.gaussians)) if files.gaussians else None
        look = MeshLook(truth[name], contents.of_mesh(truth[name]))
        seed = asset_seed(values, asset_sha256(name, truth[name].path), run_seed)
        pairs.append(Pair(name, look, seed, mesh, gaussians))
    return tuple(pairs)


def asset_sha256(name: str, path: Path) -> str:
    """Of an asset as protocols know it: its id where that is one (TRELLIS-500K's assets), else that of its file."""
    end = PurePosixPath(name).name
    if SHA256.fullmatch(end):
        return end
    return file_sha256(path) if path.is_file() else digest_of(name)


def _chosen(values: Values, truth: Mapping[str, FolderAsset]) -> list[str]:
    """Ids of the protocol's subset, sorted."""
    if values.assets.subset == "full":
        return sorted(truth)
    by_sha: dict[str, list[str]] = {}
    for name, asset in truth.items():
        by_sha.setdefault(asset_sha256(name, asset.path), []).append(name)
    return sorted(name for sha in select(values, by_sha) for name in by_sha[sha])


def _content(look: MeshLook | GaussianLook | None) -> str:
    return look.content if look else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
