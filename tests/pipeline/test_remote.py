"""Data that live elsewhere: a DVC remote on S3-compatible storage, by a server on this machine's loopback."""

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
