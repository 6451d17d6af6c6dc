"""Extractors of pictures: what they load, what they refuse, what random ones give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import golden_io
import numpy as np
import pytest
import torch
from open_clip.transformer import VisionTransformer as ClipVision
from safetensors.torch import save_file
from torch import Tensor, nn

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.base.files import file_sha256
from mdtbench.metrics.official import picture_extractors, resize
from mdtbench.metrics.official.networks import from_hub, vision_transformer
from mdtbench.metrics.official.picture_extractors import SPECS, PictureSpec, load, random_extractor
from mdtbench.metrics.official.weights import WeightsFile, fill_randomly, without_memory

VIT = partial(vision_transformer, "vit_large_patch14_dinov2", 224, embed_dim=24, depth=2, num_heads=3)
TOWER = partial(ClipVision, image_size=224, patch_size=14, width=32, layers=2, heads=4, mlp_ratio=1.5, output_dim=8)
ANY_FILE = WeightsFile(file="any", source="", licence="", keys=0)
SMALL_VIT = PictureSpec("small", 1, ANY_FILE, VIT, resize.dgm_eval_224, 24, from_hub)
SMALL_CLIP = PictureSpec("small_clip", 1, replace(ANY_FILE, prefix="visual."), TOWER, resize.clip_224, 8)
INCEPTION = SPECS["fd_incep"]


def noise(count: int, side: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), np.uint8)


def filled(spec: PictureSpec) -> nn.Module:
    network = spec.create().eval()
    golden_io.fill_w1(network, "saved")
    return network


def saved(path: Path, tensors: dict[str, Tensor], **options: object) -> Path:
    torch.save(tensors, path, **options)
    return path


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_a_specs_counts_are_its_networks(spec: PictureSpec) -> None:
    state = without_memory(spec.create).state_dict()
    not_taken = 2 if spec.name.startswith("fd_incep") else int(spec.name.startswith("fd_dinov2"))
    assert sum(not name.endswith("num_batches_tracked") for name in state) + not_taken == spec.weights.keys
    assert SPECS[spec.name] is spec
    assert spec.weights.source.endswith(Path(spec.weights.file).name)


def test_files_have_paths_of_their_own() -> None:
    files = {spec.weights for spec in SPECS.values()}
    assert len({weights.file for weights in files}) == len(files)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@torch.inference_mode()
def test_weights_come_from_the_file_and_other_networks_tensors_are_left(tmp_path: Path, form: str) -> None:
    network = filled(SMALL_CLIP)
    tensors = {f"visual.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {"logit_scale": torch.ones(()), "token_embedding.weight": torch.ones(9, 4)}
    path = tmp_path / f"tower.{'safetensors' if form == 'safetensors' else 'bin'}"
    if form == "safetensors":
        save_file(tensors, path)
    else:
        saved(path, tensors, _use_new_zipfile_serialization=form == "zip")
    extractor = load(SMALL_CLIP, path)
    pictures = noise(2)
    expected = torch.cat([network(resize.clip_224(torch.from_numpy(picture[None]))) for picture in pictures])
    np.testing.assert_array_equal(extractor(pictures), expected.numpy())
    digest = file_sha256(path)
    assert extractor.weights_sha256 == digest
    assert extractor.version == f"small_clip-1/clip_224/float32/{digest[:16]}"
    assert (extractor.name, extractor.dim) == ("small_clip", 8)


def test_half_precision_files_run_in_float32(tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in filled(SMALL_VIT).state_dict().items()}
    network = load(SMALL_VIT, saved(tmp_path / "half.pth", tensors)).network
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training


@pytest.mark.parametrize("counted", [True, False])
def test_batch_norms_counters_may_be_absent(tmp_path: Path, counted: bool) -> None:
    """Inception's file of 566 tensors is as good as one of 472."""
    spec = replace(SMALL_VIT, create=lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)))
    tensors = {name: tensor for name, tensor in filled(spec).state_dict().items() if counted or tensor.ndim}
    assert len(tensors) == (6 if counted else 5)
    network = load(spec, saved(tmp_path / "convolution.pth", tensors)).network
    assert golden_io.state_sha256(network) == golden_io.state_sha256(filled(spec))


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("blocks.1.ls2.gamma"), r"found 33 tensors, expected 34 \(missing: blocks.1.ls2.gamma\)"),
        (lambda t: {**t, "register_tokens": torch.ones(1, 4, 24)}, "found 35 .*unexpected: reg_token"),
        (lambda t: {**t, "cls_token": torch.ones(1, 1, 25)}, r"cls_token \[1, 1, 25\] instead of \[1, 1, 24\]"),
        (lambda t: {f"module.{name}": v for name, v in t.items()}, "missing: cls_token.*unexpected: module.cls_token"),
    ],
)
def test_a_file_of_another_network_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    path = saved(tmp_path / "other.pth", change(filled(SMALL_VIT).state_dict()))
    with pytest.raises(MissingError, match=f"other.pth does not fit VisionTransformer: .*{message}"):
        load(SMALL_VIT, path)


