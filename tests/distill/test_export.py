"""Exported students: the same answers without us, and words for what cannot be exported."""

from pathlib import Path

import numpy as np
import pytest
import torch

from distill import export as exporting
from distill.errors import DistillError
from distill.export import export
from distill.models.teachers import load_classifier
from tests.distill import toys
from tests.shards import make


def test_safetensors_is_the_file_itself(weights: Path, tmp_path: Path) -> None:
    out = export(load_classifier(weights), weights, tmp_path / "student.safetensors")
    assert load_classifier(out).sha256 == load_classifier(weights).sha256


@pytest.mark.parametrize("arch", ["wrn16_1", "lenet5"])
def test_onnx_answers_as_the_network(tmp_path: Path, arch: str) -> None:
    import onnxruntime

    if arch == "lenet5":
        from distill.models import build
        from distill.models.teachers import save_classifier

        path = tmp_path / "t.safetensors"
        save_classifier(path, build(arch, 4), arch=arch, mean=[0.1], std=[0.3], classes=toys.CLASSES, input_size=32)
    else:
        path = toys.write_teacher(tmp_path / "t.safetensors", arch=arch, size=32)
    classifier = load_classifier(path)
    out = export(classifier, path, tmp_path / "student.onnx")
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images_BCHW = make.images(count, size=32, seed=count)
        (found,) = session.run(None, {"images": images_BCHW})
        expected = classifier(torch.from_numpy(images_BCHW)).logits_BK.detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_exported(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = load_classifier(weights)
    with pytest.raises(DistillError, match=r"student\.pt ends in \.pt; expected \.safetensors or \.onnx"):
        export(classifier, weights, tmp_path / "student.pt")
    (tmp_path / "there.onnx").write_bytes(b"mine")
    with pytest.raises(DistillError, match=r"there\.onnx exists; choose another name"):
        export(classifier, weights, tmp_path / "there.onnx")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(DistillError, match=r"ONNX needs onnx and onnxscript: pip install 'transferset\[onnx\]'"):
        export(classifier, weights, tmp_path / "student.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there.onnx"]
