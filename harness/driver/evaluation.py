"""An evaluation before anything is computed: which files are measured against what, and by which networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...assets.folder import id_of
from ...assets.mesh_files import READING
from ...assets.source import Asset
from ...base.errors import MissingError, UsageError, unknown_name
from ...base.files import digest_of, file_sha256
from ...metrics import Metric
from ...metrics.agreement import Agreement
from ...metrics.distributions import FrechetInfinity, ManifoldShare
from ...results.places import CONTROLS
from ..engine.device import CPU
from ..inputs.paths import safe_path
from ..inputs.subjects import (
    DRAWN_HERE,
    Chosen,
    Subject,
    Toys4kTests,
    identity_of,
    matched,
    pictures_in,
    protocol_for,
)
from ..inputs.toys4k import folder_of
from ..measure.columns import columns_of, ulip_variant
from ..measure.conditions import FileConditions
from ..measure.extractors import Extractor, extractors_of, points_of
from ..measure.looks import Studio
from ..measure.pairs import Contents, Files, MeshFolder, files_in
from ..measure.scores import ScoresJob
from ..measure.sides import FilesSide, Side, TruthSide
from ..protocol.model import DEFAULT, Protocol, load_protocol
from ..settings.config import ProtocolSection
from ..settings.methods import code_digest
from .controls import Control, controls
from .export_folder import CONDITION
from .measuring import extractor_names

LISTED = 5  # names in a message
OF_MESHES, OF_GAUSSIANS = {"mesh", "mesh_turn", "points"}, {"gaussians", "gaussians_turn"}


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `mdtbench evaluate`, parsed.

    Attributes:
        folder: of the generated assets. reference: of the true meshes, or toys4k:FOLDER; "": `folder` itself.
        conditions: folder of the pictures that the assets were made from; None: nothing is compared with them.
        section: protocol and extractors. metrics: the only columns that are wanted; all by default.
        columns: further distances. run_seed: of the protocol, for points on surfaces.
        latency: seconds per asset, as the system's authors or user measured them.
        seed: which generation seed the assets are of, for tables of several; decides no value.
        calibrates: these are the teacher's assets, which tell whether this setup gives the published numbers.
        weights: folder of the official files.
        blender: to use; "" for that of MDTBENCH_BLENDER or the path. threads: of one Blender.
    """

    folder: Path
    name: str
    weights: Path
    cache: Path
    reference: str = ""
    conditions: Path | None = None
    section: ProtocolSection = field(default_factory=lambda: ProtocolSection(name=DEFAULT))
    metrics: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    run_seed: int = 0
    latency: float | None = None
    seed: int | None = None
    calibrates: bool = False
    geometry_only: bool = False
    steps: int | None = None
    nfe: int | None = None
    limit: int | None = None
    blender: str = ""
    threads: int = 1
    device: str = CPU


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation does.

    Attributes:
        key: digest of all that decides the rows.
        reference: name of what the files are held against. drawn_by: whose pictures of it these are.
        own_reference: it is the folder of the files. unused: files that it does not have.
        metrics: the columns that these files can have.
        made, truth, condition: of the same assets.
        found_by: by id what is to be said of how its files were found.
        dropped: (id, reason) of assets of the reference that cannot be used, which are on neither side.
    """

    options: EvaluateOptions
    key: str
    protocol: Protocol
    reference: str
    drawn_by: str
    own_reference: bool
    unused: tuple[str, ...]
    metrics: tuple[Metric, ...]
    extractors: Mapping[str, Extractor]
    made: FilesSide
    truth: TruthSide
    condition: FileConditions
    found_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: tuple[tuple[str, str], ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(subject.id for subject in self.truth.subjects)

    @property
    def random(self) -> bool:
        """Whether the official extractors have random weights."""
        return self.options.section.extractors == "random"

    @property
    def reference_sha(self) -> str:
        return _reference_sha(self.protocol, self.truth)

    @property
    def conditions_sha(self) -> str:
        """Digest of the condition pictures."""
        return digest_of(list(zip(self.ids, self.condition.content, strict=True)))

    def without(self, reasons: Mapping[str, str]) -> Evaluation:
        """Without assets of the reference that turned out not to be usable; the key stays."""
        kept = [row for row, name in enumerate(self.ids) if name not in reasons]
        sides = {"made": self.made.part(kept), "truth": self.truth.part(kept), "condition": self.condition.part(kept)}
        return replace(self, **sides, dropped=(*self.dropped, *reasons.items()))

    def system(self) -> ScoresJob:
        """The scores of the files."""
        sides = {"made": self.made, **self.against}
        return ScoresJob(self.options.cache, self.options.name, self.metrics, sides, self.extractors)

    def controls(self) -> list[Control]:
        return list(controls("assets", self.against))

    @property
    def against(self) -> dict[str, Side]:
        return {"truth": self.truth, "population": self.truth, "condition": self.condition}


def resolve(options: EvaluateOptions) -> Evaluation:
    """Check everything that can be checked without computing.

    Raises:
        MissingError: no such folder, no file that belongs to the reference, weights that are not there.
        UsageError: a wrong name or value, or a folder with two files where one is allowed.
    """
    check_name(options.name)
    made, protocol = files_in(options.folder), load_protocol(options.section.name)
    source = _reference(options, protocol, made)
    protocol = protocol_for(protocol, source)
    check_together(options, protocol)
    assets = _assets(source, protocol)[: options.limit]
    ids = [asset.id for asset in assets]
    keys = matched(_known(source), made)
    files = tuple(made[keys[name]] if name in keys else Files() for name in ids)
    if not any(name in keys for name in ids):
        raise MissingError(
            f"No file in {options.folder} has the id of an asset of {options.reference or options.folder} (those are "
            f"{some(ids)}) - name each file after the asset's id, such as ID.glb."
        )
    shown = pictures_in(options.conditions, ids) if options.conditions else {}
    metrics = chosen(list(_columns(options, protocol, files, bool(shown))), options.metrics)
    get = fetch_words(options.section.name, metrics)
    extractors = extractors_of(extractor_names(metrics), options.section, None, options.weights, options.device, get)
    studio = Studio.of(protocol.values, points_of(extractors, protocol.values))
    subjects = tuple(Subject(identity_of(asset), asset) for asset in assets)
    side, known, run_seed = (options.cache, subjects, studio), Contents(), options.run_seed
    if isinstance(source, Toys4kTests):
        blender = tuple(source.reference.look(name) for name in ids)
        content = tuple(look.content for look in blender)
    else:
        blender, content = (), tuple(known.of_mesh(source.meshes[name]) for name in ids)
    truth = TruthSide(*side, "assets", content, run_seed, 1, blender)
    mine = FilesSide(*side, files, tuple(known.of(one) for one in files), run_seed)
    paths = tuple(shown.get(name) for name in ids)
    condition = FileConditions(*side, paths, tuple(file_sha256(path) if path else "" for path in paths))
    own = not options.reference or Path(options.reference).expanduser().resolve() == options.folder.resolve()
    return Evaluation(
        options=options,
        key=_key(options, protocol, metrics, extractors, mine, truth, condition),
        protocol=protocol,
        reference=source.name,
        drawn_by=source.reference.drawn_by if isinstance(source, Toys4kTests) else DRAWN_HERE,
        own_reference=own,
        unused=tuple(sorted(set(made) - set(keys.values()))),
        metrics=metrics,
        extractors=extractors,
        made=mine,
        truth=truth,
        condition=condition,
        found_by=_found_by(options, keys, shown),
    )


def _found_by(
    options: EvaluateOptions, keys: Mapping[str, str], shown: Mapping[str, Path]
) -> dict[str, tuple[str, ...]]:
    """By id what is to be said where names of files are not the whole id."""
    pictures = {name: id_of(path.relative_to(options.conditions or "").with_suffix("")) for name, path in shown.items()}
    found: dict[str, tuple[str, ...]] = {}
    for what, names in (("files", keys), ("condition picture", pictures)):
        for name, key in names.items():
            if key not in (name, safe_path(name).as_posix()):
                told = f"its {what} '{key}' matched by the last part of the name alone"
                found[name] = (*found.get(name, ()), told)
    return found


def some(names: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


# -------------------------------------------------------------------------------------------------------- the reference


def _reference(options: EvaluateOptions, protocol: Protocol, made: Mapping[str, Files]) -> MeshFolder | Toys4kTests:
    """What files are held against. Raises MissingError: no such folder, or no mesh in it."""
    if folder_of(options.reference):
        return Toys4kTests(options.reference, protocol, options.blender, options.cache, options.threads)
    folder = Path(options.reference).expanduser() if options.reference else options.folder
    files = files_in(folder) if options.reference else made
    meshes = {name: one.mesh for name, one in files.items() if one.mesh}
    if not meshes:
        raise MissingError(f"No mesh in {folder}, so nothing to compare with. Give --reference a folder of meshes.")
    return MeshFolder(folder, meshes)


def _assets(source: MeshFolder | Toys4kTests, protocol: Protocol) -> Sequence[Asset]:
    """Those of the protocol's subset; Toys4k has no others."""
    whole = isinstance(source, Toys4kTests) or protocol.values.assets.subset == "full"
    return source.assets() if whole else Chosen(source, protocol).assets()


