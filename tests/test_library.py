import pytest
import tiny
from safetensors.torch import save_file

from esrgan import library
from esrgan.cli import main
from esrgan.config import GeneratorConfig
from esrgan.convert import convert
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.model_file import save_model
from esrgan.ncnn_export import write_ncnn


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A package folder with two sizes and scales of GAN models, and an empty user folder."""
    shipped, mine = tmp_path / "shipped", tmp_path / "mine"
    monkeypatch.setattr(library, "SHIPPED", shipped)
    monkeypatch.setenv("ESRGAN_MODELS", str(mine))
    for name, scale in (("lite_x4_gan", 4), ("lite_x4_psnr", 4), ("full_x4_gan", 4), ("lite_x2_gan", 2)):
        save_model(
            Generator(GeneratorConfig(scale=scale, channels=4, growth=2, blocks=1)), shipped / f"{name}.safetensors"
        )
    return tmp_path


def test_a_model_is_found_by_name_and_by_path(shelf):
    path = library.find_model("lite_x4_psnr")
    assert path.stem == "lite_x4_psnr"
    assert library.find_model(path) == path


@pytest.mark.parametrize(
    ("scale", "device", "name"),
    [
        (4, "cpu", "lite_x4_gan"),
        (4, "cuda:1", "full_x4_gan"),
        (4, "mps", "lite_x4_gan"),
        (2, "cpu", "lite_x2_gan"),
        (3, "cpu", "lite_x4_gan"),
        (1.5, "cpu", "lite_x2_gan"),
        (8, "cpu", "lite_x4_gan"),
    ],
)
def test_the_default_is_the_gan_model_that_suits_scale_and_device(shelf, scale, device, name):
    assert library.find_model(scale=scale, device=device).stem == name


def test_the_default_to_be_blended_has_its_psnr_model_beside_it(shelf):
    assert library.find_model(device="cuda", paired=True).stem == "lite_x4_gan"


def test_the_partner_of_a_gan_model_is_its_psnr_model(shelf):
    assert library.partner(library.find_model("lite_x4_gan")).stem == "lite_x4_psnr"
    with pytest.raises(EsrganError, match=r"full_x4_gan.*--psnr-model"):
        library.partner(library.find_model("full_x4_gan"))
    with pytest.raises(EsrganError, match=r"lite_x4_psnr.*is not named as a GAN model"):
        library.partner(library.find_model("lite_x4_psnr"))


def test_a_users_model_is_listed_and_never_hides_a_shipped_one(shelf):
    tiny = Generator(GeneratorConfig(channels=4, growth=2, blocks=1))
    save_model(tiny, shelf / "mine" / "own.safetensors")
    save_model(tiny, shelf / "mine" / "lite_x4_gan.safetensors")
    found = {entry.name: entry for entry in library.entries()}
    assert not found["own"].shipped
    assert found["lite_x4_gan"].shipped


def test_an_unreadable_model_folder_is_one_line_and_the_default_needs_it_not(shelf, monkeypatch, capsys):
    (shelf / "file").touch()
    (shelf / "loop").symlink_to(shelf / "loop")
    for name in ("file", "loop"):
        monkeypatch.setenv("ESRGAN_MODELS", str(shelf / name))
        assert main(["models"]) == 1
        said = capsys.readouterr().err
        assert f"the model folder {shelf / name} cannot be read" in said
        assert said.count("\n") == 1
        assert library.find_model().stem == "lite_x4_gan"


def test_where_no_model_was_the_best_the_latest_is_named(shelf, tmp_path):
    (tmp_path / "latest.safetensors").touch()
    with pytest.raises(EsrganError, match=r"without --val no model is the best; take .*latest\.safetensors"):
        library.find_model(tmp_path / "best.safetensors")


def test_an_unknown_name_lists_what_there_is(shelf):
    with pytest.raises(EsrganError, match=r"'nosuch'.*full_x4_gan, lite_x2_gan"):
        library.find_model("nosuch")


def test_models_of_other_programs_in_the_users_folder_are_at_hand(shelf):
    tiny = Generator(GeneratorConfig(channels=4, growth=32, blocks=1))
    mine = shelf / "mine"
    mine.mkdir()
    save_model(tiny, shelf / "tiny.safetensors")
    convert(shelf / "tiny.safetensors", mine / "a.pth")
    write_ncnn(tiny, mine / "b.param", mine / "b.bin")
    found = {entry.name: entry.header().config for entry in library.entries() if not entry.shipped}
    assert found == {"a": tiny.config, "b": tiny.config}
    assert library.find_model("b") == mine / "b.param"
    b = next(entry for entry in library.entries() if entry.name == "b")
    assert b.size() == sum(path.stat().st_size for path in mine.glob("b.*"))


def test_files_that_another_model_hides_are_named_and_suffixes_are_names_too(shelf, capsys):
    net = Generator(tiny.SHAPE)
    mine = shelf / "mine"
    mine.mkdir()
    for name in ("twice.safetensors", "lite_x4_gan.safetensors", "LOUD.SAFETENSORS"):
        save_model(net, mine / name)
    convert(mine / "twice.safetensors", mine / "twice.pth")
    assert main(["models"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"left out: {mine / 'lite_x4_gan.safetensors'}, as another model at hand is called lite_x4_gan" in said
    assert f"left out: {mine / 'twice.pth'}, as another model at hand is called twice" in said
    assert "LOUD" in said
    assert library.find_model("twice.safetensors") == mine / "twice.safetensors"
    assert library.find_model("LOUD") == mine / "LOUD.SAFETENSORS"


def test_only_a_word_gan_in_a_name_becomes_psnr(tmp_path):
    for name in ("elegant_gan", "elegant_psnr"):
        save_model(Generator(tiny.SHAPE), tmp_path / f"{name}.safetensors")
    assert library.partner(tmp_path / "elegant_gan.safetensors") == tmp_path / "elegant_psnr.safetensors"


@pytest.mark.parametrize(
    "header",
    [
        {"provenance": '{"licence": ["MIT", "CC0"], "stage": 3}'},
        {"provenance": '{"scores": [1], "licence": "[b]x"}'},
        {"provenance": '{"scores": {"datasets": [{"name": "Set5", "psnr_y": null}]}}'},
        {"provenance": "null"},
        {"config": "[" * 200_000},
    ],
)
def test_one_odd_file_does_not_hide_the_other_models(shelf, capsys, header):
    mine = shelf / "mine"
    mine.mkdir()
    net = Generator(tiny.SHAPE)
    config = '{"channels": 4, "growth": 4, "blocks": 1}'
    save_file(net.state_dict(), mine / "odd[fp16].safetensors", {"format": "esrgan", "config": config, **header})
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert "odd[fp16]" in said
    assert "full_x4_gan" in said


def test_a_model_is_called_as_its_file_and_one_of_the_hub_by_its_whole_name(tmp_path):
    assert library.name_of_model(None, library.SHIPPED / "lite_x4_gan.safetensors") == "lite_x4_gan"
    assert library.name_of_model("hf:owner/name", tmp_path / "model.safetensors") == "hf:owner/name"


def test_the_medium_size_is_better_than_lite_and_faster_than_full(shelf):
    net = Generator(GeneratorConfig(channels=4, growth=2, blocks=1))
    save_model(net, shelf / "shipped" / "medium_x4_gan.safetensors")
    assert library.find_model(device="cpu").stem == "lite_x4_gan"
    (shelf / "shipped" / "lite_x4_gan.safetensors").unlink()
    assert library.find_model(device="cpu").stem == "medium_x4_gan"
    assert library.find_model(device="cuda").stem == "full_x4_gan"
    (shelf / "shipped" / "full_x4_gan.safetensors").unlink()
    save_model(net, shelf / "shipped" / "lite_x4_gan.safetensors")
    assert library.find_model(device="cuda").stem == "medium_x4_gan"
