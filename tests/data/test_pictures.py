"""Pictures as people have them: every mode is checked against numbers worked out by hand or by NumPy."""

import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from tqdm import tqdm

from pipeline.core import links
from pipeline.core.errors import UserError, UserErrors
from pipeline.data import decoding, pictures

LUMA = np.array([0.299, 0.587, 0.114])


def save(path, picture, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def read(path, size, channels):
    return pictures.read_all([path], size, channels)[0]


def refused(path, match, **wanted):
    with pytest.raises(UserError, match=match) as caught:
        read(path, **{"size": 8, "channels": 3} | wanted)
    assert caught.value.code == 2
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_rgb_of_the_right_size_comes_through_untouched(tmp_path):
    pixels = noise(8, 8, 3)
    for ending in ("png", "bmp", "tiff"):
        path = save(tmp_path / f"a.{ending}", Image.fromarray(pixels))
        assert np.array_equal(read(path, 8, 3), pixels)


def test_grey_becomes_three_equal_channels_and_colour_becomes_luma(tmp_path):
    grey, colour = noise(8, 8), noise(8, 8, 3, seed=1)
    three = read(save(tmp_path / "grey.png", Image.fromarray(grey)), 8, 3)
    assert np.array_equal(three, np.repeat(grey[..., None], 3, axis=2))
    one = read(save(tmp_path / "colour.png", Image.fromarray(colour)), 8, 1)
    assert one.shape == (8, 8, 1)
    assert np.abs(one[..., 0] - colour @ LUMA).max() <= 1


def test_transparency_lies_on_white(tmp_path):
    pixels = noise(8, 8, 4)
    pixels[0, 0, 3], pixels[0, 1, 3] = 0, 255
    found = read(save(tmp_path / "a.png", Image.fromarray(pixels)), 8, 3)
    share = pixels[..., 3:] / 255
    assert np.abs(found - (share * pixels[..., :3] + (1 - share) * 255)).max() <= 1
    assert found[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(found[0, 1], pixels[0, 1, :3])
    faint = Image.fromarray(np.dstack([np.full((8, 8), 10, np.uint8), np.zeros((8, 8), np.uint8)]), "LA")
    assert (read(save(tmp_path / "la.png", faint), 8, 1) == 255).all()


def test_a_palette_is_looked_up_with_its_transparent_colour_on_white(tmp_path):
    picture = Image.new("P", (8, 8))
    picture.putpalette([10, 20, 30, 200, 100, 50, 7, 8, 9])
    picture.putdata([i % 3 for i in range(64)])
    colours = np.array([[10, 20, 30], [200, 100, 50], [7, 8, 9]], np.uint8)
    expected = colours[np.arange(64) % 3].reshape(8, 8, 3)
    assert np.array_equal(read(save(tmp_path / "p.png", picture), 8, 3), expected)
    expected[expected[..., 0] == 200] = 255
    assert np.array_equal(read(save(tmp_path / "t.png", picture, transparency=1), 8, 3), expected)


@pytest.mark.fault(24)
def test_sixteen_bits_are_divided_by_257_and_rounded(tmp_path):
    values = np.random.default_rng(0).integers(0, 65_536, (8, 8)).astype(np.uint16)
    values[0, :4] = [0, 65_535, 257 * 77, 128]
    for ending in ("png", "tiff"):
        found = read(save(tmp_path / f"a.{ending}", Image.fromarray(values)), 8, 1)[..., 0]
        assert np.abs(found - values / 257).max() <= 0.5
        assert found[0, :4].tolist() == [0, 255, 77, 0]


@pytest.mark.parametrize(
    ("bits", "values", "expected"),
    [
        (8, [0, 1, 77, 255], [0, 1, 77, 255]),
        (10, [0, 2, 3, 511, 1023], [0, 0, 1, 127, 255]),  # 0.499, 0.748, 127.4
        (12, [0, 8, 9, 2048, 4095], [0, 0, 1, 128, 255]),  # 0.498, 0.560, 127.53
        (14, [0, 32, 33, 8192, 16383], [0, 0, 1, 128, 255]),  # 0.498, 0.514, 127.51
        (16, [0, 128, 129, 257 * 77, 65535], [0, 0, 1, 77, 255]),
        (16, [0, 16384], [0, 64]),
    ],
)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_the_largest_value_of_the_set_says_how_many_of_16_bits_are_used(
    tmp_path, capsys, bits, values, expected, ending
):
    """The dark picture goes by the white of the other, and a picture of 8 bits by its own."""
    grey = np.zeros((2, 8, 8), np.uint16)
    grey[0, 0, : len(values)] = values
    grey[1, 0, : len(values) - 1] = values[:-1]
    paths = [save(tmp_path / f"{i}.{ending}", Image.fromarray(grey[i])) for i in range(2)]
    plain = noise(8, 8)
    found = pictures.read_all([*paths, save(tmp_path / "plain.png", Image.fromarray(plain))], 8, 1)[..., 0]
    assert found[0, 0, : len(values)].tolist() == expected
    assert found[1, 0, : len(values) - 1].tolist() == expected[:-1]
    assert np.array_equal(found[2], plain)
    told = f"2 pictures of 16 bits hold at most {max(values):,}: read as {bits} bits\n"
    assert (told in capsys.readouterr().err) == (bits < 16)


def test_what_black_is_and_what_is_clear_of_16_bits(tmp_path):
    """A TIFF can say that 0 is white, as X-rays do, and a PNG that one value is transparent."""
    values = np.full((8, 8), 1000, np.uint16)
    values[0, :2] = 0, 65_535
    path = save(tmp_path / "a.tif", Image.fromarray(values), tiffinfo={262: 0})
    assert read(path, 8, 1)[0, :3, 0].tolist() == [255, 0, 251]
    path = save(tmp_path / "a.png", Image.fromarray(values), transparency=1000)
    assert read(path, 8, 1)[0, :3, 0].tolist() == [0, 255, 255]
    path = save(tmp_path / "below.tif", Image.fromarray(values.astype(np.int32) - 1024))
    refused(path, "has pixels below 0, whose black is unknown - save it with values from 0 to 65,535")


def test_colour_of_16_bits_is_read_where_its_upper_8_tell_the_picture(tmp_path):
    """Pillow gives no more of it: of 12 bits four would be left."""
    values = np.random.default_rng(0).integers(0, 65_536, (8, 8, 3)).astype(">u2")
    full, part = tmp_path / "full.png", tmp_path / "part.png"
    full.write_bytes(png(8, 8, b"".join(b"\0" + row.tobytes() for row in values), bits=16, kind=2))
    part.write_bytes(png(8, 8, b"".join(b"\0" + row.tobytes() for row in (values >> 4).astype(">u2")), bits=16, kind=2))
    assert np.array_equal(read(full, 8, 3), values >> 8)
    assert np.array_equal(pictures.read_all([part, full], 8, 3)[0], values >> 12)
    refused(
        part, "is colour of 16 bits: the upper 8 are read, the set uses the lower 12 - save it with 8 bits a channel"
    )


def test_channels_of_16_bits_that_lie_apart_are_refused(tmp_path):
    """Pillow reads noise of them."""
    content = save(tmp_path / "a.tif", Image.fromarray(noise(8, 8, 3))).read_bytes()
    together, apart = (struct.pack("<HHII", 284, 3, 1, planes) for planes in (1, 2))
    assert content.count(together) == content.count(struct.pack("<3H", 8, 8, 8)) == 1
    (tmp_path / "a.tif").write_bytes(
        content.replace(together, apart).replace(struct.pack("<3H", 8, 8, 8), struct.pack("<3H", 16, 16, 16))
    )
    refused(tmp_path / "a.tif", "has channels of 16 bits one behind the other")


@pytest.mark.fault(24)
def test_black_and_white_and_cmyk(tmp_path):
    bits = noise(8, 8) > 128
    found = read(save(tmp_path / "bits.png", Image.fromarray(bits)), 8, 1)
    assert np.array_equal(found[..., 0], np.where(bits, 255, 0))
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    red = read(save(tmp_path / "ink.tiff", ink), 8, 3)[0, 0].astype(int)
    assert red[0] > 200
    assert red[1] < 60
    assert red[2] < 60
    found = read(save(tmp_path / "ink.jpg", ink), 8, 3)[4, 4].astype(int)
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
    for name in ("a.png", "a.webp", "a.tif"):
        path = save(tmp_path / name, Image.fromarray(pixels), exif=exif, lossless=True)
        assert np.array_equal(read(path, 8, 3), turn(pixels)), name


def test_odd_metadata_does_not_hinder(tmp_path):
    pixels = noise(8, 8, 3)
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0)  # orientation 3
    resolution = struct.pack("<HHI4s", 0x011A, 2, 3, b"72")  # which is to be a fraction, and this is text
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turned + resolution + b"\0\0\0\0"
    path = save(tmp_path / "a.jpg", Image.fromarray(pixels), exif=exif, quality=100, subsampling=0)
    assert np.abs(read(path, 8, 3).astype(int) - pixels[::-1, ::-1]).mean() < 4


def test_good_pixels_are_read_whatever_is_around_them(tmp_path, capsys):
    """A block that is no EXIF, and told once; two megabytes of text; eight of them packed."""
    pixels = noise(8, 8, 3)
    paths = [save(tmp_path / f"{i}.png", Image.fromarray(pixels), exif=b"abcdefgh") for i in range(3)]
    for packed in (False, True):
        text = PngImagePlugin.PngInfo()
        text.add_text("notes", "x" * (8_000_000 if packed else 2_000_000), zip=packed)
        paths.append(save(tmp_path / f"text{packed}.png", Image.fromarray(pixels), pnginfo=text))
    assert (pictures.read_all(paths, 8, 3) == pixels).all()
    told = f"3 pictures have EXIF that cannot be read, and are taken as upright; the first is {paths[0]}\n"
    assert capsys.readouterr().err.count("EXIF") == 1
    pictures.read_all(paths[:3], 8, 3)
    assert told in capsys.readouterr().err


def test_of_a_phones_photograph_the_first_frame_is_read(tmp_path):
    """A JPEG with further ones behind it (MPO), also if their list is damaged; and by a JPEG's rarer endings."""
    frames = [Image.fromarray(noise(64, 64, seed=i)) for i in range(3)]
    paths = [tmp_path / f"a.{ending}" for ending in ("jpg", "jfif", "jpe", "mpo")]
    for path in paths:
        frames[0].save(path, "MPO", save_all=True, append_images=frames[1:])
    alone = read(save(tmp_path / "alone/a.jpg", frames[0]), 64, 1)
    assert Image.open(paths[0]).n_frames == 3
    assert pictures.find(tmp_path) == sorted([*paths, tmp_path / "alone/a.jpg"])
    assert (pictures.read_all(paths, 64, 1) == alone).all()
    content = paths[0].read_bytes()
    at = content.index(b"MPF\0") + 4
    paths[0].write_bytes(content[: at + 8] + b"\xff" * 30 + content[at + 38 :])
    assert np.array_equal(read(paths[0], 64, 1), alone)


def pages(path, *tags):
    """A TIFF with a page for each of these: a page of noise with these tags, half as large if it says that it is."""
    made = [Image.fromarray(noise(*((4, 4) if page.get(254) else (8, 8)), seed=i)) for i, page in enumerate(tags)]
    for page, tag in zip(made, tags, strict=True):
        page.encoderinfo = {"tiffinfo": tag}
    made[0].save(path, save_all=True, append_images=made[1:], tiffinfo=tags[0])
    return [np.asarray(page) for page in made]


def test_of_a_tiff_with_overviews_the_full_page_is_read_and_of_several_none(tmp_path):
    full, small, path = {}, {254: 1}, tmp_path / "a.tif"
    for tags, which in (((full, small, small), 0), ((small, full), 1), (({274: 3}, small), 0)):
        made = pages(path, *tags)[which]
        assert np.array_equal(read(path, 8, 1)[..., 0], made[::-1, ::-1] if 274 in tags[0] else made)
    for tags in ((full, full), (full, small, full), (small, small)):
        pages(path, *tags)
        refused(path, f"has {len(tags)} frames - save the one that you want alone")


def test_the_shorter_side_is_resized_and_the_middle_cut_out(tmp_path):
    """Vertical bars six pixels wide, 36 x 12: the middle twelve columns are bars three and four, halved in size."""
    bars = np.repeat(np.array([0, 50, 100, 150, 200, 250], np.uint8), 6)
    path = save(tmp_path / "a.png", Image.fromarray(np.tile(bars, (12, 1))))
    found = read(path, 6, 1)[..., 0]
    assert np.abs(found.astype(int) - [100, 100, 100, 150, 150, 150]).max() <= 6  # the cubic overshoots at the step
    assert (found == found[0]).all()
    upright = save(tmp_path / "b.png", Image.fromarray(np.tile(bars, (12, 1)).T.copy()))
    assert np.array_equal(read(upright, 6, 1)[..., 0], found.T)


def test_fine_patterns_are_averaged_and_small_pictures_enlarged(tmp_path):
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found = read(save(tmp_path / "a.png", Image.fromarray(board)), 8, 1)
    assert np.abs(found.astype(int) - 128).max() <= 2
    plain = Image.new("L", (3, 2), 77)
    assert (read(save(tmp_path / "b.png", plain), 8, 1) == 77).all()


def png(width, height, payload=b"", bits=8, kind=0):
    """A PNG whose header says so, whatever the payload."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
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
        told = r"not readable as a picture: .* - copy it again|more than 100,000,000|is empty|of no known kind"
        refused(tmp_path / name, told)
    save(tmp_path / "float.tiff", Image.fromarray(np.zeros((8, 8), np.float32)))
    refused(tmp_path / "float.tiff", "floating-point")
    save(tmp_path / "deep.tiff", Image.fromarray(np.full((8, 8), 70_000, np.int32)))
    refused(tmp_path / "deep.tiff", "more than 16 bits")
    frames = [Image.fromarray(noise(8, 8, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    refused(tmp_path / "film.gif", "has 3 frames")


@pytest.mark.fault(24)
@pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO", "TGA", "PDF"])
def test_no_other_format_is_decoded_whatever_the_name_says(tmp_path, kind, monkeypatch):
    """Pillow goes by the content, and gives PostScript to another program."""
    Image.init()
    for name, (_, accepts) in Image.OPEN.items():
        if name not in decoding.FORMATS:
            monkeypatch.setitem(Image.OPEN, name, (lambda *_: pytest.fail("it was opened"), accepts))
    save(tmp_path / f"a.{kind.lower()}", Image.fromarray(noise(16, 16, 3)))
    content = (tmp_path / f"a.{kind.lower()}").read_bytes()
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", f"its content is {kind}, which is not read - convert it to PNG or JPEG")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "its content is HEIC, which is not read - convert it"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "its content is AVIF, which is not read - convert it"),
        (b"\xff\x0a" + bytes(range(60)), "its content is JPEG XL, which is not read - convert it"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "its content is SVG, which is not read"),
        (bytes(128) + b"DICM" + bytes(range(60)), "its content is DICOM, which is not read"),
        (b"\n<html><body>Not found", "is a page of HTML, as a failed download leaves - download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer: .* - git lfs pull"),
        (b"/annex/objects/SHA256E-s1--ab.png\n", "is a git-annex pointer: .* - git annex get"),
        (b"\0" * 5000, "begins with nothing but zeros"),
        (b"hello", "not readable as a picture: of no known kind - save it as PNG or JPEG"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not readable as a picture: PNG, damaged or of a rare kind - copy it again"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:40],
)
def test_a_refusal_says_what_the_file_is(tmp_path, content, told):
    (tmp_path / "a.jpg").write_bytes(content)
    refused(tmp_path / "a.jpg", told)


def test_what_libtiff_says_is_told_with_the_files_name(tmp_path, capfd):
    """It writes to the standard error by itself, and Pillow takes some damage for a picture."""
    picture = Image.fromarray(noise(64, 64)).convert("1")
    for name, packing, told in (("a", "tiff_adobe_deflate", "ZIPDecode"), ("b", "group4", "Fax4Decode: Bad code word")):
        path = save(tmp_path / f"{name}.tif", picture, compression=packing)
        content = path.read_bytes()
        path.write_bytes(content[:200] + b"\xff\0" * 50 + content[300:])
        refused(path, f"not readable as a picture: .*{told}.* - copy it again")
        assert "Decode" not in capfd.readouterr().err


def test_all_that_cannot_be_read_are_named_at_once_and_many_by_their_cause(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    good = save(tmp_path / "good.png", Image.new("L", (8, 8)))
    paths = [save(tmp_path / f"{i:02}.tif", Image.fromarray(np.zeros((8, 8), np.float32))) for i in range(9)]
    for path in paths[:4]:
        path.write_bytes(good.read_bytes()[: 30 + int(path.stem)])
    with pytest.raises(UserErrors) as told:
        pictures.read_all([good, *paths], 8, 1)
    assert [line.partition(": ")[0] for line in str(told.value).split("\n")] == [str(path) for path in paths]
    assert not (tmp_path / "store").exists()
    more = [save(tmp_path / f"more{i:03}.tif", Image.fromarray(np.zeros((8, 8), np.float32))) for i in range(90)]
    with pytest.raises(UserErrors) as told:
        pictures.read_all([good, *paths, *more], 8, 1)
    lines = str(told.value).split("\n")
    many = "has floating-point pixels, whose white is unknown (and 94 more like it) - save it with 8 or 16 bits"
    note = tmp_path / "store/refused-pictures.txt"
    assert lines[1:] == [f"{paths[4]}: {many}", f"{note}: names all 99 that are refused"]
    assert lines[0].startswith(f"{paths[0]}: not readable as a picture: ")
    assert [line.partition(": ")[0] for line in note.read_text().splitlines()] == [str(path) for path in paths + more]


@pytest.mark.fault(24)
def test_pipes_and_links_that_go_round_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: no file that can be read"):
        pictures.find(tmp_path)
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    with pytest.raises(UserError, match=r"round\.png: a link that leads nowhere, to .*round\.png"):
        pictures.find(tmp_path)


def test_pictures_are_found_in_the_order_of_their_bytes_and_the_rest_is_named(tmp_path, capsys):
    for name in ("b/2.png", "b/10.png", "B/1.PNG", "ä/1.jpeg", "a.gif"):
        save(tmp_path / name, Image.new("L", (8, 8)))
    for name in ("b/notes.txt", ".hidden.png", ".cache/3.png", "b/Thumbs.db", "a.heic", "b/b.HEIC", "LICENSE"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [path.relative_to(tmp_path).as_posix() for path in pictures.find(tmp_path)]
    assert found == ["B/1.PNG", "a.gif", "b/10.png", "b/2.png", "ä/1.jpeg"]
    said, _, kinds = capsys.readouterr().err.rstrip("\n").rpartition(": ")
    assert said == f"{tmp_path}: 5 files are left out for their endings"
    first, *others = kinds.split(", ")
    assert (first, sorted(others)) == ("2 .heic", ["1 .db", "1 .txt", "1 LICENSE"])
    save(tmp_path / "only/a.heic", Image.new("L", (8, 8)), format="PNG")
    with pytest.raises(UserError, match=r"only: holds no pictures but 1 \.heic - they end in \.png, "):
        pictures.find(tmp_path / "only")


@pytest.mark.fault(24)
def test_links_that_lead_out_and_links_to_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(links, "dvc_cache", lambda: None)
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
    with pytest.raises(UserError, match="more: a link that leads out of the folder"):
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
        assert np.array_equal(found[i], read(path, size, channels))


def test_images_that_fit_are_left_alone():
    images = np.zeros((3, 20, 20, 1), np.uint8)
    assert pictures.resized(images, 20, 1) is images


def landscape(height=40, width=80):
    """Red on the left, green in the middle square, blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    side = (width - height) // 2
    pixels[:, :side, 0], pixels[:, side:-side, 1], pixels[:, -side:, 2] = 255, 255, 255
    return pixels


def test_a_picture_becomes_a_square_by_its_middle_by_black_beside_it_or_by_another_shape(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(landscape()))
    crop, pad, stretch = (pictures.read_all([path], 8, 3, how)[0].astype(int) for how in ("crop", "pad", "stretch"))
    assert (crop[:, 1:-1] == [0, 255, 0]).all()  # Pillow looks a little beyond a box
    assert (pad[[0, 1, 6, 7]] == 0).all()  # 4 of 8 lines are the picture
    for rows in (pad[2:6], stretch):
        assert (rows[:, 0] == [255, 0, 0]).all()
        assert (rows[:, 3:5] == [0, 255, 0]).all()
        assert (rows[:, 7] == [0, 0, 255]).all()
    tall = save(tmp_path / "tall.png", Image.fromarray(landscape().swapaxes(0, 1)))
    for how, found in (("crop", crop), ("pad", pad), ("stretch", stretch)):
        assert np.array_equal(pictures.read_all([tall], 8, 3, how)[0], found.swapaxes(0, 1))


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("width", [1200, 515, 131])
def test_a_large_jpeg_is_decoded_small_and_is_what_it_is_when_decoded_whole(tmp_path, how, width):
    """Colours that change from pixel to pixel of the small image; libjpeg's small decoder is 8/255 off at most."""
    coarse = Image.fromarray(64 + noise(9, 12, 3) // 2).resize((width, 3 * width // 4), Image.Resampling.BICUBIC)
    path = save(tmp_path / "a.jpg", coarse, quality=90)
    sizes, square = [], pictures._SQUARES[how]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pictures._SQUARES, how, lambda picture, size: sizes.append(picture.size) or square(picture, size))
        found = pictures.read_all([path], 32, 3, how)[0].astype(int)
    whole = save(tmp_path / "whole.png", Image.open(path))
    expected = pictures.read_all([whole], 32, 3, how)[0]
    assert np.abs(found - expected).max() <= 8
    assert np.abs(found - expected).mean() < 1.5
    scale = {1200: 8, 515: 4, 131: 1}[width]  # 1200 x 900 by 8: 150 x 112; 515 x 386 by 4: 128 x 96; 131 x 98 by 2: 49
    assert sizes == [(-(-width // scale), -(-(3 * width // 4) // scale))]


def test_pictures_read_side_by_side_keep_their_places_and_their_faults(tmp_path, monkeypatch):
    """More than threads are given at once; TIFFs, damaged ones too, between JPEGs and PNGs."""
    monkeypatch.setattr(pictures, "_AT_ONCE", 7)
    paths = []
    for i in range(40):
        ending = ("png", "tif", "bmp")[i % 3]
        paths.append(save(tmp_path / f"{i:02}.{ending}", Image.new("L", (8, 8), 6 * i)))
    assert pictures.read_all(paths, 8, 1)[:, 0, 0, 0].tolist() == [6 * i for i in range(40)]
    for i in (4, 9, 30):
        content = paths[i].read_bytes()
        paths[i].write_bytes(content[: len(content) // 2])
    with pytest.raises(UserErrors) as told:
        pictures.read_all(paths, 8, 1)
    assert [line.partition(": ")[0] for line in str(told.value).split("\n")] == [str(paths[i]) for i in (4, 9, 30)]


def test_a_bar_that_is_drawn_meanwhile_is_no_word_of_libtiff():
    """tqdm has a thread that draws bars when it thinks that it is time."""
    said = []
    with open(2, "w", closefd=False) as out, tqdm(total=2, file=out) as bar:
        with decoding._heard(said):
            drawing = threading.Thread(target=bar.refresh)
            drawing.start()
            drawing.join(0.2)
            os.write(2, b"a word\n")
            assert drawing.is_alive()
        drawing.join(10)
    assert said == ["a word"]
