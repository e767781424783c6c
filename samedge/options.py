"""Options of exports and engine builds: frozen records, which can be made from keyword arguments.

    options = ExportOptions(precision="fp16", sam=SamExportOptions(form="concat"))
    options = ExportOptions().updated(precision="fp16", form="concat")  # the same

Each field is documented only here. Records validate everything that does not depend on a model.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

from typing_extensions import TypedDict, Unpack

from samedge.errors import UsageError
from samedge.families import families, resolve
from samedge.types import EncoderForm, IOScheme, Precision

ExportFormat: TypeAlias = Literal["onnx", "trt", "rtx", "engine", "tensorrt", "tensorrt-rtx"]
HardwareCompatibility: TypeAlias = Literal["none", "ampere_plus", "same_compute_capability"]

ENGINE_FORMATS: Final[tuple[str, ...]] = tuple(name for name in get_args(ExportFormat) if name != "onnx")
"""Accepted names of engine formats; "engine" is Ultralytics' name for the installed TensorRT."""

DEFAULT_WORKSPACE: Final = 0.5
"""Share of the GPU's free memory."""

DEFAULT_OPSET: Final = 17
"""Supported by every runtime. From 19 on, scales of Q and DQ can be float16."""
FP8_OPSET: Final = 19

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Record = TypeVar("_Record", bound=Any)
_Extra = TypeVar("_Extra")