def _known(source: MeshFolder | Toys4kTests) -> Sequence[str]:
    """Ids of all assets of the reference, those among them that the protocol's subset leaves out."""
    return source.reference.known if isinstance(source, Toys4kTests) else sorted(source.meshes)


def _reference_sha(protocol: Protocol, truth: TruthSide) -> str:
    """Digest of the assets of the reference, how they are read, the points drawn on them, and the protocol."""
    assets = [[subject.id, content] for subject, content in zip(truth.subjects, truth.content, strict=True)]
    return digest_of([assets, truth.seed, protocol.sha256, READING])


# ---------------------------------------------------------------------------------------------------------- the columns


def _columns(options: EvaluateOptions, protocol: Protocol, files: Sequence[Files], shown: bool) -> Iterator[Metric]:
    """The columns that these files can have. shown: whether there are condition pictures.

    Raises:
        MissingError: there are no meshes, and nothing else is to be measured.
    """
    meshes, gaussians = any(one.mesh for one in files), any(one.gaussians for one in files)
    if options.geometry_only and not meshes:
        raise MissingError(f"--geometry-only measures meshes, and {options.folder} has none. Leave it out.")
    there = (OF_MESHES if meshes else set()) | (OF_GAUSSIANS if gaussians else set())
    there = {"points"} if options.geometry_only else there
    for metric in columns_of(protocol.values, everything=True, more=options.columns):
        chosen = metric if gaussians and not options.geometry_only else of_mesh_alone(metric)
        possible = (
            _looks(chosen.made) <= there and _looks((*chosen.truth, *chosen.population)) <= OF_MESHES | OF_GAUSSIANS
        )
        if chosen.level == "assets" and not chosen.teacher and possible and (shown or not chosen.condition):
            yield chosen


