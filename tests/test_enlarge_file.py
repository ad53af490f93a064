"""Everything about a picture stays, except its size."""

import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from unittest.mock import Mock
from xml.etree import ElementTree

import numpy as np
import pytest
import pyvips
import torch
from conftest import camera_exif, photo, red_disc, rgb_profile, waves
from PIL import Image, ImageCms, IptcImagePlugin, PngImagePlugin

from esrgan.config import GeneratorConfig
from esrgan.containers import BLOCK, insert
from esrgan.enlarge import spread
from esrgan.enlarge_file import Enlargement
from esrgan.errors import EsrganError, UsageError
from esrgan.generator import Generator
from esrgan.jpeg_advice import quality_of
from esrgan.library import find_model
from esrgan.picture_colours import SRGB_CHRM
from esrgan.picture_formats import FORMATS, find_format, fit_format
from esrgan.picture_reader import open_picture
from esrgan.picture_writer import _options
from esrgan.resize import resize
from esrgan.tiff_tags import RESOLUTION, add_exif, is_raw, read_tags, remove_tags
from esrgan.upscale_one import upscale
from esrgan.upscaler import Upscaler


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def enlarged(upscaler, data, **options):
    return Image.open(io.BytesIO(upscale(data, upscaler, **options)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_profile_and_resolution_stay_and_the_picture_is_upright(upscaler, kind):
    exif = camera_exif(6) if kind != "AVIF" else camera_exif(1)
    data = saved(photo(), kind, exif=exif, icc_profile=rgb_profile(), dpi=(300, 300))
    out = enlarged(upscaler, data)
    assert out.format == kind
    assert out.size == ((192, 256) if kind != "AVIF" else (256, 192))
    assert out.info["icc_profile"] == rgb_profile()
    tags = out.getexif()
    assert (tags[0x010F], tags[0x0132], tags.get(0x0112, 1)) == ("CamCo", "2020:01:02 03:04:05", 1)
    assert tags.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert tags.get_ifd(0x8769)[0xA002] == out.width
    assert tags.get_ifd(0x8825)[2] == (52.0, 30.0, 0.0)
    if kind in ("JPEG", "PNG"):
        assert [round(dpi) for dpi in out.info["dpi"]] == [300, 300]


def test_the_embedded_thumbnail_is_dropped_and_no_exif_is_invented(upscaler):
    exif = camera_exif()
    exif[0x0201], exif[0x0202] = 0, 0  # in IFD0: a sloppy camera
    with_thumbnail = saved(photo(), "JPEG", exif=exif)
    assert b"\xff\xd8" not in upscale(with_thumbnail, upscaler)[2:]
    for kind in ("JPEG", "PNG", "WEBP"):
        assert not enlarged(upscaler, saved(photo(), kind)).getexif()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_the_tags_of_a_tiff_travel_into_every_format_and_back(upscaler, kind):
    data = saved(photo(), "TIFF", exif=camera_exif(8), dpi=(300, 300))
    out = enlarged(upscaler, upscale(data, upscaler, format=kind.lower(), scale=2), format="tiff", scale=1)
    tags = out.getexif()
    assert (out.format, out.size) == ("TIFF", (96, 128))
    assert (tags[0x010F], tags[0x0132], tags.get(0x0112, 1)) == ("CamCo", "2020:01:02 03:04:05", 1)
    assert tags.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert tags.get_ifd(0x8825)[2] == (52.0, 30.0, 0.0)
    assert [round(float(dpi)) for dpi in out.info["dpi"]] == [300, 300]
    assert np.abs(np.asarray(out).mean() - np.asarray(photo()).mean()) < 2


def test_pages_of_a_tiff_stay(upscaler):
    pages = [photo(), photo().rotate(180)]
    out = enlarged(upscaler, saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], exif=camera_exif()))
    assert out.n_frames == 2
    assert out.getexif()[0x010F] == "CamCo"
    out.seek(1)
    assert np.abs(np.asarray(out)[::-4, ::-4].astype(int) - np.asarray(photo())).mean() < 8


def test_iptc_stays_whole_in_tiff_and_jpeg_and_between_them(upscaler):
    records = b"\x1c\x02\x5a\x00\x06Berlin\x1c\x02\x65\x00\x07Germany"
    tiff = saved(photo(), "TIFF", tiffinfo={33723: records})
    for data, form in ((tiff, "tiff"), (upscale(tiff, upscaler, format="jpeg", scale=2), "jpeg")):
        for other in ("tiff", "jpeg"):
            out = enlarged(upscaler, data, format=other, scale=1)
            found = IptcImagePlugin.getiptcinfo(out)
            assert (found[(2, 90)], found[(2, 101)]) == (b"Berlin", b"Germany"), (form, other)


def test_a_resolution_of_no_unit_keeps_its_number(upscaler):
    exif = camera_exif()
    exif[282], exif[283], exif[296] = 300.0, 300.0, 1
    out = enlarged(upscaler, saved(photo(), "JPEG", exif=exif))
    assert [round(dpi) for dpi in out.info["dpi"]] == [300, 300]


@pytest.mark.parametrize(("unit", "dpi"), [(1, 72), (0, None)])
def test_a_png_states_its_resolution_or_the_shape_of_a_pixel_alone(upscaler, unit, dpi):
    data = with_chunk(saved(photo(), "PNG"), b"pHYs", struct.pack(">IIB", 2834, 2834 if unit else 5668, unit))
    found = enlarged(upscaler, data).info.get("dpi")
    assert (found and round(found[0])) == dpi


def test_what_gif_has_no_place_for_is_told():
    data = saved(photo(), "PNG", icc_profile=rgb_profile(), exif=camera_exif())
    assert "profile, EXIF not kept" in fit_format(open_picture(data), (192, 256), FORMATS["gif"])[1][-1]
    plain = fit_format(open_picture(saved(photo(), "PNG")), (192, 256), FORMATS["gif"])[1]
    assert plain == ("reduced to 256 colours",)


