"""Rows and the values of single assets as Parquet files, for data frames. Needs pyarrow, the extra `parquet`.

Types are those of the models: text, int64, float64, bool; what may be None is null. `created_utc` stays text, as
written, so that rows come back exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..base.errors import MissingError, UsageError
from ..base.files import replacing
from .asset_values import AssetValue
from .rows import Row

ROWS_FILE: Final = "rows.parquet"
ASSETS_FILE: Final = "assets.parquet"
_TYPES: Final = {str: "string", int: "int64", float: "float64", bool: "bool"}


def write_rows_parquet(path: Path, rows: Iterable[Row]) -> None:
    """All columns of the rows, in the order of the model.

    Raises:
        UsageError: pyarrow is not installed.
        RunError: the file cannot be written.
    """
    _write(path, _columns(Row), [row.model_dump() for row in rows])


def read_rows_parquet(path: Path) -> list[Row]:
    """The rows of a file, validated.

    Raises:
        MissingError: there is no such file, or it does not hold rows.
        UsageError: pyarrow is not installed.
    """
    arrow, parquet = _arrow()
    try:
        table = parquet.read_table(path)
        return [Row.model_validate(values) for values in table.to_pylist()]
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}. Make it with `mdtbench report RUN --format parquet`.") from error
    except (arrow.ArrowInvalid, ValidationError) as error:
        raise MissingError(
            f"{path} does not hold rows ({str(error).splitlines()[0]}). Export the run again."
        ) from error


def write_assets_parquet(path: Path, values: Iterable[AssetValue]) -> None:
    """The values of single assets, one line per asset and metric; an asset without values has one line without.

    Raises:
        UsageError: pyarrow is not installed.
        RunError: the file cannot be written.
    """
    columns = {name: kind for name, kind in _columns(AssetValue).items() if name != "values"}
    _write(path, columns | {"metric": ("string", True), "value": ("float64", True)}, _long(values))


def _long(values: Iterable[AssetValue]) -> list[dict[str, Any]]:
    lines = []
    for one in values:
        fields = one.model_dump(exclude={"values"})
        lines += [fields | {"metric": name, "value": value} for name, value in (one.values or {None: None}).items()]
    return lines


def _write(path: Path, columns: Mapping[str, tuple[str, bool]], lines: Sequence[Mapping[str, Any]]) -> None:
    arrow, parquet = _arrow()
    fields = [arrow.field(name, arrow.type_for_alias(kind), nullable) for name, (kind, nullable) in columns.items()]
    with replacing(path) as part:
        parquet.write_table(arrow.Table.from_pylist(list(lines), schema=arrow.schema(fields)), part)


def _columns(model: type[BaseModel]) -> dict[str, tuple[str, bool]]:
    """Type of each field, and whether it may be None."""
    return {name: _kind(field.annotation) for name, field in model.model_fields.items()}


def _kind(annotation: Any) -> tuple[str, bool]:
    options = get_args(annotation) if NoneType in get_args(annotation) else (annotation,)
    kinds = [_plain(option) for option in options if option is not NoneType]
    return _TYPES.get(kinds[0], "string"), NoneType in options


def _plain(annotation: Any) -> type:
    """The type that values have: of the annotated one, of the literal's values."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain(get_args(annotation)[0])
    return type(get_args(annotation)[0]) if origin is Literal else annotation


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "Parquet files need pyarrow, which is not installed - `pip install 'mdtbench[parquet]'` brings it - or "
            "use --format csv or json."
        ) from error
    return pyarrow, pyarrow.parquet
