import functools
import gzip
import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision.datasets import CIFAR10, STL10, SVHN

from pipeline.core.errors import UserError
from pipeline.data import datasets, shards, splits
from pipeline.params.data import SETS
from pipeline.params.schema import Dataset

FASHION = Path(__file__).parents[2] / "data" / "FashionMNIST"
PUBLISHED = {"train": 60_000, "t10k": 10_000}


def params(**changes):
    given = {"name": "fashion-mnist", "path": str(FASHION), "train_size": 1000, "validation_size": 500}
    given |= dict.fromkeys(("image_size", "channels", "resize", "labels", "label_column", "test_size"))
    return Dataset(**given | {"labelled_size": 300, "spare_size": 0, "ceiling_size": 0, "seed": 0} | changes)


@pytest.fixture(scope="module")
def source():
    """The committed archives by the idx format alone: name -> (images uint8 (N, 28, 28), labels (N,))."""
    found = {}
    for name in PUBLISHED:
        images = gzip.decompress((FASHION / "raw" / f"{name}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((FASHION / "raw" / f"{name}-labels-idx1-ubyte.gz").read_bytes())
        pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
        found[name] = pixels, np.frombuffer(labels, np.uint8, offset=8)
    return found


@pytest.fixture(scope="module")
def load():
    """datasets.load, the archives read once."""
    with pytest.MonkeyPatch.context() as patch:
        reader = datasets._READERS["fashion-mnist"]
        read = functools.cache(lambda path: reader(params(path=path)))
        patch.setitem(datasets._READERS, "fashion-mnist", lambda params: read(params.path))
        yield lambda **changes: datasets.load(params(**changes))


def rows(real, code):
    return real.orig_index[real.split == code]


def test_the_committed_archives_are_the_published_set(source):
    for name, n in PUBLISHED.items():
        images, labels = source[name]
        assert (images.shape, np.bincount(labels).tolist()) == ((n, 28, 28), [n // 10] * 10)


def test_orig_index_leads_back_to_the_image_and_label_of_the_source(load, source):
    real = load()
    assert real.images.shape[1:] == (28, 28, 1)
    for codes, name in ((real.split != shards.TEST, "train"), (real.split == shards.TEST, "t10k")):
        images, labels = source[name]
        assert np.array_equal(real.images[codes][..., 0], images[real.orig_index[codes]])
        assert np.array_equal(real.labels[codes], labels[real.orig_index[codes]])
    assert (real.labels.dtype, real.source) == (np.int64, "fashion-mnist")
    assert real.classes[0] == "T-shirt/top"
    assert real.classes[9] == "Ankle boot"


def test_sizes_are_the_asked_ones_and_all_of_the_test_set_takes_part_in_its_order(load):
    real = load(train_size=1000, validation_size=500, labelled_size=1300)
    counts = np.bincount(real.split, minlength=4)
    assert counts.tolist() == [1000, 500, 10_000, 300]
    assert np.array_equal(rows(real, shards.TEST), np.arange(10_000))
    assert len(real.labelled_rows()) == 1300


@pytest.mark.parametrize("labelled", [300, 5000])
def test_no_image_is_in_two_splits(load, labelled):
    real = load(labelled_size=labelled)
    used = real.orig_index[real.split != shards.TEST]
    assert len(np.unique(used)) == len(used)


def test_validation_is_the_same_for_every_train_size_and_train_sets_are_nested(load):
    small, middle, large = (load(train_size=n) for n in (10, 250, 55_000 + 4500))
    for real in (small, middle):
        assert np.array_equal(rows(real, shards.VALIDATION), rows(large, shards.VALIDATION))
        n = len(rows(real, shards.TRAIN))
        assert np.array_equal(rows(real, shards.TRAIN), rows(large, shards.TRAIN)[:n])


def test_the_labelled_images_are_the_same_for_every_train_size(load):
    small, *others = (load(train_size=n) for n in (10, 300, 1000))
    for real in others:
        for name in ("images", "labels", "orig_index"):
            found, expected = (getattr(r, name)[r.labelled_rows()] for r in (real, small))
            assert np.array_equal(found, expected)


def test_another_seed_makes_another_split_and_the_same_seed_the_same(load):
    first, again, other = load(), load(), load(seed=1)
    assert np.array_equal(first.orig_index, again.orig_index)
    assert len(np.intersect1d(rows(first, shards.VALIDATION), rows(other, shards.VALIDATION))) < 50  # 500 of 60,000


def test_every_prefix_of_train_and_all_of_validation_hold_the_classes_in_proportion(load):
    real = load(train_size=3000, validation_size=500)
    _, labels = real.part(shards.TRAIN)
    counts = np.cumsum(labels[:, None] == np.arange(10), axis=0)
    assert np.abs(counts - np.arange(1, 3001)[:, None] / 10).max() <= 2
    assert np.bincount(real.part(shards.VALIDATION)[1]).tolist() == [50] * 10


def test_without_validation_all_images_may_be_learned_from(load):
    real = load(validation_size=0, train_size=60_000, labelled_size=60_000)
    counted = shards.counts(real)
    names = ("train", "labelled_only", "validation", "spare", "test")
    assert [counted[name] for name in names] == [60_000, 0, 0, 0, 10_000]
    images, labels = real.part(shards.VALIDATION)
    assert (images.shape, labels.shape) == ((0, 28, 28, 1), (0,))
    assert np.array_equal(np.sort(rows(real, shards.TRAIN)), np.arange(60_000))
    assert len(real.labelled_rows()) == 60_000
    few = load(validation_size=0, train_size=1000)
    assert np.array_equal(rows(few, shards.TRAIN), rows(real, shards.TRAIN)[:1000])
    with pytest.raises(UserError, match=r"train_size 60001 \+ validation_size 0 > 60000"):
        load(validation_size=0, train_size=60_001)


@pytest.mark.parametrize("known", [0, 40, 100])
def test_a_split_without_validation_holds_every_image_with_and_without_labels(known):
    """And those of which there are copies, which judge nothing."""
    labels, alone = np.full(100, -1), np.arange(100) >= 10
    labels[:known] = np.arange(known) % 4
    sizes = {"train_size": 100, "validation_size": 0, "labelled_size": known or 100}
    parts = dict(splits.split(params(**sizes), labels, alone)[0])
    assert {code: len(found) for code, found in parts.items()} == {
        shards.TRAIN: 100,
        shards.LABELLED: 0,
        shards.VALIDATION: 0,
        shards.SPARE: 0,
    }
    assert sorted(parts[shards.TRAIN]) == list(range(100))


@pytest.mark.parametrize("seed", range(3))
def test_prefixes_of_a_stratified_order_are_proportional_for_uneven_classes_too(seed):
    labels = np.repeat([4, 0, 7], [700, 90, 10])
    labels = labels[np.random.default_rng(seed).permutation(800)]
    order = splits.stratified_order(labels, seed)
    assert sorted(order) == list(range(800))
    for label, n in ((4, 700), (0, 90), (7, 10)):
        counts = np.cumsum(labels[order] == label)
        assert np.abs(counts - np.arange(1, 801) * n / 800).max() <= 2
    assert not np.array_equal(order, splits.stratified_order(labels, seed + 1))


def test_within_a_class_the_order_is_a_shuffle():
    order = splits.stratified_order(np.zeros(1000, np.int64), 0)
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1


@pytest.mark.parametrize("name", ["train_size", "labelled_size"])
def test_more_images_than_there_are_beside_validation_are_refused(load, name):
    load(validation_size=5000, **{name: 55_000})
    with pytest.raises(UserError, match=f"{name} 55001 .* 5000 > 60000") as caught:
        load(validation_size=5000, **{name: 55_001})
    assert caught.value.code == 2


def other_content(archive):
    payload = bytearray(gzip.decompress(archive))
    payload[1000] ^= 1
    return gzip.compress(payload)


def bad_deflate(archive):
    """A stream that zlib itself rejects."""
    return archive[:200] + bytes(b ^ 0xFF for b in archive[200:400]) + archive[400:]


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    "harm",
    [other_content, bad_deflate, lambda a: a[: len(a) // 2], lambda a: b"", lambda a: None],
    ids=["other content", "bad deflate", "truncated", "empty", "missing"],
)
def test_a_harmed_archive_is_refused_by_its_name(tmp_path, harm):
    (tmp_path / "raw").mkdir()
    for file in (FASHION / "raw").iterdir():
        (tmp_path / "raw" / file.name).symlink_to(file)
    victim = tmp_path / "raw" / "train-labels-idx1-ubyte.gz"
    harmed = harm(victim.read_bytes())
    victim.unlink()
    if harmed is not None:
        victim.write_bytes(harmed)
    with pytest.raises(UserError) as caught:
        datasets.load(params(path=str(tmp_path)))
    assert caught.value.code == 2
    assert str(caught.value).startswith(f"{victim}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="set the path to where it is"):
        datasets.load(params(path=str(tmp_path / "nowhere")))


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Fifty train and ten test images in the layout of cifar-10-batches-py, whose MD5s torchvision is told."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    planes = random.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)  # the archive's order: channels first
    labels = (np.arange(60) % 10).tolist()

    def put(name, content):
        payload = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(payload)
        return hashlib.md5(payload).hexdigest()

    def batch(k):
        chosen = slice(10 * k, 10 * k + 10)
        return {"data": planes[chosen].reshape(10, -1), "labels": labels[chosen]}

    train = [[name, put(name, batch(k))] for k, (name, _) in enumerate(CIFAR10.train_list)]
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", put("test_batch", batch(5))]])
    names = [f"class {i}" for i in range(10)]
    meta = CIFAR10.meta | {"md5": put("batches.meta", {"label_names": names})}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    wanted = params(name="cifar10", path=str(tmp_path), train_size=20, validation_size=10, labelled_size=30)
    return wanted, folder, planes, np.array(labels)


def test_cifar10_is_read_as_rgb_rows_with_its_labels(cifar):
    wanted, _, planes, labels = cifar
    real = datasets.load(wanted)
    for codes, first in ((real.split != shards.TEST, 0), (real.split == shards.TEST, 50)):
        source = first + real.orig_index[codes]
        assert np.array_equal(real.images[codes].transpose(0, 3, 1, 2), planes[source])
        assert np.array_equal(real.labels[codes], labels[source])
    assert np.bincount(real.split, minlength=4).tolist() == [20, 10, 10, 10]
    assert real.classes[3] == "class 3"


@pytest.mark.fault(29)
@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("fate", ["changed", "missing"])
def test_a_harmed_cifar10_is_refused_before_it_is_unpickled(cifar, name, fate, tmp_path):
    wanted, folder, _, _ = cifar
    if fate == "missing":
        (folder / name).unlink()
    else:
        marker = tmp_path / "marker"
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    with pytest.raises(UserError, match="MD5") as caught:
        datasets.load(wanted)
    assert caught.value.code == 2
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "marker").exists()


# --- sets with unlabelled images, spare images


def test_spare_images_are_of_no_other_part_and_change_none(load):
    without, with_spare = load(labelled_size=1300), load(labelled_size=1300, spare_size=2000)
    for code in (shards.TRAIN, shards.LABELLED, shards.VALIDATION, shards.TEST):
        assert np.array_equal(rows(with_spare, code), rows(without, code))
    spare = rows(with_spare, shards.SPARE)
    used = with_spare.orig_index[with_spare.split != shards.TEST]
    assert (len(spare), len(np.unique(used))) == (2000, len(used))
    counts = np.bincount(with_spare.part(shards.SPARE)[1])
    assert counts.min() >= 199  # the ten classes in proportion
    assert np.array_equal(with_spare.labelled_rows(), without.labelled_rows())


def test_more_spare_images_than_are_left_are_refused(load):
    assert (load(labelled_size=300, spare_size=58_500).split == shards.SPARE).sum() == 58_500
    with pytest.raises(UserError, match="spare_size 58501 > 58500 images that the other parts leave"):
        load(labelled_size=300, spare_size=58_501)


def test_ceiling_images_are_of_no_other_part_and_change_none(load):
    without, with_them = load(spare_size=2000), load(spare_size=2000, ceiling_size=3000)
    for code in (shards.TRAIN, shards.LABELLED, shards.VALIDATION, shards.SPARE, shards.TEST):
        assert np.array_equal(rows(with_them, code), rows(without, code))
    used = with_them.orig_index[with_them.split != shards.TEST]
    assert (len(rows(with_them, shards.CEILING)), len(np.unique(used))) == (3000, len(used))
    assert not shards.among(with_them.part(shards.CEILING)[0], without.images).any()
    assert np.bincount(with_them.part(shards.CEILING)[1]).min() >= 299  # the ten classes in proportion
    assert np.array_equal(rows(load(spare_size=2000, ceiling_size=1000), shards.CEILING), rows(with_them, 5)[:1000])


def test_no_ceiling_image_has_a_copy_in_another_part_or_among_themselves(load, monkeypatch):
    """A published set has copies, and a copy of a train image is no new image."""
    whole = datasets._READERS["fashion-mnist"](params())
    images = whole.train[0].copy()
    left = rows(load(ceiling_size=50), shards.CEILING)
    others = rows(load(), shards.TRAIN)[0], rows(load(), shards.VALIDATION)[0]
    images[left[3]], images[left[5]] = images[others[0]], images[others[1]]
    images[left[9]], images[left[11]] = whole.test[0][7], images[left[2]]
    monkeypatch.setitem(datasets._READERS, "fashion-mnist", lambda _: whole._replace(train=(images, whole.train[1])))
    found = rows(load(ceiling_size=46), shards.CEILING)
    assert found.tolist() == [row for k, row in enumerate(left) if k not in (3, 5, 9, 11)]


def test_more_ceiling_images_than_are_left_are_refused(load):
    with pytest.raises(UserError, match="ceiling_size 58001 > 58000 images that the other parts leave"):
        load(labelled_size=300, spare_size=500, ceiling_size=58_001)


def test_where_some_have_labels_validation_takes_of_those_and_train_takes_the_probes_first():
    labels = np.full(1000, -1)
    labels[np.random.default_rng(0).permutation(1000)[:100]] = np.arange(100) % 10
    sizes = {"train_size": 700, "validation_size": 20, "labelled_size": 75, "spare_size": 50}
    parts = dict(splits.split(params(**sizes), labels)[0])
    assert {code: len(found) for code, found in parts.items()} == {
        shards.TRAIN: 700,
        shards.LABELLED: 0,
        shards.VALIDATION: 20,
        shards.SPARE: 50,
    }
    assert np.bincount(labels[parts[shards.VALIDATION]]).tolist() == [2] * 10
    known = labels[parts[shards.TRAIN]]
    assert (known[:75] >= 0).all()
    assert np.bincount(known[:75]).max() - np.bincount(known[:75]).min() <= 1
    assert (known[75:] >= 0).sum() <= 5  # those of the 80 that neither validates nor probes, as the order has them
    few = dict(splits.split(params(**sizes | {"train_size": 50, "spare_size": 0}), labels)[0])
    assert (labels[few[shards.TRAIN]] >= 0).all()
    assert np.array_equal(few[shards.TRAIN], parts[shards.TRAIN][:50])
    assert np.array_equal(np.concatenate([few[shards.TRAIN], few[shards.LABELLED]]), parts[shards.TRAIN][:75])
    everything = np.concatenate(list(parts.values()))
    assert len(np.unique(everything)) == len(everything)
    with pytest.raises(UserError, match=r"labelled_size 81 .* 20 > 100 images with labels"):
        splits.split(params(**sizes | {"labelled_size": 81}), labels)


def digest(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_stl10_is_read_with_its_unlabelled_images(tmp_path, monkeypatch):
    folder = tmp_path / STL10.base_folder
    folder.mkdir()
    planes = np.random.default_rng(0).integers(0, 256, (60, 3, 96, 96), dtype=np.uint8)
    labels = (np.arange(60) % 10).astype(np.uint8)
    wanted = {"train": slice(0, 20), "unlabeled": slice(20, 50), "test": slice(50, 60)}
    for name, chosen in wanted.items():
        planes[chosen].transpose(0, 1, 3, 2).tofile(folder / f"{name}_X.bin")  # the archive stores column by column
        if name != "unlabeled":
            (labels[chosen] + 1).tofile(folder / f"{name}_y.bin")
    for part in ("train_list", "test_list"):
        listed = [[name, digest(folder / name)] for name, _ in getattr(STL10, part)]
        monkeypatch.setattr(STL10, part, listed)
    sizes = {"train_size": 40, "validation_size": 5, "labelled_size": 12}
    wanted = params(name="stl10", path=str(tmp_path), **sizes)
    real = datasets.load(wanted)
    for codes, first in ((real.split != shards.TEST, 0), (real.split == shards.TEST, 50)):
        source = first + real.orig_index[codes]
        assert np.array_equal(real.images[codes].transpose(0, 3, 1, 2), planes[source])
        expected = np.where((source >= 20) & (source < 50), -1, labels[source].astype(int))
        assert np.array_equal(real.labels[codes], expected)
    assert len(real.labelled_rows()) == 12
    assert len(real.classes) == 10
    (folder / "unlabeled_X.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"stl10 is not there or damaged \(MD5\) - `leaven fetch stl10`"):
        datasets.load(wanted)


def test_svhn_is_read_with_ten_as_the_digit_0_and_wants_scipy(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(30) % 10
    split_list = {}
    for name, chosen in (("train", slice(0, 20)), ("test", slice(20, 30))):
        file = f"{name}_32x32.mat"
        numbers = np.where(labels[chosen] == 0, 10, labels[chosen])[:, None].astype(np.uint8)
        scipy.io.savemat(tmp_path / file, {"X": images[chosen].transpose(1, 2, 3, 0), "y": numbers})
        split_list[name] = ["", file, digest(tmp_path / file)]
    monkeypatch.setattr(SVHN, "split_list", split_list)
    wanted = params(name="svhn", path=str(tmp_path), train_size=10, validation_size=5, labelled_size=12)
    real = datasets.load(wanted)
    for codes, first in ((real.split != shards.TEST, 0), (real.split == shards.TEST, 20)):
        source = first + real.orig_index[codes]
        assert np.array_equal(real.images[codes], images[source])
        assert np.array_equal(real.labels[codes], labels[source])
    assert real.classes == tuple("0123456789")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "scipy.io", None)
        with pytest.raises(UserError, match="needs scipy - pip install scipy"):
            datasets.load(wanted)
    (tmp_path / "test_32x32.mat").write_bytes(b"x")
    with pytest.raises(UserError, match="MD5"):
        datasets.load(wanted)


# --- folders of pictures


def picture(path, value, size=(12, 9), mode="L"):
    """A picture of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def folder(tmp_path, **changes):
    given = {"name": "folder", "path": str(tmp_path), "image_size": 8, "channels": 1, "resize": "crop", "test_size": 6}
    return datasets.load(params(**given | {"train_size": 8, "validation_size": 4, "labelled_size": 10} | changes))


def three_classes(root, each=10, first=0):
    """Class k of three has pictures of the values 60 k + i."""
    for k, name in enumerate(("cat", "dog", "eel")):
        for i in range(first, first + each):
            picture(root / name / f"{i:02}.png", 60 * k + i)


@pytest.mark.fault(35)
@pytest.mark.parametrize("copies", [1, 12])
def test_a_folder_with_test_images_among_the_others_is_refused_with_their_count_and_names(
    tmp_path, monkeypatch, copies
):
    """The same pixels under another name, of another format and in another class; many of them are in a file."""
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    root = tmp_path / "mine"
    three_classes(root / "train", each=20)
    three_classes(root / "test", each=2, first=20)
    for i in range(copies):
        picture(root / f"test/eel/x{i:02}.bmp", i)  # train/cat/
    pairs = [f"'train/cat/{i:02}.png' = 'test/eel/x{i:02}.bmp'" for i in range(copies)]
    with pytest.raises(UserError) as caught:
        folder(root, test_size=None, train_size=20, validation_size=10)
    first, _, rest = str(caught.value).partition(pairs[0])
    assert first.endswith(f"{copies} images to learn from are test images too: ")
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)
    if copies > 10:
        listed = tmp_path / "store/copies.txt"
        assert f"all of them: {listed} - " in rest
        assert listed.read_text().splitlines() == pairs


def test_pictures_that_are_there_twice_are_only_learned_from(tmp_path, capsys):
    """No copy of a validation, spare or drawn test image is anywhere else, whatever the seed."""
    three_classes(tmp_path, each=20)
    for i in range(8):
        picture(tmp_path / f"dog/again-{i:02}.bmp", 60 + i)
        picture(tmp_path / f"eel/again-{i:02}.png", i)  # of cat
    for seed in range(5):
        real = folder(
            tmp_path, train_size=30, validation_size=10, test_size=10, labelled_size=30, spare_size=5, seed=seed
        )
        assert "32 of 76 pictures equal another: they are for learning alone" in capsys.readouterr().err
        assert np.bincount(real.split, minlength=5).tolist()[:3] == [30, 10, 10]
        assert (real.split == shards.SPARE).sum() == 5
        value, count = np.unique(real.images[:, 0, 0, 0], return_counts=True)
        judges = np.isin(real.split, (shards.VALIDATION, shards.TEST, shards.SPARE))
        assert set(count[np.isin(value, real.images[judges][:, 0, 0, 0])]) == {1}
        assert len(np.unique(real.orig_index)) == len(real.images)
    with pytest.raises(UserError, match="test_size 45 > 44 pictures without a copy"):
        folder(tmp_path, test_size=45)
    with pytest.raises(UserError, match="validation_size 39 > 38 images without a copy"):
        folder(tmp_path, validation_size=39, test_size=6)


def test_copies_across_a_published_split_are_counted_and_taken(load, monkeypatch, capsys):
    """Others report on the split as it is. Fashion-MNIST has none."""
    real = load()
    assert "test images too" not in capsys.readouterr().err
    test = real.split == shards.TEST
    assert not shards.among(real.images[~test], real.images[test]).any()
    reader = datasets._READERS["fashion-mnist"]

    def with_copies(params):
        source = reader(params)
        images, labels = source.test[0].copy(), source.test[1]
        images[:3] = source.train[0][splits.split(params, source.train[1])[0][0][1][:3]]
        return source._replace(test=(images, labels))

    monkeypatch.setitem(datasets._READERS, "fashion-mnist", with_copies)
    real = load()
    assert "3 images of fashion-mnist are test images too" in capsys.readouterr().err
    test = real.split == shards.TEST
    assert np.flatnonzero(shards.among(real.images, real.images[test])).tolist()[:3] == [0, 1, 2]
    assert shards.among(real.images[~test], real.images[test]).sum() == 3


def test_class_folders_give_labels_and_test_images_are_split_off_in_proportion(tmp_path):
    three_classes(tmp_path)
    real = folder(tmp_path)
    assert real.classes == ("cat", "dog", "eel")
    values = real.images[:, 0, 0, 0].astype(int)
    assert np.array_equal(values // 60, real.labels)
    assert np.array_equal(real.orig_index, 10 * (values // 60) + values % 60)  # rows of the sorted list of files
    assert np.bincount(real.part(shards.TEST)[1]).tolist() == [2, 2, 2]
    assert np.bincount(real.split).tolist() == [8, 4, 6, 2]
    assert len(np.unique(real.orig_index)) == 20  # no picture is in two parts
    other = folder(tmp_path, seed=1)
    assert not np.array_equal(rows(other, shards.TEST), rows(real, shards.TEST))


def test_classes_and_the_rarest_and_commonest_of_them_are_counted(tmp_path):
    """Over all that takes part; nothing is said of classes where there are none."""
    for name, n in {"cat": 5, "dog": 12, "eel": 9}.items():
        for i in range(n):
            picture(tmp_path / "mine" / name / f"{i}.png", 9 * n + i)
            picture(tmp_path / "flat" / f"{name}{i}.png", 9 * n + i)
    found = shards.counts(folder(tmp_path / "mine", train_size=16, labelled_size=16))
    assert {name: found[name] for name in ("classes", "rarest_class", "commonest_class")} == {
        "classes": 3,
        "rarest_class": 5,
        "commonest_class": 12,
    }
    assert {"classes": 0}.items() <= shards.counts(folder(tmp_path / "flat")).items()
    assert "rarest_class" not in shards.counts(folder(tmp_path / "flat"))


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    three_classes(tmp_path / "train")
    three_classes(tmp_path / "test", each=2, first=20)
    real = folder(tmp_path, test_size=None)
    assert real.part(shards.TEST)[1].tolist() == [0, 0, 1, 1, 2, 2]
    assert np.bincount(real.split).tolist() == [8, 4, 6, 2]


def test_pictures_without_class_folders_have_no_labels(tmp_path):
    for i in range(20):
        picture(tmp_path / f"{i:02}.png", (i, 2 * i, 3 * i), mode="RGB")
    real = folder(tmp_path, channels=3)
    assert (real.labels == -1).all()
    assert np.array_equal(real.images[:, 0, 0], real.orig_index[:, None] * [1, 2, 3])


def lone_test_image(folder: Path) -> None:
    """Of the class folders train/ is made, and test/ of one picture of the first."""
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        (folder / "train").mkdir(exist_ok=True)
        path.rename(folder / "train" / path.name)
    picture(folder / "test/cat/0.png", 3)


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("harm", "says", "changes"),
    [
        (lambda f: picture(f / "lone.png", 3), r"1 pictures lie beside class folders: lone\.png", {}),
        (lambda f: (f / "cat/00.png").write_bytes(b"x"), r"cat/00\.png: not readable as a picture", {}),
        (lambda f: None, "test_size 30 >= 30 pictures", {"test_size": 30}),
        (lambda f: lone_test_image(f), "test/ holds 1 pictures: two at least", {"test_size": None}),
        (lambda f: picture(f / "a\nb/0.png", 3), r"class folders 'a\\nb' have characters that do not print", {}),
        (lambda f: [(f / part).mkdir() for part in ("train", "test")], "set test_size to null", {}),
        (lambda f: None, "test_size is null, and there is neither train/ nor test/", {"test_size": None}),
        (lambda f: (f / "train").mkdir(), "test: not found - make it, or set test_size", {"test_size": None}),
        (lambda f: None, "train_size 21 .* 4 > 24 images", {"train_size": 21}),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, harm, says, changes):
    three_classes(tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=says) as caught:
        folder(tmp_path, **changes)
    assert caught.value.code == 2


def test_a_test_class_that_train_does_not_have_is_refused(tmp_path):
    three_classes(tmp_path / "train")
    three_classes(tmp_path / "test")
    picture(tmp_path / "test/fox/0.png", 1)
    with pytest.raises(UserError, match=r"fox: no class of train/"):
        folder(tmp_path, test_size=None)
    (tmp_path / "empty/train").mkdir(parents=True)
    (tmp_path / "empty/test").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        folder(tmp_path / "empty", test_size=None)


def test_tiny_imagenets_size_is_that_of_the_rules():
    assert datasets.TINY_IMAGENET[:3] == SETS["tiny-imagenet"]


def test_tiny_imagenet_is_read_as_its_archive_unpacks(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "TINY_IMAGENET", (64, 3, 20, 6))
    for k, name in enumerate(("n01", "n02")):
        for i in range(10):
            picture(tmp_path / f"train/{name}/images/{name}_{i}.JPEG", 100 * k + i, size=(64, 64))
        (tmp_path / f"train/{name}/{name}_boxes.txt").write_text("boxes")
    notes = []
    for i in range(6):
        picture(tmp_path / f"val/images/val_{i}.JPEG", 100 * (i % 2), size=(64, 64))
        notes.append(f"val_{i}.JPEG\tn0{1 + i % 2}\t0\t0\t62\t62\n")
    (tmp_path / "val/val_annotations.txt").write_text("".join(notes))
    sizes = {"train_size": 10, "validation_size": 4, "labelled_size": 6}
    real = datasets.load(params(name="tiny-imagenet", path=str(tmp_path), **sizes))
    assert real.images.shape == (20, 64, 64, 3)
    assert real.classes == ("n01", "n02")
    assert np.array_equal(real.images[:, 5, 5, 0] // 90, real.labels)
    assert real.part(shards.TEST)[1].tolist() == [0, 1, 0, 1, 0, 1]
    (tmp_path / "val/val_annotations.txt").write_text("".join(notes[:-1]))
    with pytest.raises(UserError, match=r"says None of val_5\.JPEG"):
        datasets.load(params(name="tiny-imagenet", path=str(tmp_path), **sizes))
    (tmp_path / "val/images/val_5.JPEG").unlink()
    with pytest.raises(UserError, match=r"20 pictures in train/, 5 in val/images/, not 20 and 6"):
        datasets.load(params(name="tiny-imagenet", path=str(tmp_path), **sizes))
