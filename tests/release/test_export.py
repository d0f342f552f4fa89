"""What goes out of the door is used here without Leaven: in processes that cannot import it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.networks import backbones
from pipeline.params.schema import Backbone
from pipeline.release import export

TIMM = dict.fromkeys(Backbone.model_fields) | {"kind": "timm"}
FORMS = {
    "default": (backbones.resnet(24, [1, 1, 1, 1]), 28),
    "bottlenecks": (backbones.resnet(8, [1, 2, 1, 1], "bottleneck", "7x7"), 32),
    "pool": (backbones.resnet(8, [1, 1, 1, 1], "basic", "3x3-pool"), 32),
    "vit": (backbones.vit(16, 1, 2, 4), 16),
    "timm": (Backbone(**TIMM | {"name": "mobilenetv3_small_050"}), 32),
    "timm of one size": (Backbone(**TIMM | {"name": "vit_tiny_patch16_224"}), 32),
}
AUGMENT = {"family": "symmetric", "form": "grey", "strength": 2.0}
FACTS = {"n_real": 50, "n_generated": 50, "beta": 0.5, "real_passes": 3.0, "method": "simclr", "data": "digits"}
ALONE = "import sys; sys.modules['pipeline'] = None\n"  # `import pipeline` fails from here on


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder without the repository's metrics."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=FORMS)
def made(request, tmp_path):
    """An encoder's folder, and the encoder, after some training."""
    form, size = FORMS[request.param]
    encoder = backbones.build(form, [0.3], [0.4], 0, size)
    encoder.train()(torch.rand(4, 1, size, size)).square().mean().backward()
    torch.optim.SGD(encoder.parameters(), lr=0.05).step()
    backbones.save(encoder, tmp_path / "encoder", augment=AUGMENT, resize="crop", **FACTS)
    return tmp_path / "encoder", backbones.load(tmp_path / "encoder"), size


def alone(folder, program):
    """Run a program in a process without Leaven; what it prints."""
    line = [sys.executable, "-c", ALONE + program]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def features(encoder, folder, size, n=5):
    """Images in folder/images.npy, and the encoder's features of them."""
    images = torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(3))
    np.save(folder / "images.npy", images.numpy())
    with torch.no_grad():
        return encoder(images).numpy()


def close(found, expected):
    return np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_torch_alone_runs_a_pt2_for_any_batch(made, tmp_path):
    folder, encoder, size = made
    assert export.export(folder, tmp_path / "encoder.pt2") == encoder.width
    expected = features(encoder, tmp_path, size)
    alone(
        tmp_path,
        "import numpy as np, torch\n"
        "model = torch.export.load('encoder.pt2').module()\n"
        "np.save('found.npy', model(torch.from_numpy(np.load('images.npy'))).numpy())",
    )
    assert close(np.load(tmp_path / "found.npy"), expected)


