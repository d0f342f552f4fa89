"""Data that live elsewhere: a DVC remote on S3-compatible storage, by a server on this machine's loopback."""

import shutil
import socket
import subprocess
import sys
import time

import pytest

from tests.pipeline import clones

pytestmark = pytest.mark.slow
BUCKET = "leaven"


@pytest.fixture
def storage(monkeypatch, tmp_path):
    """The address of an empty S3 server (moto); credentials for it in the environment, and no others."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.1)
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket=BUCKET)
        yield address, client
    finally:
        server.kill()
        server.wait()


def test_what_is_pushed_is_pulled_elsewhere_and_needs_no_run(base, storage, tmp_path):
    address, client = storage
    ours = clones.copy(base.clone, tmp_path / "ours")
    clones.run(ours, "dvc", "remote", "add", "--default", "storage", f"s3://{BUCKET}/leaven")
    clones.run(ours, "dvc", "remote", "modify", "storage", "endpointurl", address)
    clones.commit(ours, "A remote")
    clones.run(ours, "dvc", "push")
    objects = client.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert all(entry["Key"].startswith("leaven/files/md5/") for entry in objects)

    theirs = clones.fresh(ours, tmp_path / "theirs")
    assert not (theirs / "data/encoder").exists()
    clones.run(theirs, "dvc", "pull")
    made = {name: digest for name, digest in clones.digests(ours).items() if name != "data/params.ok"}
    assert clones.digests(theirs) == made
    clones.run(theirs, "dvc", "repro")
    assert set(clones.starts(clones.counts(theirs))) <= {"check"}  # whose output is no data
    assert clones.run(theirs, "git", "status", "--porcelain") == ""

    (theirs / "data/encoder/encoder.safetensors").unlink()
    clones.run(theirs, "dvc", "checkout")
    assert clones.digests(theirs, "data/encoder") == clones.digests(ours, "data/encoder")


@pytest.fixture
def hub(base, storage, tmp_path):
    """A clone with images and generator pushed: its data to storage, its commits to a bare repository."""
    ours, hub = clones.copy(base.clone, tmp_path / "ours"), tmp_path / "hub.git"
    clones.run(ours, "git", "init", "--quiet", "--bare", "--initial-branch=main", str(hub))
    clones.run(ours, "git", "remote", "add", "origin", str(hub))
    clones.run(ours, "dvc", "remote", "add", "--default", "storage", f"s3://{BUCKET}/leaven")
    clones.run(ours, "dvc", "remote", "modify", "storage", "endpointurl", storage[0])
    clones.commit(ours, "A remote")
    clones.run(ours, "git", "push", "--quiet", "origin", "main")
    clones.run(ours, "dvc", "push")
    return ours


def worker(hub, place):
    """A machine that sees nothing of the hub's folder: a clone with a store of its own."""
    there = clones.fresh(hub, place)
    clones.run(there, "git", "remote", "set-url", "origin", str(hub.parent / "hub.git"))
    clones.run(there, "dvc", "pull")
    return there


RUN = ("python", "-m", "pipeline", "run", "-n", "far", "-S", "pretrain.seed=1")


def test_a_worker_without_the_file_system_hands_its_experiment_over(hub, tmp_path):
    far = worker(hub, tmp_path / "far")
    clones.run(far, *RUN)
    assert {"generator", "generate"}.isdisjoint(clones.starts(clones.counts(far)))
    clones.run(far, "dvc", "exp", "push", "origin", "far")
    made = clones.digests(far)
    shutil.rmtree(far)
    clones.run(hub, "dvc", "exp", "pull", "origin", "far")
    clones.run(hub, "dvc", "exp", "apply", "far")
    clones.run(hub, "dvc", "repro")
    assert set(clones.starts(clones.counts(hub))) <= {"check"}
    assert clones.digests(hub) == made


def test_a_worker_goes_on_from_the_checkpoint_that_a_lost_one_left_in_storage(hub, storage, tmp_path):
    import s3fs

    place, lost = f"{BUCKET}/store", worker(hub, tmp_path / "lost")
    clones.killed_at(lost, "pretrain.steps:7", *RUN)
    files = s3fs.S3FileSystem(endpoint_url=storage[0])
    files.put(f"{lost / '.cache'}/", place, recursive=True)
    shutil.rmtree(lost)
    far = worker(hub, tmp_path / "far")
    files.get(f"{place}/", str(far / ".cache"), recursive=True)
    clones.counts(lost)
    clones.run(far, *RUN)
    assert clones.counts(far)["pretrain.steps"] == 12 - 4
    straight = worker(hub, tmp_path / "straight")
    clones.run(straight, *RUN)
    assert clones.counts(straight)["pretrain.steps"] == 12
    assert clones.digests(far) == clones.digests(straight)


def test_another_repository_gets_the_encoder_by_its_name_and_by_its_path(base, tmp_path):
    """From a remote that is a folder; without running anything, and without Leaven."""
    ours = clones.copy(base.clone, tmp_path / "ours")
    clones.run(ours, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    clones.commit(ours, "A remote")
    clones.run(ours, "dvc", "push")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    clones.run(theirs, "git", "init", "--quiet")
    for name in ("encoder", "generator"):
        clones.run(ours, "git", "tag", "--annotate", f"{name}@v1.0.0", "--message", "The first")
    clones.run(theirs, "dvc", "artifacts", "get", str(ours), "encoder", "--out", "named")
    clones.run(theirs, "dvc", "get", str(ours), "data/encoder", "--out", "pathed")
    for folder in ("named", "pathed"):
        got = {path.name: clones.sha256(path) for path in (theirs / folder).iterdir()}
        assert got == {path.name: clones.sha256(path) for path in (ours / "data/encoder").iterdir()}
    program = (
        "import sys; sys.modules['pipeline'] = None\n"
        "import dvc.api, io, json, safetensors.torch\n"
        f"card = json.loads(dvc.api.read('data/encoder/card.json', repo={str(ours)!r}, rev='main'))\n"
        f"weights = dvc.api.read('data/encoder/encoder.safetensors', repo={str(ours)!r}, rev='main', mode='rb')\n"
        "print(card['method'], safetensors.torch.load(weights)['conv1.weight'].shape[0])"
    )
    assert clones.run(theirs, "python", "-c", program).splitlines()[-1] == "simclr 8"
    wanted = ("generator", "--rev", "v1.0.0", "--out", "generator")
    listed = clones.run(theirs, "dvc", "artifacts", "get", str(ours), *wanted)
    assert (theirs / "generator/card.json").exists(), listed
