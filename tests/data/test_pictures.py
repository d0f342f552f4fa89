"""Pictures as people have them: every mode is checked against numbers worked out by hand or by NumPy."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.data import pictures

LUMA = np.array([0.299, 0.587, 0.114])


def save(path, picture, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def refused(path, match, **wanted):
    with pytest.raises(UserError, match=match) as caught:
        pictures.read(path, **{"size": 8, "channels": 3} | wanted)
    assert caught.value.code == 2
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_rgb_of_the_right_size_comes_through_untouched(tmp_path):
    pixels = noise(8, 8, 3)
    for ending in ("png", "bmp", "tiff"):
        path = save(tmp_path / f"a.{ending}", Image.fromarray(pixels))
        assert np.array_equal(pictures.read(path, 8, 3), pixels)


def test_grey_becomes_three_equal_channels_and_colour_becomes_luma(tmp_path):
    grey, colour = noise(8, 8), noise(8, 8, 3, seed=1)
    three = pictures.read(save(tmp_path / "grey.png", Image.fromarray(grey)), 8, 3)
    assert np.array_equal(three, np.repeat(grey[..., None], 3, axis=2))
    one = pictures.read(save(tmp_path / "colour.png", Image.fromarray(colour)), 8, 1)
    assert one.shape == (8, 8, 1)
    assert np.abs(one[..., 0] - colour @ LUMA).max() <= 1


def test_transparency_lies_on_white(tmp_path):
    pixels = noise(8, 8, 4)
    pixels[0, 0, 3], pixels[0, 1, 3] = 0, 255
    found = pictures.read(save(tmp_path / "a.png", Image.fromarray(pixels)), 8, 3)
    share = pixels[..., 3:] / 255
    assert np.abs(found - (share * pixels[..., :3] + (1 - share) * 255)).max() <= 1
    assert found[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(found[0, 1], pixels[0, 1, :3])
    faint = Image.fromarray(np.dstack([np.full((8, 8), 10, np.uint8), np.zeros((8, 8), np.uint8)]), "LA")
    assert (pictures.read(save(tmp_path / "la.png", faint), 8, 1) == 255).all()


def test_a_palette_is_looked_up_with_its_transparent_colour_on_white(tmp_path):
    picture = Image.new("P", (8, 8))
    picture.putpalette([10, 20, 30, 200, 100, 50, 7, 8, 9])
    picture.putdata([i % 3 for i in range(64)])
    colours = np.array([[10, 20, 30], [200, 100, 50], [7, 8, 9]], np.uint8)
    expected = colours[np.arange(64) % 3].reshape(8, 8, 3)
    assert np.array_equal(pictures.read(save(tmp_path / "p.png", picture), 8, 3), expected)
    expected[expected[..., 0] == 200] = 255
    assert np.array_equal(pictures.read(save(tmp_path / "t.png", picture, transparency=1), 8, 3), expected)


@pytest.mark.fault(24)
def test_sixteen_bits_are_divided_by_257_and_rounded(tmp_path):
    values = np.random.default_rng(0).integers(0, 65_536, (8, 8)).astype(np.uint16)
    values[0, :4] = [0, 65_535, 257 * 77, 128]
    for ending in ("png", "tiff"):
        found = pictures.read(save(tmp_path / f"a.{ending}", Image.fromarray(values)), 8, 1)[..., 0]
        assert np.abs(found - values / 257).max() <= 0.5
        assert found[0, :4].tolist() == [0, 255, 77, 0]


@pytest.mark.fault(24)
def test_black_and_white_and_cmyk(tmp_path):
    bits = noise(8, 8) > 128
    found = pictures.read(save(tmp_path / "bits.png", Image.fromarray(bits)), 8, 1)
    assert np.array_equal(found[..., 0], np.where(bits, 255, 0))
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    red = pictures.read(save(tmp_path / "ink.tiff", ink), 8, 3)[0, 0].astype(int)
    assert red[0] > 200
    assert red[1] < 60
    assert red[2] < 60
    found = pictures.read(save(tmp_path / "ink.jpg", ink), 8, 3)[4, 4].astype(int)
    assert np.abs(found - red).max() <= 10


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a.transpose(1, 0, 2)[::-1, ::-1]),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation_is_obeyed(tmp_path, orientation, turn):
    pixels, exif = noise(8, 8, 3), Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", Image.fromarray(pixels), exif=exif)
    assert np.array_equal(pictures.read(path, 8, 3), turn(pixels))


def test_odd_metadata_does_not_hinder(tmp_path):
    pixels = noise(8, 8, 3)
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0)  # orientation 3
    resolution = struct.pack("<HHI4s", 0x011A, 2, 3, b"72")  # which is to be a fraction, and this is text
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turned + resolution + b"\0\0\0\0"
    path = save(tmp_path / "a.jpg", Image.fromarray(pixels), exif=exif, quality=100, subsampling=0)
    assert np.abs(pictures.read(path, 8, 3).astype(int) - pixels[::-1, ::-1]).mean() < 4


def test_the_shorter_side_is_resized_and_the_middle_cut_out(tmp_path):
    """Vertical bars six pixels wide, 36 x 12: the middle twelve columns are bars three and four, halved in size."""
    bars = np.repeat(np.array([0, 50, 100, 150, 200, 250], np.uint8), 6)
    path = save(tmp_path / "a.png", Image.fromarray(np.tile(bars, (12, 1))))
    found = pictures.read(path, 6, 1)[..., 0]
    assert np.abs(found.astype(int) - [100, 100, 100, 150, 150, 150]).max() <= 6  # the cubic overshoots at the step
    assert (found == found[0]).all()
    upright = save(tmp_path / "b.png", Image.fromarray(np.tile(bars, (12, 1)).T.copy()))
    assert np.array_equal(pictures.read(upright, 6, 1)[..., 0], found.T)


def test_fine_patterns_are_averaged_and_small_pictures_enlarged(tmp_path):
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found = pictures.read(save(tmp_path / "a.png", Image.fromarray(board)), 8, 1)
    assert np.abs(found.astype(int) - 128).max() <= 2
    plain = Image.new("L", (3, 2), 77)
    assert (pictures.read(save(tmp_path / "b.png", plain), 8, 1) == 77).all()


def png(width, height, payload=b""):
    """A PNG whose header says so, whatever the payload."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(payload)) + chunk(b"IEND", b"")


