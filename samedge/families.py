"""The table of families: what samedge exports, proves and runs.

A family is its own code and one line here: a table of strings, so that nothing is imported before it is asked for, and
neither torch nor a backend is needed to know what a bundle is. A line names, for each layer of the package, the class
that knows the family there; each layer has the protocol of its class. Layers ask the family, and never which one it is.
A family of one graph from images to results brings a loader and an exporter; the rest has defaults.

Families, encoders and backends from outside this package are records in a module of yours, named to be found:

    SAMEDGE_PLUGINS=my_models:FAMILY,my_models:ENCODER samedge export my.pt

An environment variable, because it reaches every process that samedge starts: builds of engines, benchmarks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar

from samedge.errors import BundleError, UsageError

PLUGINS: Final = "SAMEDGE_PLUGINS"
"""Environment variable with the records to add to the tables: "module:NAME", separated by commas."""

_Record = TypeVar("_Record")


def resolve(target: str) -> Any:
    """Import the module of a "module:name" and return what has that name there."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def plugged(kind: type[_Record]) -> tuple[_Record, ...]:
    """Return the records of this class that `PLUGINS` names.

    Raises:
        UsageError: A name leads nowhere.
    """
    names = filter(None, (name.strip() for name in os.environ.get(PLUGINS, "").split(",")))
    return tuple(record for record in map(_record, names) if isinstance(record, kind))


def _record(name: str) -> object:
    try:
        return resolve(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"there is no plug-in {name!r}: {error}",
            where=PLUGINS,
            cure="Give module:NAME of a record, and put its module on PYTHONPATH",
        ) from error


@dataclass(frozen=True, slots=True)
class Family:
    """One line of the table.

    Attributes:
        name: As a manifest, `samedge.load` and benchmarks call it.
        title: As messages call one of its models: "a SAM".
        roles: Roles of the graphs that its bundles may have; the first is the one that takes most of the time.
        loader: "module:class" of its `samedge.models.load.ModelLoader`: checkpoints and random weights.
        exporter: Of its `samedge.export.family.FamilyExporter`: records and bundles.
        opener: Of its `samedge.api.load.FamilyOpener`: predictors.
        engine_roles: Roles of the graphs that become engines, the slowest first; the first role alone if empty.
        answers: What it gives, as messages call it.
        opened_by: What opens its bundles, as messages say it.
        record: Name of the manifest's field that only its bundles have; the manifest names the family otherwise.
        parity: "module:class" of its `samedge.parity.family.FamilyParity`: engines against the checkpoint.
        engines: Of its `samedge.export.engines.family.FamilyEngines`: ranges and precisions of engines.
        command: Of its `samedge.cli.family.FamilyCommand`, for ``samedge predict`` and ``info``.
        bench: Of its `samedge.benchmarks.bench.stages.family.FamilyBench`: the stages that are timed.
        peers: Names of the peers that ``samedge bench --peers`` runs beside its models.
        refusal: "module:function" that raises where a TensorRT cannot run a bundle; empty where each can.
        graph_file: "module:function" that tells whether a graph file without a bundle is of this family.
        options: "module:class" of a frozen dataclass of the family's own export options, with defaults.
    """

    name: str
    title: str
    roles: tuple[str, ...]
    loader: str
    exporter: str
    opener: str = "samedge.api.open_one_graph:OneGraphOpener"
    engine_roles: tuple[str, ...] = ()
    answers: str = "masks"
    opened_by: str = "samedge.load()"
    record: str = ""
    parity: str = "samedge.parity.one_graph:OneGraphParity"
    engines: str = "samedge.export.engines.one_graph:OneGraphEngines"
    command: str = "samedge.cli.predict_one_graph:OneGraphCommand"
    bench: str = "samedge.benchmarks.bench.stages.one_graph_stages:OneGraphBench"
    peers: tuple[str, ...] = ()
    refusal: str = ""
    graph_file: str = ""
    options: str = ""

    @property
    def main(self) -> str:
        """Role of the graph that takes most of the time."""
        return self.roles[0]

    @property
    def built_roles(self) -> tuple[str, ...]:
        """Roles of the graphs that become engines, the slowest first."""
        return self.engine_roles or self.roles[:1]

    def make(self, target: str) -> Any:
        """Return an instance of one of the classes that this line names."""
        return resolve(target)()

    def refuse(self, bundle: object, tensorrt: str) -> None:
        """Refuse a bundle whose graphs a TensorRT cannot run.

        Args:
            bundle: A `samedge.bundle.archive.Bundle`.
            tensorrt: "tensorrt" or "tensorrt-rtx".

        Raises:
            UsageError: It is such a bundle.
        """
        if self.refusal:
            resolve(self.refusal)(bundle, tensorrt)

    def owns(self, graph: Path) -> bool:
        """Return whether a graph file without a bundle is of this family."""
        return bool(self.graph_file) and bool(resolve(self.graph_file)(graph))


FAMILIES: Final = (
    Family(
        "sam",
        "a SAM",
        ("encoder", "decoder", "decoder_single", "decoder_context", "decoder_prompts", "decoder_masks"),
        loader="samedge.models.sam.load:SamLoader",
        exporter="samedge.export.sam_bundle:SamExporter",
        opener="samedge.api.open_sam:SamOpener",
        engine_roles=("encoder", "decoder"),
        opened_by="samedge.SAM or samedge.load",
        parity="samedge.parity.sam_verify:SamParity",
        engines="samedge.export.engines.sam:SamEngines",
        command="samedge.cli.predict_sam:SamCommand",
        bench="samedge.benchmarks.bench.stages.sam_stages:SamBench",
        peers=("meta", "plain-onnx"),
    ),
    Family(
        "yolo",
        "a YOLO",
        ("yolo",),
        loader="samedge.models.yolo.load:YoloLoader",
        exporter="samedge.export.yolo.bundle:YoloExporter",
        opener="samedge.api.open_yolo:YoloOpener",
        answers="boxes and masks",
        opened_by="samedge.YOLO or samedge.FastSAM",
        record="yolo",
        parity="samedge.parity.yolo_verify:YoloParity",
        engines="samedge.export.engines.yolo:YoloEngines",
        command="samedge.cli.predict_yolo:YoloCommand",
        bench="samedge.benchmarks.bench.stages.yolo_stages:YoloBench",
        refusal="samedge.runtime.yolo.suppression:refuse_suppression",
        graph_file="samedge.runtime.yolo.metadata:is_yolo_graph",
    ),
)
DEFAULT: Final = FAMILIES[0]
"""Of manifests that name no family and have no family's record, and of checkpoints that nobody knows."""


def families() -> tuple[Family, ...]:
    """Return the table, and the families that plug-ins add."""
    return (*FAMILIES, *plugged(Family))


def find_family(name: str) -> Family:
    """Return the line with this name.

    Raises:
        BundleError: There is none.
    """
    for family in families():
        if family.name == name:
            return family
    known = ", ".join(family.name for family in families())
    raise BundleError(
        f"there is no family {name!r} here", cure=f"Update samedge, or name its plug-in; known are: {known}"
    )


def family_of_graph(graph: Path) -> Family:
    """Return the family that runs a graph file without a bundle."""
    return next((family for family in families() if family.owns(graph)), DEFAULT)