def test_frames_that_become_pages_lose_their_time_and_it_is_told():
    data = saved(photo(), "GIF", save_all=True, append_images=[photo().rotate(180)], duration=80)
    _, notes = fit_format(open_picture(data), (192, 256), FORMATS["tiff"])
    assert "how long each frame is shown" in notes[0]


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("form", ["tiff", "png", "jpeg"])
def test_no_resolution_is_invented(upscaler, kind, form):
    pages = {"save_all": True, "append_images": [photo().rotate(180)]} if kind == form.upper() == "TIFF" else {}
    out = enlarged(upscaler, saved(photo(), kind, **pages), format=form)
    for page in range(getattr(out, "n_frames", 1)):
        out.seek(page)
        out.load()  # undamaged
        assert "dpi" not in out.info or form == "tiff"  # where Pillow invents one
        assert not {282, 283, 296} & set(getattr(out, "tag_v2", ()))


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG"])
@pytest.mark.parametrize("form", ["tiff", "png", "jpeg"])
def test_a_resolution_stays_without_exif_too(upscaler, kind, form):
    out = enlarged(upscaler, saved(photo(), kind, dpi=(300, 150), icc_profile=rgb_profile()), format=form)
    out.load()
    assert [round(float(dpi)) for dpi in out.info["dpi"]] == [300, 150]
    assert out.info["icc_profile"] == rgb_profile()
    assert not {0x010F, 0x8769} & set(out.getexif())


@pytest.mark.parametrize("orientation", ['tiff:Orientation="6"', "tiff:Orientation>6<", "tiff:Orientation = '6'"])
def test_xmp_does_not_turn_again_what_was_turned(upscaler, orientation):
    exif = Image.Exif()
    exif[274] = 6
    made = enlarged(upscaler, saved(photo(), "jpeg", exif=exif, xmp=b"<x:xmpmeta>" + orientation.encode()))
    assert orientation.replace("6", "1").encode() in made.info["xmp"]
    assert made.size == (photo().height * 4, photo().width * 4)


def test_xmp_stays(upscaler):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><about>me</about></x:xmpmeta>'
    for kind in ("JPEG", "WEBP"):
        assert b"<about>me</about>" in enlarged(upscaler, saved(photo(), kind, xmp=xmp)).info["xmp"]
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    made = enlarged(upscaler, saved(photo(), "PNG", pnginfo=info))
    assert made.info["xmp"] == xmp  # which PIL knows where it is not compressed, as others do