@pytest.mark.fault(24)
def test_what_cannot_be_read_is_refused_by_its_name(tmp_path):
    good = save(tmp_path / "good.jpg", Image.fromarray(noise(64, 64, 3))).read_bytes()
    for name, content in {
        "empty.png": b"",
        "text.jpg": b"hello",
        "cut.jpg": good[: len(good) // 2],
        "cut.png": png(8, 8, b"\0" * 20),
        "bomb.png": png(20_000, 20_000),
        "large.png": png(11_000, 10_000),
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, r"not readable as a picture|more than 100,000,000")
    save(tmp_path / "float.tiff", Image.fromarray(np.zeros((8, 8), np.float32)))
    refused(tmp_path / "float.tiff", "floating-point")
    save(tmp_path / "deep.tiff", Image.fromarray(np.full((8, 8), 70_000, np.int32)))
    refused(tmp_path / "deep.tiff", "more than 16 bits")
    frames = [Image.fromarray(noise(8, 8, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    refused(tmp_path / "film.gif", "has 3 frames")


@pytest.mark.fault(24)
@pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO", "TGA", "PDF"])
def test_no_other_format_is_decoded_whatever_the_name_says(tmp_path, kind):
    """Pillow goes by the content, and gives PostScript to another program."""
    save(tmp_path / f"a.{kind.lower()}", Image.fromarray(noise(16, 16, 3)))
    content = (tmp_path / f"a.{kind.lower()}").read_bytes()
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", "not readable as a picture: cannot identify")


@pytest.mark.fault(24)
def test_pipes_and_links_that_go_round_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: no file that can be read"):
        pictures.find(tmp_path)
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    with pytest.raises(UserError, match=r"round\.png: (a link that leads out|no file that can be read)"):
        pictures.find(tmp_path)


def test_pictures_are_found_in_the_order_of_their_bytes_and_the_rest_is_named(tmp_path, capsys):
    for name in ("b/2.png", "b/10.png", "B/1.PNG", "ä/1.jpeg", "a.gif"):
        save(tmp_path / name, Image.new("L", (8, 8)))
    for name in ("b/notes.txt", ".hidden.png", ".cache/3.png", "b/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [path.relative_to(tmp_path).as_posix() for path in pictures.find(tmp_path)]
    assert found == ["B/1.PNG", "a.gif", "b/10.png", "b/2.png", "ä/1.jpeg"]
    assert "2 files are no pictures and are left out (Thumbs.db, notes.txt)" in capsys.readouterr().err


@pytest.mark.fault(24)
def test_links_that_lead_out_and_links_to_folders_are_refused(tmp_path):
    outside = save(tmp_path / "outside/a.png", Image.new("L", (8, 8)))
    folder = tmp_path / "in"
    save(folder / "b.png", Image.new("L", (8, 8)))
    (folder / "c.png").symlink_to(folder / "b.png")
    assert len(pictures.find(folder)) == 2
    (folder / "a.png").symlink_to(outside)
    with pytest.raises(UserError, match=r"a\.png: a link that leads out of the folder"):
        pictures.find(folder)
    (folder / "a.png").unlink()
    (folder / "more").symlink_to(outside.parent)
    with pytest.raises(UserError, match="more: a link to a folder"):
        pictures.find(folder)


def test_all_are_read_in_order(tmp_path):
    paths = [save(tmp_path / f"{i}.png", Image.new("L", (8, 8), 10 * i)) for i in range(3)]
    found = pictures.read_all(paths, 8, 1)
    assert found.shape == (3, 8, 8, 1)
    assert found[:, 0, 0, 0].tolist() == [0, 10, 20]


@pytest.mark.parametrize(("size", "channels"), [(24, 1), (8, 3), (20, 1), (20, 3)])
@pytest.mark.parametrize("given", [1, 3])
def test_images_of_named_sets_go_by_the_rule_of_pictures(size, channels, given, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 20, given), dtype=np.uint8)
    found = pictures.resized(images, size, channels)
    for i, image in enumerate(images):
        path = tmp_path / f"{i}.png"
        Image.fromarray(image.squeeze(2) if given == 1 else image).save(path)
        assert np.array_equal(found[i], pictures.read(path, size, channels))


def test_images_that_fit_are_left_alone():
    images = np.zeros((3, 20, 20, 1), np.uint8)
    assert pictures.resized(images, 20, 1) is images
