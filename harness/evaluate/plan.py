"""An evaluation before anything is computed: what is measured against what, by which networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ...assets.blend import find_blender
from ...base.errors import MissingError
from ...base.files import digest_of, file_sha256
from ...metrics.official.ulip import Variant
from ..pool import cores
from ..protocol.model import Protocol
from ..protocol.rules import asset_seed
from ..protocol.values import Values
from .conditions import ConditionLook, conditions_of
from .features import Towers, towers_of
from .looks import Cloud, GaussianLook, MeshLook, Studio, SurfaceLook, clip_studio_of, studio_of
from .options import (
    EvaluateOptions,
    Settings,
    check_together,
    checked_name,
    chosen_protocol,
    read_settings,
    ulip_variant,
)
from .pairs import Contents, Files, files_in, matched
from .reference import FolderReference, Reference
from .toys4k import folder_of, open_toys4k, variant_of

LISTED = 5  # names in a message
NOT_GENERATED = "not generated"


@dataclass(frozen=True)
class Pair:
    """An asset of the reference and what the system made of it; None: nothing.

    Attributes:
        seed: of the points on both meshes.
        condition: the picture that the asset was made from.
    """

    id: str
    truth: SurfaceLook
    seed: int
    mesh: MeshLook | None
    gaussians: GaussianLook | None
    condition: ConditionLook | None = None


@dataclass(frozen=True)
class Plan:
    """What an evaluation does.

    Attributes:
        pairs: sorted by id.
        reference: its name. drawn_by: whose pictures of it these are.
        own_reference: it is the folder of the generated assets.
        unused: generated assets that the reference does not have.
        clip_studio: of the pictures of the CLIP score; None where there is none.
        seed: the generation seed of the assets. calibrates: they are the teacher's.
    """

    name: str
    protocol: Protocol
    settings: Settings
    studio: Studio
    towers: Towers
    pairs: tuple[Pair, ...]
    reference: str
    drawn_by: str
    own_reference: bool
    unused: tuple[str, ...]
    geometry_only: bool
    latency: float | None
    steps: int | None
    nfe: int | None
    clip_studio: Studio | None = None
    seed: int | None = None
    calibrates: bool = False

    @cached_property
    def key(self) -> str:
        """Digest of all that decides the rows."""
        made = [[pair.id, _content(pair.mesh), _content(pair.gaussians)] for pair in self.pairs]
        given = [self.latency, self.steps, self.nfe, self.seed, self.calibrates, self.conditions_sha(self.pairs)]
        return digest_of(
            [self.name, self.protocol.sha256, self.reference_sha(self.pairs), made, self.towers.versions, given]
        )

    @cached_property
    def ulip(self) -> Variant:
        """Which ULIP_I."""
        return ulip_variant(self.protocol.values)

    @property
    def of_meshes(self) -> bool:
        """Whether the plain columns are of meshes: the protocol says so, or the system makes no Gaussians."""
        by_protocol = self.protocol.values.fd.generated.representation == "mesh"
        return by_protocol or self.geometry_only or not any(pair.gaussians for pair in self.pairs)

    def reference_sha(self, pairs: Sequence[Pair]) -> str:
        """Digest of assets of the reference, the points drawn on them, and the protocol."""
        return digest_of([[[pair.id, pair.truth.content, pair.seed] for pair in pairs], self.protocol.sha256])

    def conditions_sha(self, pairs: Sequence[Pair]) -> str:
        """Digest of the condition images of assets."""
        return digest_of([[pair.id, _content(pair.condition)] for pair in pairs])

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
    contents, made = Contents(), files_in(options.folder)
    protocol, reference = _compared_with(options, contents)
    check_together(options, ulip_variant(protocol.values))
    keys = matched(reference.known, made)
    unused = tuple(sorted(set(made) - set(keys.values())))
    chosen = reference.ids[: options.limit]
    if not any(key in keys for key in chosen):
        raise MissingError(
            f"No file in {options.folder} has the id of an asset of {options.reference or options.folder} (those are "
            f"{_some(chosen)}) - name each file after the asset's id, such as ID.glb."
        )
    if options.geometry_only and not any(made[keys[key]].mesh for key in chosen if key in keys):
        raise MissingError(f"--geometry-only measures meshes, and {options.folder} has none. Leave it out.")
    conditions = conditions_of(options.conditions, chosen) if options.conditions else {}
    weights, alone = options.weights.expanduser(), options.geometry_only
    towers = towers_of(protocol.values, settings, weights, geometry_only=alone, conditions=bool(conditions))
    pairs = _pairs(chosen, reference, made, keys, protocol.values, settings.run_seed, contents)
    return Plan(
        name=name,
        protocol=protocol,
        settings=settings,
        studio=studio_of(protocol.values),
        towers=towers,
        pairs=tuple(replace(pair, condition=conditions.get(pair.id)) for pair in pairs),
        reference=reference.name,
        drawn_by=reference.drawn_by,
        own_reference=options.folder.resolve() == (options.reference or options.folder).resolve(),
        unused=unused,
        geometry_only=options.geometry_only,
        latency=options.latency,
        steps=options.steps,
        nfe=options.nfe,
        clip_studio=clip_studio_of(protocol.values) if towers.clip else None,
        seed=options.seed,
        calibrates=options.calibrates,
    )


def _compared_with(options: EvaluateOptions, contents: Contents) -> tuple[Protocol, Reference]:
    """The reference, and the protocol in its variant with the renderer of the reference's pictures."""
    toys4k = folder_of(options.reference)
    if toys4k is None:
        protocol = chosen_protocol(options.protocol)
        return protocol, FolderReference.of(options.reference or options.folder, protocol.values, contents)
    blender = find_blender(options.blender)
    protocol = chosen_protocol(options.protocol, variant_of(blender))
    threads = max(1, cores() // (options.workers or cores()))  # one Blender per worker
    return protocol, open_toys4k(toys4k, protocol.values, blender, options.cache.expanduser(), threads=threads)


def _pairs(
    ids: Sequence[str],
    reference: Reference,
    made: Mapping[str, Files],
    keys: Mapping[str, str],
    values: Values,
    run_seed: int,
    contents: Contents,
) -> tuple[Pair, ...]:
    pairs = []
    for name in ids:
        files = made[keys[name]] if name in keys else Files()
        mesh = MeshLook(files.mesh, contents.of_mesh(files.mesh)) if files.mesh else None
        gaussians = GaussianLook(files.gaussians, file_sha256(files.gaussians)) if files.gaussians else None
        seed = asset_seed(values, reference.sha256(name), run_seed)
        pairs.append(Pair(name, reference.look(name), seed, mesh, gaussians))
    return tuple(pairs)


def _content(look: MeshLook | GaussianLook | ConditionLook | None) -> str:
    return look.content if look else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
