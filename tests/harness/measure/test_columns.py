"""Which columns there are: a protocol's, in its order, and those of plug-ins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mdtbench.base.errors import UsageError
from mdtbench.harness.measure.columns import OF_PAPER, SECONDARY, columns_of, ulip_variant
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.harness.protocol.values import Values
from mdtbench.metrics import METRICS, Comparison, Metric, Score, Seen

TINY, TRELLIS = (load_protocol(name).values for name in ("tiny-v3", "trellis-v1"))


class Own(Metric):
    """A plug-in's."""

    name, version, higher_is_better, level = "own", 1, True, "structure"
    made: tuple[str, ...] = ("voxels",)

    def score(self, made: Seen, against: Comparison) -> Score | None:
        return None


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Own:
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))
    metric = Own()
    METRICS.register("own", version=1, source="a test")(metric)
    return metric


def names(metrics: Sequence[Metric]) -> list[str]:
    return [metric.name for metric in metrics]


def changed(values: Values, section: str, **fields: Any) -> Values:
    """With other values of a section."""
    return values.model_copy(update={section: getattr(values, section).model_copy(update=fields)})


@pytest.mark.parametrize("values", [TINY, TRELLIS], ids=["tiny", "trellis"])
def test_columns_are_those_of_the_protocol_in_its_order(values: Values):
    listed = values.columns
    main = [*listed.structure, *listed.assets]
    assert names(columns_of(values, everything=False)) == main
    assert names(columns_of(values, everything=True)) == [*main, *listed.secondary]
    for metric in columns_of(values, everything=True):
        assert metric.level == ("structure" if metric.name in listed.structure else "assets")


def test_official_columns_are_as_the_protocols_values_say():
    by_name = {one.name: one for one in columns_of(TRELLIS, everything=True)}
    assert set(OF_PAPER) <= by_name.keys()
    section, ulip = TRELLIS.fd, ulip_variant(TRELLIS)
    assert section.incep is not None
    assert by_name["FD_incep"].made == (f"gaussians:{section.incep.extractor}",)
    assert by_name["FD_incep_mesh"].made == (f"mesh:{section.incep.extractor}",)
    assert by_name["ULIP_I"].made[0] == f"points:{ulip.points}"
    meshes = changed(TRELLIS, "fd", generated=section.generated.model_copy(update={"representation": "mesh"}))
    found = {one.name: one for one in columns_of(meshes, everything=True)}
    assert found["FD_incep"].made == (f"mesh:{section.incep.extractor}",)
    assert "FD_incep_mesh" not in found  # it would be the same


@pytest.mark.parametrize("more", SECONDARY)
def test_further_distances_are_added(more: str):
    usual, found = names(columns_of(TRELLIS, everything=False)), columns_of(TRELLIS, everything=False, more=[more])
    assert names(found)[: len(usual)] == usual
    added = [one for one in found if one.name not in usual]
    assert {one.name.removesuffix("_mesh") for one in added} == {
        f"{kind}_{SECONDARY[more]}" for kind in ("FD", "KD", "FD_inf")
    }
    assert {need.partition(":")[2] for one in added for need in one.made} == {more}


def test_columns_of_plug_ins_come_last_once(own: Own):
    assert names(columns_of(TINY, everything=False))[-1] == "own"
    listed = changed(TINY, "columns", structure=("own", *TINY.columns.structure))
    assert names(columns_of(listed, everything=False)).count("own") == 1
    assert names(columns_of(listed, everything=False))[0] == "own"


def test_a_plug_in_that_asks_for_what_there_is_not_is_named(own: Own, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Own, "made", ("voxel",))
    with pytest.raises(UsageError, match=r"Unknown look 'voxel'.*Of the metric own, made"):
        columns_of(TINY, everything=False)


def test_a_column_that_there_is_not_is_named():
    values = changed(TINY, "columns", structure=("FD_tiny2",))
    with pytest.raises(UsageError, match=r"FD_tiny2'.*Did you mean 'FD_tiny2d'"):
        columns_of(values, everything=False)


def test_a_protocol_without_a_column_has_no_variant_of_it():
    assert TRELLIS.ulip is not None
    with pytest.raises(UsageError, match="no ULIP_I"):
        ulip_variant(TINY)
    with pytest.raises(UsageError, match=r"Unknown variant of ULIP_I 'ulip3'"):
        ulip_variant(changed(TRELLIS, "ulip", variant="ulip3"))
    assert TRELLIS.fd.incep is not None
    other = changed(TRELLIS, "fd", incep=TRELLIS.fd.incep.model_copy(update={"extractor": "incep"}))
    with pytest.raises(UsageError, match=r"Unknown extractor 'incep'"):
        columns_of(other, everything=False)