@dataclass(frozen=True, slots=True)
class AxisRange:
    """The range of sizes that an engine accepts along a free axis.

    Attributes:
        minimum: Smallest accepted size.
        optimum: Size that kernels are chosen for.
        maximum: Largest accepted size, for which memory is planned.

    Raises:
        UsageError: The three are not in ascending order, or the smallest is less than 1.
    """

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(
                f"invalid profile {self}",
                cure="Give minimum/optimum/maximum in ascending order, starting from 1 or more, such as 1/16/64",
            )

    def __str__(self) -> str:
        return f"{self.minimum}/{self.optimum}/{self.maximum}"

    @staticmethod
    def parse(text: str, option: str) -> AxisRange:
        """Parse a range such as "1/16/64"; a single number is all three.

        Args:
            text: User input.
            option: Name of the option, for errors.

        Raises:
            UsageError: It is not one number, or three in ascending order.
        """
        parts = text.split("/")
        if len(parts) not in (1, 3) or not all(part.strip().isdecimal() for part in parts):
            raise UsageError(
                f"invalid range {text!r}", where=option, cure="Give minimum/optimum/maximum, such as 1/16/64"
            )
        sizes = [int(part) for part in parts]
        return AxisRange(sizes[0], sizes[len(sizes) // 2], sizes[-1])


DEFAULT_PROMPTS: Final = AxisRange(1, 16, 64)
DEFAULT_POINTS: Final = AxisRange(2, 3, 16)
"""A single point is sent with a padding point, hence at least two; a box and a point make three."""


@dataclass(frozen=True, slots=True)
class SamExportOptions:
    """Options specific to SAM.

    Attributes:
        io: Names and shapes of inputs and outputs: "native", "meta", "samexporter" or "osam". Engines are built from
            native bundles.
        form: Layout of the ViT encoder's global attention, with equal results: "chunked" for CPUs; "mask" or, with less
            memory, "concat" for compilers that fuse attention. None for "chunked", or "mask" for fp16, fp8 and engines.
        for_engines: The graphs are for engines built elsewhere: without `form`, use the one that is fused there.
        weights_key: In a checkpoint of several models, the name of the one to read, such as "state_dict_ema".
        lora_scale: Scale of LoRA layers (``lora_alpha / r``) that a checkpoint has beside its weights; None for the one
            in ``adapter_config.json`` beside it, or 1 for SAMed's form.
        base: Checkpoint or known name with the weights that a separately saved decoder, or LoRA layers, were trained
            from.

    Raises:
        UsageError: A name is unknown.
    """

    io: IOScheme = "native"
    form: EncoderForm | None = None
    for_engines: bool = False
    weights_key: str | None = None
    lora_scale: float | None = None
    base: str | Path | None = None

    def __post_init__(self) -> None:
        _require_known("io", self.io, get_args(IOScheme))
        if self.form is not None:
            _require_known("form", self.form, get_args(EncoderForm))


@dataclass(frozen=True, slots=True)
class YoloExportOptions:
    """Options specific to YOLO and FastSAM.

    Attributes:
        dynamic: Leave height and width of the input free, so that the host can trim the padding.
        nms: Suppress overlapping boxes in the graph; TensorRT for RTX has no operator for it.
        conf: With `nms`: minimum score of a box, exclusive.
        iou: With `nms`: maximum IoU of two boxes of one class; beyond it the lower-scoring one is dropped.
        max_det: With `nms`: rows per image in the output.
        agnostic_nms: With `nms`: boxes of different classes suppress each other too.
        end_to_end: Use the head of a YOLO26 that returns one box per object, so that nothing has to be suppressed
            (Ultralytics' ``nms=False``), instead of the one whose boxes are suppressed.

    Raises:
        UsageError: A number is out of range.
    """

    dynamic: bool = True
    nms: bool = False
    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    agnostic_nms: bool = False
    end_to_end: bool = False

    def __post_init__(self) -> None:
        check_thresholds(self.conf, self.iou, self.max_det)


@dataclass(frozen=True, slots=True)
class EngineBuildOptions:
    """Options for building TensorRT engines. A range is an `AxisRange`, a text such as "1/16/64", or a single number.

    Attributes:
        prompts: For a SAM: fewest, most common and most prompts per call.
        points: For a SAM: the same for points per prompt; a box is two, and a single point is sent with a padding
            point.
        batch: For a YOLO: fewest, most common and most images per call; None for "1/1/4".
        height: For a YOLO with a free input size: rows of the input, px, multiples of 32. None for 32, the model's
            nominal size, and 1280, which covers images with trimmed padding.
        width: The same for columns.
        targets: Compute capabilities such as "8.6", for TensorRT for RTX; empty for the local GPU.
        workspace: Share of the GPU's free memory for scratch space.
        optimisation_level: 0 (fast build) to 5 (fast engine); None for TensorRT's default.
        version_compatible: Make the engines loadable by later versions of TensorRT.
        hardware_compatibility: "none", "ampere_plus" or "same_compute_capability".
        device: The GPU, such as "cuda:1"; None for the first.
        restart: Start at the top of the precision ladder, even if an earlier build had to descend.

    Raises:
        UsageError: A range is invalid.
    """

    prompts: AxisRange = DEFAULT_PROMPTS
    points: AxisRange = DEFAULT_POINTS
    batch: AxisRange | None = None
    height: AxisRange | None = None
    width: AxisRange | None = None
    targets: tuple[str, ...] = ()
    workspace: float = DEFAULT_WORKSPACE
    optimisation_level: int | None = None
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    device: str | None = None
    restart: bool = False

    def __post_init__(self) -> None:
        for name in ("prompts", "points", "batch", "height", "width"):
            sizes = getattr(self, name)
            if isinstance(sizes, (str, int)):
                object.__setattr__(self, name, AxisRange.parse(str(sizes), f"--{name}"))
        object.__setattr__(self, "targets", tuple(self.targets))

    def updated(self, **keywords: Unpack[EngineKeywords]) -> EngineBuildOptions:
        """Return these options with some fields changed.

        Raises:
            TypeError: A keyword is unknown.
            UsageError: A value is invalid.
        """
        return _with(self, _known(keywords, EngineKeywords))


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options for exporting a checkpoint to a bundle, with engines beside it.

    Attributes:
        format: "onnx" for a bundle of graphs; "trt", "rtx" or "engine" for TensorRT engines beside it as well.
        precision: Precision of computation, if it preserves the checkpoint's masks (`samedge.parity.compare`);
            otherwise more is kept in float32, in steps, and the notes say why. "fp32", the default of graphs; "fp16",
            the default of engines; "int8" or "fp8" for the linear layers of a SAM's encoder; "int8" for the
            convolutions of a YOLO. In the form for CPUs int8 must also be faster on this machine; in the forms for
            GPUs, and with fp8, the rest of the graphs is float16. For fp16 engines the bundle stays float32: float16 is
            written into its graphs as they are built.
        opset: ONNX opset, 17 to 20; None for 17, which every TensorRT supports, or 19 for fp8.
        calib: Image, folder or pattern to measure the ranges of fp8 and static int8 on; required for OpenVINO and
            TensorRT. Without it int8 is dynamic, for onnxruntime on CPUs.
        output: The bundle's folder, or a file that ends with ``.samedge``. None for ``NAME-samedge`` in the working
            folder. An existing bundle is replaced.
        image_size: Side of the square input, px, for architectures whose weights do not determine it. For a YOLO: any
            side, or (height, width), in multiples of 32.
        check: Compare graphs and engines with the checkpoint on the probe set and record the verdict.
        sam: Options for SAM.
        yolo: Options for YOLO.
        engines: Options for engines, which use `precision` and are stored beside the bundle.
        extras: Options of plug-in families, one record per family (`samedge.families.Family.options`).

    Raises:
        UsageError: A name is unknown.
    """

    format: ExportFormat = "onnx"
    precision: Precision | None = None
    opset: int | None = None
    calib: str | Path | None = None
    output: str | Path | None = None
    image_size: int | tuple[int, int] | None = None
    check: bool = True
    sam: SamExportOptions = field(default_factory=SamExportOptions)
    yolo: YoloExportOptions = field(default_factory=YoloExportOptions)
    engines: EngineBuildOptions = field(default_factory=EngineBuildOptions)
    extras: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        _require_known("format", self.format, get_args(ExportFormat))
        if self.precision is not None:
            _require_known("precision", self.precision, get_args(Precision))

    @property
    def graph_precision(self) -> Precision:
        """The precision of the graphs."""
        return self.precision or "fp32"

    @property
    def graph_opset(self) -> int:
        """The opset of the graphs: by default the oldest that supports their precision."""
        return self.opset or (FP8_OPSET if self.precision == "fp8" else DEFAULT_OPSET)

    def part(self, record: type[_Extra]) -> _Extra:
        """Return the options of a plug-in family: its record in `extras`, or else its defaults."""
        return next((given for given in self.extras if isinstance(given, record)), None) or record()

    def updated(self, format: ExportFormat | None = None, **keywords: Unpack[ExportKeywords]) -> ExportOptions:
        """Return these options with some fields of this record or its parts changed.

        Args:
            format: The format; None for the current one.
            keywords: Fields of this record and of its parts, including those of plug-in families.

        Raises:
            TypeError: A keyword is unknown.
            UsageError: A value is invalid.
        """
        kinds = [resolve(family.options) for family in families() if family.options]
        given = _known(keywords, ExportKeywords, [each.name for kind in kinds for each in fields(kind)])
        parts = {name: _with(getattr(self, name), given) for name in ("sam", "yolo", "engines")}
        changed = replace(_with(self, given), format=format or self.format, **parts)
        for kind in kinds:
            if any(each.name in given for each in fields(kind)):
                others = (record for record in changed.extras if not isinstance(record, kind))
                changed = replace(changed, extras=(*others, _with(changed.part(kind), given)))
        return changed


class EngineKeywords(TypedDict, total=False):
    """Keyword arguments for engines: the fields of `EngineBuildOptions`, where they are documented."""

    prompts: AxisRange | str
    points: AxisRange | str
    batch: AxisRange | str | int | None
    height: AxisRange | str | int | None
    width: AxisRange | str | int | None
    targets: Sequence[str]
    workspace: float
    optimisation_level: int | None
    version_compatible: bool
    hardware_compatibility: HardwareCompatibility
    device: str | None
    restart: bool


class GraphKeywords(TypedDict, total=False):
    """Keyword arguments for graphs: the fields of `ExportOptions`, `SamExportOptions` and `YoloExportOptions`."""

    precision: Precision | None
    opset: int | None
    calib: str | Path | None
    image_size: int | tuple[int, int] | None
    check: bool
    io: IOScheme
    form: EncoderForm | None
    for_engines: bool
    weights_key: str | None
    lora_scale: float | None
    base: str | Path | None
    dynamic: bool
    nms: bool
    conf: float
    iou: float
    max_det: int
    agnostic_nms: bool
    end_to_end: bool


class ExportKeywords(GraphKeywords, EngineKeywords, total=False):
    """Keyword arguments of an export besides `format`: the fields of `ExportOptions` and of its parts."""

    output: str | Path | None
    extras: tuple[Any, ...]


def changed_fields(record: Any) -> tuple[str, ...]:
    """Return the names of the fields that differ from their defaults."""
    default = type(record)()
    return tuple(each.name for each in fields(record) if getattr(record, each.name) != getattr(default, each.name))


def check_thresholds(conf: float, iou: float, max_det: int) -> None:
    """Check thresholds of boxes.

    Raises:
        UsageError: One is out of range.
    """
    for name, value in (("conf", conf), ("iou", iou)):
        if not 0 <= value <= 1:
            raise UsageError(f"invalid {name} {value}", cure="Give a number from 0 to 1")
    if max_det < 1:
        raise UsageError(f"invalid max_det {max_det}", cure="Give 1 or more")


def refuse_foreign(kind: str, given: Mapping[str, bool]) -> None:
    """Reject options that do not apply to a kind of model.

    Args:
        kind: "a YOLO" or "a SAM".
        given: Options as typed, mapped to True if given.

    Raises:
        UsageError: One was given.
    """
    for option, present in given.items():
        if present:
            raise UsageError(f"not supported for {kind}", where=option, cure="Omit it")


def unknown_keyword(name: str, known: Collection[str]) -> TypeError:
    """Return the error for an unknown keyword, with the closest known one."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return TypeError(f"got an unexpected keyword argument {name!r}: {hint}")


def with_keywords(keywords: type, **defaults: object) -> Callable[[_Function], _Function]:
    """Return a decorator that lists the ``**keywords`` of a function in its signature, for `help` and editors.

    Args:
        keywords: Their `TypedDict`.
        defaults: Defaults that differ from those of the records.
    """
    records = (ExportOptions, SamExportOptions, YoloExportOptions, EngineBuildOptions)
    found = {**{each.name: each.default for record in records for each in fields(record)}, **defaults}

    def spell(function: _Function) -> _Function:
        signature = inspect.signature(function)
        kept = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        spelled = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=found[name], annotation=annotation)
            for name, annotation in inspect.get_annotations(keywords).items()
        ]
        function.__signature__ = signature.replace(parameters=[*kept, *spelled])  # type: ignore[attr-defined]
        return function

    return spell


def _with(record: _Record, given: dict[str, Any]) -> _Record:
    """Return a record with its fields among the given ones changed, and remove these."""
    mine = {each.name: given.pop(each.name) for each in fields(record) if each.name in given}
    return replace(record, **mine) if mine else record


def _known(keywords: Mapping[str, Any], known: type, others: Collection[str] = ()) -> dict[str, Any]:
    """Return keyword arguments, of which each must be in a `TypedDict` or among the others."""
    names = {*known.__annotations__, *others}
    for name in keywords:
        if name not in names:
            raise unknown_keyword(name, sorted(names))
    return dict(keywords)


def _require_known(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"unknown {option} {value!r}", where=f"--{option}", cure=f"Choose one of: {', '.join(known)}")