def test_onnxruntime_runs_an_onnx_file_for_any_batch(made, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, encoder, size = made
    assert export.export(folder, tmp_path / "encoder.onnx") == encoder.width
    expected = features(encoder, tmp_path, size)
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    (given,), (out,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape[1:], out.name) == ("images", [1, size, size], "features")
    assert close(session.run(None, {"images": np.load(tmp_path / "images.npy")})[0], expected)
    assert [path.name for path in tmp_path.glob("encoder.onnx*")] == ["encoder.onnx"]


def test_the_lines_of_the_model_card_load_the_folder_without_leaven(made, tmp_path):
    folder, encoder, size = made
    assert export.export(folder, tmp_path / "out") == encoder.width
    expected = features(encoder, tmp_path / "out", size)
    card = (tmp_path / "out/README.md").read_text()
    lines = card.split("```python\n")[1].split("```")[0]
    assert len(lines.splitlines()) <= 14
    own = "\n".join(line for line in lines.splitlines() if not line.startswith("images ="))
    given = "import numpy, torch\nimages = torch.from_numpy(numpy.load('images.npy'))\n"
    alone(tmp_path / "out", f"{given}{own}\nnumpy.save('found.npy', features.detach().numpy())")
    assert close(np.load(tmp_path / "out/found.npy"), expected)
    assert lines.count("images = ") == 1
    assert "These weights were not evaluated." in card
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["leaven"]["sha256"] == files.sha256(tmp_path / "out/model.safetensors")


def test_timm_itself_takes_the_folder_of_its_network(tmp_path):
    timm = pytest.importorskip("timm")
    form, size = FORMS["timm of one size"]
    encoder = backbones.build(form, [0.3], [0.4], 0, size)
    backbones.save(encoder, tmp_path / "encoder", augment=AUGMENT, resize=None, **FACTS)
    export.export(tmp_path / "encoder", tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x = torch.rand(2, 1, size, size)
    with torch.no_grad():
        assert torch.allclose(model((x - 0.3) / 0.4), encoder.eval()(x), rtol=1e-4, atol=1e-5)
    assert (model.pretrained_cfg["mean"], model.num_classes) == ([0.3], 0)


def test_the_card_has_the_numbers_of_these_weights_and_of_no_others(tmp_path):
    encoder = backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.3], [0.4], 0, 12)
    backbones.save(encoder, tmp_path / "encoder", augment=AUGMENT, resize=None, **FACTS)
    digest = files.sha256(tmp_path / "encoder/encoder.safetensors")
    numbers = {"top1": 85.136, "top1_low": 84.4, "top1_high": 85.8, "top1_labelled": 86.0, "pixels": 82.5}
    protocol = {"encoder_sha256": digest, "fixed_labels": 10_000, "train_labels": 5000, "test_images": 10_000}
    files.write_json(tmp_path / "metrics/linear_eval.json", numbers)
    for its, row in ((digest, "| linear probe | 85.14 |"), ("0" * 64, "The evaluation at hand was of other weights.")):
        files.write_json(tmp_path / "metrics/linear_eval.protocol.json", protocol | {"encoder_sha256": its})
        export.export(tmp_path / "encoder", tmp_path / "out")
        card = (tmp_path / "out/README.md").read_text()
        assert row in card
        assert ("| linear probe, 10,000 labels | 86.00 |" in card) == (its == digest)
    assert "50 real images and 50 generated ones" in card.replace("\n", " ")
    few = protocol | {"few_labels": {"1pct": 200, "10pct": 1000}}  # 200 classes: one label of each
    files.write_json(tmp_path / "metrics/linear_eval.json", numbers | {"top1_1pct": 61.5, "top1_10pct": 77.25})
    files.write_json(tmp_path / "metrics/linear_eval.protocol.json", few)
    backbones.save(encoder, tmp_path / "encoder", augment=AUGMENT, resize=None, candidates=4, **FACTS)
    export.export(tmp_path / "encoder", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "| linear probe, 200 labels | 61.50 |" in card
    assert "| linear probe, 1,000 labels | 77.25 |" in card
    assert "50 generated ones, with 4 generated positives of each real one" in card.replace("\n", " ")
    files.write_json(tmp_path / "metrics/linear_eval.protocol.json", protocol)
    export.export(tmp_path / "encoder", tmp_path / "out")
    assert "The evaluation at hand was made by older code." in (tmp_path / "out/README.md").read_text()


def test_what_cannot_be_is_refused_in_a_line(tmp_path):
    encoder = backbones.build(backbones.resnet(5, [1, 1, 1, 1]), [0.3], [0.4], 0, 12)
    backbones.save(encoder, tmp_path / "encoder", augment=AUGMENT, resize=None, **FACTS)
    with pytest.raises(UserError, match=r"odd width 5 - export to \.pt2"):
        export.export(tmp_path / "encoder", tmp_path / "out")
    for name in ("encoder.pth", "encoder.safetensors"):
        with pytest.raises(UserError, match=r"end it in \.pt2 or \.onnx, or name a folder"):
            export.export(tmp_path / "encoder", tmp_path / name)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("Mine.")
    with pytest.raises(UserError, match=r"holds a README\.md of something else"):
        export.export(tmp_path / "encoder", tmp_path / "mine")
    assert (tmp_path / "mine/README.md").read_text() == "Mine."
    with pytest.raises(UserError, match="no encoder yet"):
        export.export(tmp_path / "none", tmp_path / "encoder.pt2")


def test_a_graph_that_computes_something_else_is_never_kept(tmp_path, monkeypatch):
    encoder = backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.3], [0.4], 0, 12)
    backbones.save(encoder, tmp_path / "encoder", augment=AUGMENT, resize=None, **FACTS)
    plain = export._Plain.forward
    monkeypatch.setattr(export._Plain, "forward", lambda self, images: 1.001 * plain(self, images))
    with pytest.raises(RuntimeError, match=r"differ by 0\.001"):
        export.export(tmp_path / "encoder", tmp_path / "encoder.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