def chosen(metrics: Sequence[Metric], names: Sequence[str]) -> tuple[Metric, ...]:
    """Those of these names; all where there are none. Raises UsageError for a name that none has."""
    known = {metric.name: metric for metric in metrics}
    for name in names:
        if name not in known:
            raise unknown_name("column", name, known, "Columns of --metrics are those that the files can have.")
    return tuple(metric for metric in metrics if not names or metric.name in names)


def fetch_words(protocol: str, metrics: Sequence[Metric]) -> str:
    """The command that fetches what these columns need and nothing else: a column for each set of networks."""
    first: dict[tuple[str, ...], str] = {}
    for metric in metrics:
        first.setdefault(tuple(extractor_names([metric])), metric.name)
    names = [name for networks, name in first.items() if networks]
    variant = "" if protocol == DEFAULT else f" --protocol {protocol}"
    return f"mdtbench fetch --for evaluate{variant} --metrics {','.join(names)}"


def of_mesh_alone(metric: Metric) -> Metric:
    """The column of a system that makes no Gaussians, where it can be one of meshes and there is no such column."""
    if isinstance(metric, Agreement) and metric.of == "made":
        return replace(metric, picture=metric.picture.replace("gaussians", "mesh"))
    if isinstance(metric, ManifoldShare | FrechetInfinity) and metric.look == "gaussians":
        return replace(metric, name=f"{metric.name}_mesh", look="mesh")
    return metric


def _looks(needs: Sequence[str]) -> set[str]:
    return {need.partition(":")[0] for need in needs}


def _key(
    options: EvaluateOptions,
    protocol: Protocol,
    metrics: Sequence[Metric],
    extractors: Mapping[str, Extractor],
    made: FilesSide,
    truth: TruthSide,
    condition: FileConditions,
) -> str:
    columns = [[one.name, one.version, code_digest(one)] for one in metrics]
    versions = {name: one.version for name, one in extractors.items()}
    given = [options.name, options.latency, options.steps, options.nfe, options.seed, options.calibrates]
    device = options.device.partition(":")[0]
    sides = [_reference_sha(protocol, truth), made.content, condition.content]
    return digest_of([given, device, protocol.sha256, sides, columns, versions])


# ---------------------------------------------------------------------------------------------------------- the options


def check_name(name: str) -> None:
    """Raises UsageError for a name that cannot be a line of a table or part of a folder's name."""
    if name in (*CONTROLS, CONDITION):
        taken = ", ".join((*CONTROLS, CONDITION))
        raise UsageError(
            f"--name {name} is that of a control or of its pictures - any but {taken} is allowed - name the system."
        )
    if not name.strip() or not name.isprintable() or set(name) & set("/\\"):
        raise UsageError(f"--name takes a name for the table (got '{name}') - no slashes - for example FlashVDM.")


def check_together(options: EvaluateOptions, protocol: Protocol) -> None:
    """Raises UsageError where an option needs another one, or nothing that is measured needs it."""
    if options.calibrates and options.steps is None:
        raise UsageError("--calibrates compares the teacher at its published steps, and --steps is not given. Add it.")
    if protocol.values.ulip is None:
        return
    variant = ulip_variant(protocol.values)
    if variant.views == "condition image" and not options.conditions:
        raise UsageError(
            f"ULIP_I '{variant.name}' compares meshes with the condition image, which a folder of assets lacks - "
            "pictures named by asset id are needed - give their folder with --conditions."
        )
    if options.geometry_only and variant.views == "generated views":
        raise UsageError(
            f"ULIP_I '{variant.name}' compares meshes with pictures of them, and --geometry-only draws none - "
            "one of them is allowed - leave out the other."
        )
    if options.geometry_only and options.conditions and variant.views != "condition image":
        raise UsageError(
            "--conditions are for CLIP_score, which --geometry-only leaves out, and for variants such as ulip2-cond - "
            "one of them is allowed - leave out the other."
        )