ULTRA_HDR = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:Item="http://ns.google.com/photos/1.0/container/item/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
    hdrgm:Version="1.0" dc:format="image/jpeg">
   <hdrgm:Version>1.0</hdrgm:Version>
   <Container:Directory><rdf:Seq>
    <rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary" Item:Mime="image/jpeg"/></rdf:li>
    <rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Length="9"/></rdf:li>
   </rdf:Seq></Container:Directory>
   <dc:creator>me</dc:creator>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>"""


def with_segment(data, number, content):
    """A JPEG with one more application segment."""
    return data[:2] + struct.pack(">BBH", 0xFF, 0xE0 + number, len(content) + 2) + content + data[2:]


def test_a_gain_map_is_told_and_the_result_does_not_state_one(upscaler):
    picture = saved(photo(), "JPEG", xmp=ULTRA_HDR) + saved(photo(8, 8).convert("L"), "JPEG")
    assert open_picture(picture).notes == ("HDR gain map not kept",)
    for form in ("jpeg", "png"):
        made = upscale(picture, upscaler, format=form)
        assert not open_picture(made).notes
        xmp = Image.open(io.BytesIO(made)).info["xmp"]
        ElementTree.fromstring(xmp)  # still XML
        assert b"dc:format" in xmp
        assert b"<dc:creator>me</dc:creator>" in xmp
        assert not any(word in xmp for word in (b"hdrgm:Version", b"Container:", b"GainMap"))


def test_the_video_of_a_motion_photo_is_told_and_the_result_does_not_state_one(upscaler):
    stated = b'Camera:MotionPhoto="1" Camera:MotionPhotoVersion="1" dc:format'
    xmp = ULTRA_HDR.replace(b"hdrgm:", b"x:").replace(b"dc:format", b'xmlns:Camera="c" ' + stated)
    picture = saved(photo(), "JPEG", xmp=xmp)
    assert open_picture(picture).notes == ("video of the motion photo not kept",)
    made = Image.open(io.BytesIO(upscale(picture, upscaler))).info["xmp"]
    ElementTree.fromstring(made)
    assert b"MotionPhoto" not in made
    assert b"dc:format" in made


@pytest.mark.parametrize(
    ("number", "content", "note"),
    [
        (2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0", "HDR gain map not kept"),
        (1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(99), "XMP not kept beyond its first 64 kB"),
    ],
)
def test_what_a_jpeg_holds_beside_its_picture_is_told(number, content, note):
    data = with_segment(saved(photo(), "JPEG"), number, content)
    assert open_picture(data).notes == (note,)
    assert open_picture(data[:2] + b"\xff" + data[2:]).notes == (note,)
    assert open_picture(saved(photo(), "JPEG", exif=camera_exif(), icc_profile=rgb_profile())).notes == ()


def test_further_pictures_of_a_jpeg_file_are_told():
    data = saved(photo(), "MPO", save_all=True, append_images=[photo()])
    assert open_picture(data).notes == ("only the first of several pictures in the file",)


@pytest.mark.parametrize(("colours", "told"), [(bytes((0, 9, 0, 16)), True), (bytes((0, 1, 0, 13)), False)])
def test_colours_that_an_avif_states_by_number_are_told_where_they_are_unusual(colours, told):
    data = saved(photo(), "AVIF")
    place = data.index(b"colrnclx") + 8
    notes = open_picture(data[:place] + colours + data[place + 4 :]).notes
    assert ["(nclx)" in note for note in notes] == told * [True]


def test_a_jpeg_with_the_wrong_end_of_spectrum_in_its_scan_is_whole(upscaler):
    data = saved(photo(), "JPEG")
    place = data.index(b"\xff\xda") + 2
    end = place + int.from_bytes(data[place : place + 2], "big") - 2
    wanted = enlarged(upscaler, data)
    assert np.array_equal(enlarged(upscaler, data[:end] + b"\0" + data[end + 1 :]), wanted)
    with pytest.raises(EsrganError, match="damaged"):
        enlarged(upscaler, data[:end] + b"\0" + data[end + 1 : -200])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_another_version_of_jfif_is_whole(upscaler, progressive):
    data = saved(photo(), "JPEG", progressive=progressive)
    place = data.index(b"JFIF\0") + 5
    newer = data[:2] + b"\xff\xff" + data[2:place] + b"\2" + data[place + 1 :]  # what fills up is as if not there
    assert np.array_equal(enlarged(upscaler, newer), enlarged(upscaler, data))
    with pytest.raises(EsrganError, match="damaged"):
        enlarged(upscaler, newer[:-200])


@pytest.mark.parametrize("tag", [(254, 4, 1, 1), (50706, 1, 4, 0x401)])
def test_a_cameras_raw_file_is_not_taken_for_its_preview(tag):
    data = saved(photo(), "TIFF", tiffinfo={tag[0]: tag[3] if tag[0] == 254 else b"\1\4\0\0"})
    with pytest.raises(EsrganError, match="a camera's raw file"):
        open_picture(data)
    assert open_picture(saved(photo(), "TIFF", tiffinfo={254: 0})).width == photo().width


def test_formats_that_are_not_read_are_told_what_to_do():
    for head, name in ((b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"), (b"\0\0\0\x0cjP  \r\n\x87\n", "JP2")):
        with pytest.raises(EsrganError, match=f"{name} files are not read; convert it to PNG"):
            open_picture(head + bytes(100))


@pytest.mark.parametrize(
    ("form", "options", "told"),
    [
        ("PNG", {"pnginfo": "text"}, {"jpeg": "texts", "webp": "texts", "tiff": "texts", "png": None}),
        ("PNG", {"dpi": (300, 300)}, {"webp": "resolution", "gif": "resolution", "jpeg": None, "tiff": None}),
        ("TIFF", {"tiffinfo": {33723: b"\x1c\x02\x5a\x00\x06Berlin"}}, {"png": "IPTC", "webp": "IPTC", "jpeg": None}),
        ("JPEG", {"exif": True, "dpi": (300, 300)}, {"webp": None, "avif": None}),
    ],
)
def test_metadata_that_a_format_has_no_place_for_is_told(form, options, told):
    if "pnginfo" in options:
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_text("Comment", "mine")
    if "exif" in options:
        options |= {"exif": camera_exif()}
    picture = open_picture(saved(photo(), form, **options))
    for name, lost in told.items():
        _, notes = fit_format(picture, (192, 256), find_format(name))
        found = [note for note in notes if "no place" in note]
        assert found == ([f"{lost} not kept, as {name.upper()} has no place for it"] if lost else []), name


def test_what_is_lost_by_a_format_that_was_not_asked_for_is_told_too():
    picture = open_picture(saved(photo(), "TIFF", tiffinfo={33723: b"\x1c\x02\x5a\x00\x06Berlin"}))
    _, notes = fit_format(replace(picture, format="webp"), (16_384, 20_000), None)
    assert [note.split(",")[0] for note in notes] == ["written as PNG", "IPTC not kept"]


def test_a_program_is_told_in_the_log_what_is_lost(upscaler, tmp_path, caplog):
    photo().save(tmp_path / "a.png", save_all=True, append_images=[photo()])
    upscale(tmp_path / "a.png", upscaler)
    assert any("a.png: only the first frame" in line for line in caplog.messages)
    caplog.clear()
    upscale(saved(red_disc(), "PNG"), upscaler, format="jpeg")
    assert caplog.messages == ["the picture: transparency over white, as JPEG has none"]
    caplog.clear()
    upscale(Image.open(io.BytesIO(saved(photo(), "GIF", save_all=True, append_images=[red_disc()]))), upscaler)
    assert caplog.messages == ["the picture: only the one shown of 2 frames"]


def test_a_program_sets_the_limit_of_pixels(upscaler, tmp_path):
    photo().save(tmp_path / "a.png")
    for picture in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        with pytest.raises(EsrganError, match="more than the limit of 100"):
            upscale(picture, upscaler, limit_pixels=100)


@pytest.mark.parametrize(
    "how",
    [{"scale": 1e308}, {"scale": 1e9}, {"megapixels": 1e305}, {"width": 1 << 31}, {"height": 10**400, "width": 1}],
)
def test_a_size_beyond_all_pictures_is_refused(upscaler, how):
    with pytest.raises(UsageError, match=r"more than any picture|above 0, below 2147483648"):
        upscale(waves(48, 64), upscaler, **how)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_a_forked_process_that_lives_on_does_not_keep_a_picture_waiting(upscaler, tmp_path):
    """Every descriptor of this process is copied by a fork at the worst moment: while the pipe is open."""
    photo().save(tmp_path / "a.png")
    script = (
        "import os, sys, time\nimport esrgan.picture_writer as writer\n"
        "from esrgan import Generator, GeneratorConfig, upscale\n"
        "from esrgan.upscaler import Upscaler\nstream, children = writer.png_stream, []\n"
        "def forking(*arguments):\n    for part in stream(*arguments):\n"
        "        if not children:\n            children.append(os.fork())\n"
        "            if not children[0]: time.sleep(60); os._exit(0)\n        yield part\n"
        "writer.png_stream = forking\n"
        "net = Generator(GeneratorConfig(scale=2, channels=8, growth=4, blocks=1))\n"
        "out = upscale(open(sys.argv[1], 'rb').read(), Upscaler(net, device='cpu', precision='fp32'))\n"
        "os.kill(children[0], 9)\nprint(len(out))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "a.png")], capture_output=True,
                          text=True, timeout=45, check=True)  # fmt: skip
    assert int(done.stdout) > 1000


@pytest.mark.parametrize(("mode", "kind"), [("RGBX", 0), ("RGBA", 2), ("CMYK", None)])
def test_a_channel_of_a_tiff_is_opacity_only_where_that_is_stated(upscaler, mode, kind):
    mask = Image.new("L", photo().size)
    data = saved(photo().convert("CMYK") if mode == "CMYK" else Image.merge(mode, (*photo().split(), mask)), "TIFF")
    assert kind is None or struct.pack("<HHIHH", 338, 3, 1, kind, 0) in data
    out = enlarged(upscaler, data)
    assert out.mode == ("RGBA" if mode == "RGBA" else "RGB")
    told = ("channel beyond the colours not kept, as it is not opacity",)
    assert open_picture(data).notes == (told if mode == "RGBX" else ())
    if mode == "RGBX":
        assert np.array_equal(out, enlarged(upscaler, saved(photo(), "TIFF")))


def test_what_only_a_tiff_can_hold_is_told():
    data = saved(photo(), "TIFF", tiffinfo={33550: (10.0, 10.0, 0.0), 37724: b"8BIM"})
    assert open_picture(data).notes == ("place on the map (GeoTIFF) not kept", "Photoshop's layers not kept")


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
@pytest.mark.parametrize(("unit", "number", "dpi"), [(2, 300, 300), (3, 100, 254), (2, None, 72)])
def test_the_resolution_that_only_the_exif_states_stays(upscaler, kind, unit, number, dpi):
    exif = Image.Exif()
    exif[0x010F] = "CamCo"
    if number:
        exif[0x011A], exif[0x011B], exif[0x0128] = float(number), float(number), unit
    tags = enlarged(upscaler, saved(photo(), kind, exif=exif)).getexif()
    assert float(tags[0x011A]) * {2: 1, 3: 2.54}[tags[0x0128]] == pytest.approx(dpi, rel=0.01)


@pytest.mark.parametrize(("kind", "orientation"), [("TIFF", 6), ("JPEG", 8), ("JPEG", 3)])
def test_the_two_resolutions_are_turned_with_the_picture(upscaler, kind, orientation):
    data = saved(photo(), kind, exif=camera_exif(orientation), dpi=(204, 98))
    tags = enlarged(upscaler, data).getexif()
    assert [round(tags[0x011A]), round(tags[0x011B])] == ([204, 98] if orientation == 3 else [98, 204])


@pytest.mark.parametrize(("length", "kept"), [(60_000, True), (60_001, False)])
def test_xmp_too_long_for_jpeg_is_told(upscaler, length, kept):
    xmp = b"<x:xmpmeta>".ljust(length, b"x")
    data = saved(photo(), "WEBP", xmp=xmp)
    _, notes = fit_format(open_picture(data), (192, 256), FORMATS["jpeg"])
    assert (not notes) == kept == (enlarged(upscaler, data, format="jpeg").info.get("xmp") == xmp)
    assert kept or "XMP of 60,001 bytes not kept, too long for JPEG" in notes[0]
    assert not fit_format(open_picture(data), (192, 256), FORMATS["png"])[1]


@pytest.mark.parametrize(("mode", "kind", "expected"), [
    ("L", "PNG", "L"), ("L", "JPEG", "L"), ("1", "PNG", "L"), ("LA", "PNG", "LA"), ("P", "PNG", "RGB"),
    ("L", "TIFF", "L"), ("RGB", "TIFF", "RGB"), ("RGBA", "PNG", "RGBA"), ("RGBA", "TIFF", "RGBA"), ("1", "TIFF", "L"),
    ("CMYK", "TIFF", "RGB"),
])  # fmt: skip
def test_grey_stays_grey_and_palettes_become_what_they_show(upscaler, mode, kind, expected):
    image = photo().convert(mode)
    out = enlarged(upscaler, saved(image, kind))
    assert (out.mode, out.format, out.size) == (expected, kind, (256, 192))
    if mode != "CMYK":
        before, after = (np.asarray(i.convert("RGB")).mean((0, 1)) for i in (image, out))
        assert np.abs(before - after).max() < 2.5


def test_jpeg_keeps_its_colours_at_full_resolution(upscaler):
    out = enlarged(upscaler, saved(photo(), "JPEG"))
    assert {layer[1:3] for layer in out.layer} == {(1, 1)}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_go_in_and_out(upscaler, kind):
    faint = (30_000 + 40 * waves(48, 64, 1, float)[..., 0]).astype(np.uint16)  # less than one step of 8 bits
    out = np.asarray(enlarged(upscaler, saved(Image.fromarray(faint), kind)))
    assert out.dtype == np.uint16
    assert out.std() > 5
    inner = out[16:-16, 16:-16]
    assert inner.min() > 29_990
    assert inner.max() < 30_050


def test_10_bit_avif_keeps_its_bits(upscaler):
    import pyvips  # noqa: PLC0415

    image = pyvips.Image.new_from_array(waves(48, 64, 3, np.uint16), interpretation="rgb16")
    data = image.heifsave_buffer(compression="av1", bitdepth=10, lossless=True)
    assert open_picture(data).bits == 16
    out = open_picture(upscale(data, upscaler))
    assert (out.format, out.bits, out.depth) == ("avif", 16, 10)
    assert abs(out.image.avg() - image.avg()) < 700


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_every_frame_stays_with_its_delay_and_the_loop(upscaler, kind):
    frames = [Image.fromarray(np.roll(waves(48, 64), 8 * i, 1)) for i in range(4)]
    delays = [50, 90, 130, 40]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=delays, loop=3, lossless=True)
    picture = open_picture(upscale(data, upscaler))
    assert (picture.frames, picture.width, picture.height) == (4, 256, 192)
    assert picture.image.get("delay") == delays
    assert picture.image.get("loop") == open_picture(data).image.get("loop")
    rows = picture.image.numpy()[..., :3].astype(float)
    for i, frame in enumerate(frames):
        expected = np.asarray(frame.resize((256, 192), Image.Resampling.BILINEAR))
        assert np.abs(rows[192 * i + 8 : 192 * (i + 1) - 8, 8:-8] - expected[8:-8, 8:-8]).mean() < 8


def test_colours_of_transparent_pixels_do_not_bleed(upscaler):
    out = np.asarray(enlarged(upscaler, saved(red_disc(), "PNG"))).astype(int)
    seen = out[..., 3] > 0
    assert seen.any()
    assert out[seen][:, 0].min() > 250
    assert out[seen][:, 1:3].max() < 5


@pytest.mark.parametrize("transparency", ["network", "bicubic"])
def test_constant_alpha_stays_constant_and_clear_stays_clear(upscaler, transparency):
    for opacity in (0, 77, 255):
        image = photo().convert("RGBA")
        image.putalpha(opacity)
        out = np.asarray(enlarged(upscaler, saved(image, "PNG"), transparency=transparency))
        assert np.unique(out[..., 3]).tolist() == [opacity]
    alpha = np.asarray(enlarged(upscaler, saved(red_disc(), "PNG"), transparency=transparency))[..., 3]
    assert alpha[:16].max() == 0
    assert alpha[80:112, 120:136].min() == 255


def test_a_result_without_room_names_the_disk_that_it_is_made_on(upscaler, tmp_path):
    photo().save(tmp_path / "a.png")
    for picture, remedy in ((tmp_path / "a.png", "another --out"), ((tmp_path / "a.png").read_bytes(), "TMPDIR")):
        with pytest.raises(EsrganError, match=remedy):
            upscale(picture, upscaler, width=2_000_000_000, height=2_000_000_000)


@pytest.mark.parametrize(("options", "size"), [
    ({"scale": 4}, (256, 192)), ({"scale": 1.5}, (96, 72)), ({"scale": 3}, (192, 144)), ({"scale": 6}, (384, 288)),
    ({"width": 100}, (100, 75)), ({"height": 100}, (133, 100)), ({"width": 50, "height": 90}, (50, 90)),
    ({"megapixels": 0.01}, (115, 87)), ({"scale": 0.1}, (6, 5)),
])  # fmt: skip
def test_any_size_is_the_networks_output_resized_by_matlab_bicubic(upscaler, options, size):
    out = enlarged(upscaler, saved(photo(), "PNG"), **options)
    assert out.size == size
    sr = upscaler(torch.from_numpy(waves(48, 64)).permute(2, 0, 1)[None].float() / 255)
    expected = resize(sr, size=size[::-1])[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
    assert np.abs(np.asarray(out) - expected).max() < 0.52


@pytest.mark.parametrize("options", [{"scale": 2, "width": 5}, {"scale": 0}, {"scale": -1}, {"scale": float("nan")},
                                     {"height": 5, "megapixels": 1}, {"width": 100.5}, {"scale": "2"},
                                     {"transparency": "foo"}])  # fmt: skip
def test_sizes_that_contradict_or_are_none_are_refused(options):
    with pytest.raises(UsageError):
        Enlargement(**options)


def test_what_a_format_cannot_hold_becomes_png_unless_it_was_asked_for(upscaler, tmp_path):
    photo(5000, 8).save(tmp_path / "wide.webp")
    assert upscale(tmp_path / "wide.webp", upscaler) == tmp_path / "wide_x4.png"
    with pytest.raises(EsrganError, match="WEBP holds at most 16383 pixels"):
        upscale(tmp_path / "wide.webp", upscaler, format="webp")
    frames = [photo(), photo().rotate(180)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(EsrganError, match="JPEG cannot hold 2 frames"):
        upscale(data, upscaler, format="jpg")
    with pytest.raises(EsrganError, match="choose one of"):
        upscale(data, upscaler, format="bmp")


def test_seams_do_not_show(network):
    data = saved(photo(300, 260), "PNG")
    small, whole = (enlarged(Upscaler(network, device="cpu", precision="fp32", tile=tile), data) for tile in (48, 512))
    assert np.abs(np.asarray(small).astype(int) - np.asarray(whole)).max() <= 1


def test_a_moved_colour_is_an_error_and_nothing_is_written(network, tmp_path):
    class Reddish(Generator):
        def forward(self, lr):
            return network.to(lr.dtype)(lr) + torch.tensor([0.25, 0, 0])[:, None, None]

    photo().save(tmp_path / "a.png")
    with pytest.raises(EsrganError, match="mean colour moved"):
        upscale(tmp_path / "a.png", Reddish(GeneratorConfig(channels=3, growth=1, blocks=1)), device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_file_in_the_results_place_is_replaced_only_when_asked(upscaler, tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "a_x4.png").write_text("mine")
    with pytest.raises(EsrganError, match=r"a_x4\.png exists; overwrite=True"):
        upscale(tmp_path / "a.png", upscaler)
    assert (tmp_path / "a_x4.png").read_text() == "mine"
    assert upscale(tmp_path / "a.png", upscaler, overwrite=True) == tmp_path / "a_x4.png"
    assert open_picture(tmp_path / "a_x4.png").width == 256


def test_the_same_kind_comes_back(upscaler, tmp_path):
    photo().save(tmp_path / "a.jpg")
    assert upscale(tmp_path / "a.jpg", upscaler) == tmp_path / "a_x4.jpg"
    assert upscale(str(tmp_path / "a.jpg"), upscaler, scale=2) == str(tmp_path / "a_x2.jpg")
    assert isinstance(upscale((tmp_path / "a.jpg").read_bytes(), upscaler), bytes)
    for dtype in (np.uint8, np.uint16, np.float32, np.float64, np.float16):
        for shape in ((20, 30), (20, 30, 1), (20, 30, 2), (20, 30, 3), (20, 30, 4)):
            array = waves(20, 30, shape[2] if len(shape) == 3 else 1, dtype).reshape(shape).astype(dtype)
            out = upscale(array, upscaler)
            assert (out.shape, out.dtype) == ((80, 120, *shape[2:]), dtype)
    for shape in ((3, 20, 30), (1, 20, 30), (2, 4, 20, 30)):
        tensor = torch.rand(1).expand(shape)
        out = upscale(tensor, upscaler)
        assert out.shape == (*shape[:-2], 80, 120)
        assert torch.allclose(out[..., 8:-8, 8:-8], tensor[..., :1, :1], atol=1e-3)
    for mode, expected in {
        "RGB": "RGB",
        "L": "L",
        "1": "L",
        "P": "RGB",
        "RGBA": "RGBA",
        "LA": "LA",
        "CMYK": "RGB",
    }.items():
        image = upscale(photo().convert(mode), upscaler)
        assert (image.mode, image.size) == (expected, (256, 192))
    assert upscale(Image.fromarray(waves(20, 30, 1, np.uint16)[..., 0]), upscaler).mode == "I;16"


def test_a_cmyk_images_profile_does_not_go_with_its_rgb_result(upscaler):
    image = photo().convert("CMYK")
    image.info["icc_profile"] = b"no profile that can be used"
    out = upscale(image, upscaler)
    assert out.mode == "RGB"
    assert "icc_profile" not in out.info


@pytest.mark.parametrize(("mode", "colour", "expected"), [("RGB", (9, 9, 9), "RGBA"), ("L", 9, "LA"), ("P", 0, "RGBA")])
def test_a_transparent_colour_becomes_transparency(upscaler, mode, colour, expected):
    image = Image.new(mode, (20, 20), colour)
    image.info["transparency"] = colour
    out = upscale(image, upscaler)
    assert out.mode == expected
    assert out.getchannel("A").getextrema() == (0, 0)
    assert "transparency" not in out.info


def test_without_a_model_the_default_suits_the_scale():
    assert find_model(scale=2).stem == "lite_x2_gan"
    array = waves(20, 30, 3, np.uint8)
    assert np.array_equal(upscale(array, scale=2, device="cpu"), upscale(array, "lite_x2_gan", device="cpu"))


def test_options_that_would_not_count_are_refused(upscaler):
    array = waves(4, 4, 3, np.uint8)
    with pytest.raises(UsageError, match=r"how or its fields by name \(scale\)"):
        upscale(array, upscaler, how=Enlargement(width=8), scale=2)
    with pytest.raises(UsageError, match="its own device and tile"):
        upscale(array, upscaler, device="cpu", tile=64)


@pytest.mark.parametrize("image", [
    3, None, np.zeros((2, 2), np.int32), np.zeros((2, 2, 5), np.uint8), np.full((4, 4), 200.0), np.full((4, 4), np.nan),
    torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(4, 4), np.zeros((0, 4), np.uint8), b"nothing", b"",
    Image.new("F", (4, 4)),
])  # fmt: skip
def test_what_is_no_picture_is_refused(upscaler, image):
    with pytest.raises(EsrganError):
        upscale(image, upscaler)


@pytest.mark.parametrize("largest", [255, float("nan"), float("inf")])
def test_float_samples_that_are_no_brightness_are_refused(upscaler, largest):
    samples = waves(20, 30, 1, np.float32)[..., 0]
    samples[3, 4] = largest
    with pytest.raises(EsrganError, match="float samples"):
        upscale(saved(Image.fromarray(samples), "TIFF"), upscaler)
    samples[3, 4] = 1
    assert enlarged(upscaler, saved(Image.fromarray(samples), "TIFF")).size == (120, 80)


def test_pages_that_lie_on_their_side_still_say_so(upscaler):
    page = photo(40, 32)
    data = saved(page, "TIFF", save_all=True, append_images=[page], tiffinfo={0x0112: 6})
    out = enlarged(upscaler, data)
    assert (out.n_frames, out.tag_v2[0x0112]) == (2, 6)


def test_big_endian_and_strided_arrays_are_understood(upscaler):
    array = waves(20, 30, 3, np.uint16)
    assert np.array_equal(upscale(array.astype(">u2"), upscaler), upscale(array, upscaler))
    assert np.array_equal(upscale(array[::-1], upscaler), upscale(array[::-1].copy(), upscaler))


def test_eight_threads_share_one_upscaler_for_files(upscaler, tmp_path):
    colours = [(25 * i, 255 - 25 * i, 10 * i) for i in range(8)]
    for i, colour in enumerate(colours):
        Image.new("RGB", (70 + i, 90), colour).save(tmp_path / f"{i}.png")
    threads = [threading.Thread(target=upscale, args=(tmp_path / f"{i}.png", upscaler)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, colour in enumerate(colours):
        with Image.open(tmp_path / f"{i}_x4.png") as image:
            assert image.size == (4 * (70 + i), 360)
            assert image.getpixel((100, 100)) == colour


def test_lab_becomes_srgb(upscaler):
    lab = ImageCms.profileToProfile(
        photo(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    out = enlarged(upscaler, saved(lab, "TIFF"))
    assert out.mode == "RGB"
    assert np.abs(np.asarray(out).mean((0, 1)) - np.asarray(photo()).mean((0, 1))).max() < 3


def test_a_tiff_in_ycbcr_is_refused_unless_it_holds_jpeg(upscaler):
    ycbcr = photo().convert("YCbCr")
    for compression in ("raw", "tiff_lzw"):
        with pytest.raises(EsrganError, match="TIFF in YCbCr"):
            upscale(saved(ycbcr, "TIFF", compression=compression), upscaler)
    out = enlarged(upscaler, saved(ycbcr, "TIFF", compression="jpeg"))
    assert np.abs(np.asarray(out).mean((0, 1)) - np.asarray(photo()).mean((0, 1))).max() < 3


HUGE = struct.pack("<Q", 2**64 - 1)


def test_offsets_beyond_all_files_are_one_line_or_left_out(upscaler):
    with pytest.raises(EsrganError, match="damaged or not readable"):
        upscale(b"II+\0" + struct.pack("<HH", 8, 0) + HUGE + bytes(16), upscaler)
    tag = struct.pack("<HHII", 0x8769, 16, 1, 26) + bytes(4)  # the place of further tags, as a number of 8 bytes
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + tag + HUGE
    assert enlarged(upscaler, saved(photo(), "JPEG", exif=exif), format="tiff").size == (256, 192)


def test_bmp_comes_out_as_png(upscaler):
    for picture in (photo(), photo().convert("L")):
        out = enlarged(upscaler, saved(picture, "BMP", dpi=(300, 300)))
        assert (out.format, out.mode, out.info["dpi"][0]) == ("PNG", picture.mode, pytest.approx(300, abs=0.1))


def test_numpys_numbers_are_numbers_too(upscaler):
    assert enlarged(upscaler, saved(photo(), "PNG"), width=np.int64(100)).width == 100
    with pytest.raises(UsageError, match="width is True"):
        upscale(saved(photo(), "PNG"), upscaler, width=True)


def with_chunk(data, name, content):
    """A PNG with one more chunk after its header."""
    body = name + content
    return data[:33] + struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def test_a_comment_of_another_alphabet_stops_nothing(upscaler):
    data = with_chunk(saved(photo(), "PNG"), b"tEXt", b"Beschr\xe4nkung\0abc")
    assert enlarged(upscaler, data).text == {"Beschr\xe4nkung": "abc"}


def test_text_in_a_png_stays_where_damaged_text_is_left_out(upscaler):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "plain")
    texts.add_text("Software", "packed", zip=True)
    texts.add_itxt("parameters", "\u732b, sitting")
    data = saved(photo(), "PNG", pnginfo=texts)
    assert enlarged(upscaler, data).text == {"Comment": "plain", "Software": "packed", "parameters": "\u732b, sitting"}
    assert "Comment" not in enlarged(upscaler, data.replace(b"plain", b"plane")).text
    assert enlarged(upscaler, data, format="jpeg").format == "JPEG"


def test_what_fails_while_it_is_written_is_told(upscaler, monkeypatch):
    monkeypatch.setattr("esrgan.picture_writer.dress", Mock(side_effect=ZeroDivisionError("dressed")))
    with pytest.raises(ZeroDivisionError, match="dressed"):
        upscale(saved(photo(), "WEBP"), upscaler)


@pytest.mark.parametrize(
    ("chunk", "note"),
    [((b"gAMA", (100_000).to_bytes(4, "big")), "gamma is 1"), ((b"cICP", bytes((9, 16, 0, 1))), "cICP"),
     ((b"gAMA", (45_455).to_bytes(4, "big")), None), ((b"cHRM", struct.pack(">8I", *SRGB_CHRM)), None),
     ((b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)), "cHRM")],
)  # fmt: skip
def test_statements_of_colour_that_are_not_kept_are_told(chunk, note):
    notes = open_picture(with_chunk(saved(photo(), "PNG"), *chunk)).notes
    assert (note is None and not notes) or note in notes[0]


def test_a_tag_that_does_no_harm_does_not_refuse_a_tiff(upscaler, tmp_path):
    photo().save(tmp_path / "a.tif", tiffinfo={315: "Mueller Co"})
    data = bytearray((tmp_path / "a.tif").read_bytes())
    place = data.find(struct.pack("<HHI", 315, 2, 11))
    data[place + 4] = 10  # without its last zero
    assert enlarged(upscaler, bytes(data)).size == (256, 192)
    with pytest.raises(EsrganError, match="damaged or not readable"):
        upscale(bytes(data[: len(data) // 2]), upscaler)


def test_float_rgb_is_taken_as_float_grey_is(upscaler):
    values = waves(48, 64)[..., 0].astype(np.float32) / 255
    means = []
    for bands in (1, 3):
        image = pyvips.Image.new_from_array(np.repeat(values[..., None], bands, 2))
        picture = open_picture(image.copy(interpretation="scrgb" if bands == 3 else "b-w").tiffsave_buffer())
        means.append(picture.image.avg() / 65535)
    assert means == pytest.approx([values.mean()] * 2, abs=1e-4)


def test_a_palette_of_colours_with_opacity_keeps_it(upscaler):
    clear = Image.new("RGBA", (16, 16), (200, 30, 30, 0)).quantize(8)
    assert clear.palette.mode == "RGBA"
    out = upscale(clear, upscaler)
    assert out.mode == "RGBA"
    assert np.asarray(out)[..., 3].max() == 0


@pytest.mark.parametrize("colour", [(255, 0, 255), (192, 0, 255), (0, 255, 0), (255, 0, 0), (0, 0, 255)])
def test_the_shipped_models_keep_key_colours(colour):
    for name in ("lite_x8_gan", "lite_x8_psnr", "lite_x4_gan"):
        out = upscale(Image.new("RGB", (12, 12), colour), Upscaler(name, device="cpu"))
        assert np.abs(np.asarray(out).astype(int) - colour).mean((0, 1)).max() <= 2


def test_a_tensor_beside_the_range_is_refused(upscaler):
    for image in (torch.full((1, 3, 8, 8), 200.0), torch.full((1, 3, 8, 8), -0.5)):
        with pytest.raises(EsrganError, match=r"pictures are in \[0, 1\]; this one spans"):
            upscaler(image)


def test_pil_images_that_cannot_be_enlarged_are_told(upscaler):
    cut = Image.open(io.BytesIO(saved(photo(), "PNG")[:2000]))
    deep = Image.fromarray(np.full((16, 16), 30000, np.uint16))
    deep.info["transparency"] = 31354
    for image, words in ((cut, "damaged or closed"), (deep, "give the file or its bytes")):
        with pytest.raises(EsrganError, match=words):
            upscale(image, upscaler)


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        ({}, "4"),
        ({"scale": 1000}, "1000"),
        ({"scale": 1.5}, "1.5"),
        ({"scale": 1.2345}, "1.2345"),
        ({"width": 481_000}, "1000"),
        ({"width": 1000}, "2.079"),
        ({"width": 1001}, "2.081"),
        ({"height": 642}, "2"),
        ({"height": 641}, "1.998"),
        ({"width": 962, "height": 321}, "962x321"),
        ({"width": 962, "height": 642}, "2"),
    ],
)
def test_results_of_other_sizes_have_other_names(asked, label):
    assert Enlargement(**asked).label(321, 481, 4) == label


def test_a_float_picture_of_another_size_stays_between_black_and_white(upscaler):
    stripes = np.repeat((np.arange(40) // 5 % 2).astype(np.float32)[:, None], 40, 1)
    for scale in (1.5, 3, 6):
        out = upscale(stripes, upscaler, scale=scale)
        assert (out.min(), out.max()) == (0, 1)


@pytest.mark.parametrize("transparency", ["network", "bicubic"])
def test_a_network_that_lifts_black_leaves_clear_clear_and_opaque_opaque(transparency):
    class Faded(Generator):
        def forward(self, lr):
            return 0.1 + 0.8 * torch.nn.functional.interpolate(lr, scale_factor=4, mode="bicubic")

    image = photo().convert("RGBA")
    image.putalpha(Image.fromarray(np.where(np.arange(64) < 32, 0, 255).astype(np.uint8)[None].repeat(48, 0)))
    network = Faded(GeneratorConfig(channels=3, growth=1, blocks=1))
    alpha = np.asarray(upscale(image, network, device="cpu", transparency=transparency))[..., 3]
    assert np.unique(alpha[:, : 4 * 29]).tolist() == [0]
    assert np.unique(alpha[:, 4 * 35 :]).tolist() == [255]


@pytest.mark.parametrize(("gigabytes", "big"), [(1.9, False), (2.1, True)])
def test_a_tiff_that_may_pass_4_gigabytes_has_offsets_of_8_bytes(gigabytes, big):
    like = open_picture(saved(photo(), "PNG"))
    assert _options(FORMATS["tiff"], like, int(gigabytes * 1e9))["bigtiff"] is big


@pytest.mark.parametrize("value", [100, 33_000, 50_000, 65_535])
def test_16_bits_become_the_nearest_of_8_where_a_format_has_no_more(upscaler, value):
    data = saved(Image.fromarray(np.full((16, 16), value, np.uint16)), "PNG")
    assert np.unique(enlarged(upscaler, data, format="jpeg")).tolist() == [round(value / 257)]


def test_a_webp_without_loss_is_enlarged_into_one_and_a_jpeg_into_one_of_quality_95(upscaler, tmp_path):
    exact = enlarged(upscaler, saved(photo(), "PNG"))
    assert np.array_equal(enlarged(upscaler, saved(photo(), "WEBP", lossless=True)), exact)
    photo().save(tmp_path / "a.jpg", quality=60)
    assert quality_of(upscale(tmp_path / "a.jpg", upscaler)) == 95


def test_a_png_that_says_it_is_srgb_is_believed_whatever_gamma_it_states():
    data = with_chunk(saved(photo(), "PNG"), b"gAMA", (100_000).to_bytes(4, "big"))
    assert open_picture(with_chunk(data, b"sRGB", b"\0")).notes == ()


def test_no_side_of_a_result_is_nothing():
    assert Enlargement(scale=0.1).size(3, 40, 4) == (1, 4)
    assert Enlargement(width=1).size(40, 100, 4) == Enlargement(height=1).size(100, 40, 4) == (1, 1)
    assert Enlargement(megapixels=1e-6).size(1, 100, 4) == (1, 10)


@pytest.mark.parametrize("transparency", ["network", "bicubic"])
def test_the_edge_of_what_is_opaque_is_smooth(upscaler, transparency):
    alpha = np.asarray(upscale(red_disc(), upscaler, transparency=transparency))[..., 3].astype(int)
    assert len(np.unique(alpha)) > 10
    assert np.abs(np.diff(alpha[80:112], axis=1)).max() < 150  # of 255, from one pixel to the next


def test_only_what_is_wholly_clear_takes_the_colours_beside_it():
    colour, alpha = torch.rand(3, 8, 8), torch.zeros(1, 8, 8)
    alpha[..., :4] = 1 / 255
    filled = spread(colour, alpha)
    assert torch.equal(filled[..., :4], colour[..., :4])
    torch.testing.assert_close(filled[:, 4, 4], colour[:, 3:6, 3].mean(1))


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_formats_with_loss_lose_little(upscaler, kind):
    data = saved(Image.fromarray(np.random.default_rng(0).integers(60, 190, (40, 50, 3), np.uint8)), "PNG")
    exact, lossy = (enlarged(upscaler, data, format=form).convert("RGB") for form in ("png", kind.lower()))
    assert np.abs(np.asarray(exact).astype(int) - lossy).mean() < 2


def test_a_format_holds_its_longest_side_and_no_more():
    picture = open_picture(saved(photo(), "WEBP"))
    assert fit_format(picture, (1, 16383), None)[0].name == "webp"
    assert fit_format(picture, (16384, 1), None)[0].name == "png"


def test_transparency_of_16_bits_too_is_over_white_where_a_format_has_none(upscaler):
    clear = pyvips.Image.new_from_array(np.zeros((16, 16, 4), np.uint16), interpretation="rgb16").pngsave_buffer()
    assert open_picture(clear).bits == 16
    assert np.asarray(enlarged(upscaler, clear, format="jpeg")).min() > 250


def test_what_is_put_into_a_file_moves_more_than_a_block():
    data = np.random.default_rng(0).bytes(3 * BLOCK + 7)
    file = io.BytesIO(data)
    insert(file, 33, b"abc")
    assert file.getvalue() == data[:33] + b"abc" + data[33:]


@pytest.mark.parametrize("big", [False, True])
def test_tags_go_into_tiff_files_of_either_layout(big):
    image = pyvips.Image.new_from_array(waves(48, 64)).copy(interpretation="srgb")
    file = io.BytesIO(image.tiffsave_buffer(bigtiff=big))
    remove_tags(file, RESOLUTION)
    add_exif(file, camera_exif().tobytes())
    assert np.array_equal(pyvips.Image.new_from_buffer(file.getvalue(), "", fail_on="warning").numpy(), waves(48, 64))
    assert not RESOLUTION & set(Image.open(file).tag_v2)
    main, details, gps = read_tags(file)
    assert (main[271][2], details[0x9003][2]) == (b"CamCo\0", b"2020:01:02 03:04:05\0")
    assert gps[2][2] == struct.pack("<6I", 52, 1, 30, 1, 0, 1)


def test_exif_of_the_other_byte_order_is_kept(upscaler):
    exif = camera_exif()
    exif.endian = ">"
    data = saved(photo(), "JPEG", exif=exif)
    assert b"Exif\0\0MM" in data
    tags = enlarged(upscaler, data, format="tiff").getexif()
    assert (tags[0x010F], tags.get_ifd(0x8825)[2]) == ("CamCo", (52.0, 30.0, 0.0))


def test_a_page_of_several_is_no_raw_file_and_canons_raw_file_is_one():
    assert open_picture(saved(photo(), "TIFF", tiffinfo={254: 2})).width == 64
    assert is_raw(io.BytesIO(b"II*\0\x10\0\0\0CR\2\0"), {})
    assert not is_raw(io.BytesIO(b"II*\0\x10\0\0\0\0\0\0\0"), {})


def test_of_pages_of_different_size_the_first_is_taken(upscaler):
    data = saved(photo(), "TIFF", save_all=True, append_images=[photo(32, 24)])
    assert open_picture(data).notes == ("only the first of 2 pages, as they differ in size, kind or orientation",)
    assert enlarged(upscaler, data).size == (256, 192)


@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_without_loss_is_known_by_its_first_frame_and_behind_odd_chunks(lossless):
    frames = [photo(), photo().rotate(180)]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=lossless)
    assert open_picture(data).lossless is lossless
    assert open_picture(saved(photo(), "WEBP", lossless=lossless, icc_profile=b"x" * 129)).lossless is lossless