def test_another_digest_is_refused_before_the_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "pt_inception.pth"
    path.write_bytes(b"not weights")
    digest = file_sha256(path)
    with pytest.raises(MissingError, match=f"pt_inception.pth has sha256 {digest}, expected 6726825d0af5"):
        load(INCEPTION, path)
    with pytest.raises(MissingError, match="expected 00ff"):
        load(SMALL_VIT, path, sha256="00ff")


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors"])
def test_an_absent_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingError, match=f"Missing file .*{name}"):
        load(SMALL_VIT, tmp_path / name)


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "legacy.pth", "empty.pth", "text.pth"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    tensors = dict(filled(SMALL_VIT).state_dict())
    if name == "cut.safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=name == "cut.pth")
    content = path.read_bytes()
    path.write_bytes({"empty.pth": b"", "text.pth": b"<html>moved</html>"}.get(name, content[: len(content) // 2]))
    with pytest.raises(MissingError, match=f"{name} is no[t]? .*complete") as caught:
        load(SMALL_VIT, path)
    assert "\n" not in str(caught.value)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "code.pth"
    torch.save({"weights": Path("x")}, path)
    with pytest.raises(MissingError, match=r"code\.pth is not a complete file of tensors"):
        load(SMALL_VIT, path)


def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "nested.pth", {"state_dict": filled(SMALL_VIT).state_dict()})
    with pytest.raises(MissingError, match="plain state dict"):
        load(SMALL_VIT, path)


@pytest.mark.parametrize("spec", [SMALL_VIT, SMALL_CLIP, INCEPTION], ids=lambda spec: spec.name)
def test_random_features_are_finite_and_tell_pictures_apart(spec: PictureSpec) -> None:
    features = random_extractor(spec, 0)(noise(3, 64))
    assert features.shape == (3, spec.dim)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 100
    spread = features.std(0).mean() / np.abs(features).mean()
    assert spread > 0.01


def test_random_weights_follow_from_seed_and_name_for_any_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        networks = []
        for count in (1, 2):
            torch.set_num_threads(count)
            networks.append(random_extractor(SMALL_VIT, 3).network)
    finally:
        torch.set_num_threads(threads)
    first, second = (golden_io.state_sha256(network) for network in networks)
    assert first == second
    assert first != golden_io.state_sha256(random_extractor(SMALL_VIT, 4).network)
    # One value written down: SFC64 of numpy on the seed of the tensor's name, so other machines agree.
    assert networks[0].state_dict()["norm.bias"][0].item() == pytest.approx(NORM_BIAS_0, rel=1e-6)


NORM_BIAS_0 = -0.08265053480863571


def test_random_weights_say_so() -> None:
    extractor = random_extractor(SMALL_VIT, 123456789012)
    assert extractor.weights_sha256 == "random:123456789012"
    assert extractor.version == "small-1/dgm_eval_224/float32/random:123456789012"


def test_random_scales() -> None:
    """Uniform values of the stated spread; 1e5 of them leave it within 2 %."""
    network = without_memory(lambda: nn.Sequential(nn.Conv2d(8, 64, 15), nn.Linear(400, 300), nn.BatchNorm2d(5000)))
    fill_randomly(network, "scales", 0)
    state = network.state_dict()
    assert state["0.weight"].std().item() == pytest.approx((2 / (8 * 225)) ** 0.5, rel=0.02)
    assert state["1.weight"].std().item() == pytest.approx(0.05, rel=0.02)
    assert state["1.weight"].mean().item() == pytest.approx(0, abs=0.001)
    assert state["2.weight"].mean().item() == pytest.approx(1, abs=0.01)
    assert state["2.weight"].std().item() == pytest.approx(0.1, rel=0.03)
    assert (state["2.running_var"] == 1).all()
    assert (state["2.running_mean"] == 0).all()
    assert state["2.num_batches_tracked"] == 0


def test_features_do_not_depend_on_how_pictures_are_grouped() -> None:
    extractor = random_extractor(SMALL_VIT, 0)
    pictures = noise(5)
    parts = np.concatenate([extractor(pictures[:2]), extractor(pictures[2:])])
    np.testing.assert_array_equal(extractor(pictures), parts)
    np.testing.assert_array_equal(extractor(pictures[::-1])[::-1], parts)
    assert extractor(pictures[:0]).shape == (0, 24)


@pytest.mark.parametrize(
    "batch", [noise(1)[0], noise(1).astype(np.float32), noise(1)[:, :1]], ids=["one picture", "float", "grey"]
)
def test_other_arrays_are_refused(batch: np.ndarray) -> None:
    with pytest.raises(UsageError, match="Pictures of the wrong kind"):
        random_extractor(SMALL_VIT, 0)(batch)


def test_tf32_is_off_inside_and_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "backends", backends := switches(True, True))
    with picture_extractors.full_float32():
        assert backends == switches(False, False)
    assert backends == switches(True, True)


def switches(matmul: bool, cudnn: bool) -> SimpleNamespace:
    """Stands in for torch.backends, whose real switches other tests read."""
    cublas = SimpleNamespace(matmul=SimpleNamespace(allow_tf32=matmul))
    return SimpleNamespace(cuda=cublas, cudnn=SimpleNamespace(allow_tf32=cudnn))


def test_pictures_go_in_batches_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As there, on the CPU: the same features up to roundings, in fewer calls of the network."""
    extractor, batch, sizes = random_extractor(SMALL_VIT, 0), noise(5), []
    extractor.network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    one_by_one = extractor(batch)
    monkeypatch.setattr(picture_extractors, "AT_ONCE", {"cpu": 2})
    together = extractor(batch)
    assert sizes == [1] * 5 + [2, 2, 1]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-4, atol=1e-5)
