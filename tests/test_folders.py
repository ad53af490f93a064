import os
import sys
from pathlib import Path

import pytest
from conftest import photo

from esrgan.enlarge_file import Enlargement
from esrgan.errors import EsrganError, UsageError
from esrgan.files import machine
from esrgan.folders import LONGEST_NAME, Job, Naming, plan, remove_leftovers
from esrgan.model_file import fingerprint
from esrgan.picture_formats import FORMATS
from esrgan.record import RECORD, Record


def naming(out: Path, **options) -> Naming:
    how = options.pop("how", Enlargement())
    return Naming(**({"out": out, "how": how, "network_scale": 4, "limit_pixels": 10**8} | options))


def targets(inputs, out, **options):
    return {str(job.source): str(job.target) for job in plan(inputs, naming(out, **options)).jobs}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("in/a.png", "in/b.JPG", "in/deep/er/c.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        photo(8, 8).save(tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    return tmp_path


def test_folders_are_mirrored_and_formats_kept(tree):
    assert targets([tree / "in"], tree / "out") == {
        f"{tree}/in/a.png": f"{tree}/out/a_x4.png",
        f"{tree}/in/b.JPG": f"{tree}/out/b_x4.JPG",
        f"{tree}/in/deep/er/c.webp": f"{tree}/out/deep/er/c_x4.webp",
    }


def test_the_name_follows_the_pattern_the_scale_and_the_format(tree):
    one = [tree / "in" / "a.png"]
    assert targets(one, tree, pattern="big-{stem}@{scale}") == {str(one[0]): f"{tree}/big-a@4.png"}
    assert targets(one, tree, how=Enlargement(scale=1.5), form=FORMATS["jpeg"]) == {str(one[0]): f"{tree}/a_x1.5.jpg"}
    assert targets(one, tree, how=Enlargement(width=20)) == {str(one[0]): f"{tree}/a_x2.5.png"}
    assert targets(one, tree / "my.webp") == {str(one[0]): f"{tree}/my.webp"}
    assert plan(one, naming(tree / "my.webp")).jobs[0].form.name == "webp"


def test_results_among_pictures_named_by_a_wildcard_are_no_inputs(tree):
    out, one = tree / "in", tree / "in" / "a.png"
    result = out / "a_x4.png"
    photo(32, 32).save(result)
    with pytest.raises(UsageError, match="is an input and would be overwritten"):  # somebody's own
        plan([one, result], naming(out))
    Record(out).add(Record.of(one), result, "key", result)
    assert [job.source for job in plan([one, result], naming(out)).jobs] == [one]
    assert [job.source for job in plan([result], naming(out)).jobs] == [result]  # named alone it is one


def test_a_source_that_changes_while_it_is_enlarged_is_not_done(tree):
    out, one = tree / "in", tree / "in" / "a.png"
    source, result, record = Record.of(one), out / "a_x4.png", Record(out)
    photo(9, 9).save(one)
    photo(32, 32).save(result)
    record.add(source, result, "key", result)
    assert not record.is_done(one, result, "key")
    record.add(Record.of(one), result, "key", result)
    assert record.is_done(one, result, "key")


@pytest.mark.skipif(sys.platform == "win32", reason="links are for administrators there")
def test_a_result_that_became_a_broken_link_stops_nothing(tree):
    result = tree / "in" / "out" / "a_x4.png"
    result.parent.mkdir()
    photo(32, 32).save(result)
    Record(result.parent).add(Record.of(tree / "in" / "a.png"), result, "key", result)
    result.unlink()
    result.symlink_to(tree / "nowhere")
    made = plan([tree / "in"], naming(tree / "other"))
    assert len(made.jobs) == 3
    assert [failure.input for failure in made.failures] == [str(result)]


@pytest.mark.parametrize("pattern", ["{stem", "{name}", "{0}", "{stem[x]}", "{suffix[0]}", "", "a/{stem}", ".."])
def test_a_pattern_that_is_no_name_is_refused(tmp_path, pattern):
    with pytest.raises(EsrganError, match="the name"):
        naming(tmp_path, pattern=pattern)


def test_lists_of_paths_are_inputs_too(tree):
    (tree / "list.txt").write_text("in/a.png\nin/deep\n")
    assert set(targets([tree / "list.txt"], tree / "out").values()) == {
        f"{tree}/out/a_x4.png", f"{tree}/out/er/c_x4.webp",
    }  # fmt: skip


def test_two_inputs_for_one_output_are_refused_before_work_starts(tree):
    photo(8, 8).save(tree / "in" / "a.webp")
    assert len(targets([tree / "in"], tree / "out")) == 4
    with pytest.raises(EsrganError, match=r"a\.png and .*a\.webp would both become"):
        plan([tree / "in"], naming(tree / "out", form=FORMATS["png"]))
    apart = targets([tree / "in"], tree / "out", form=FORMATS["png"], pattern="{stem}_{suffix}_x{scale}")
    assert {f"{tree}/out/a_png_x4.png", f"{tree}/out/a_webp_x4.png"} <= set(apart.values())
    with pytest.raises(EsrganError, match="cannot all be written to"):
        plan([tree / "in"], naming(tree / "one.png"))


def test_a_picture_in_two_spellings_is_one_input(tree):
    (tree / "same").symlink_to(tree / "in")
    spelt = [tree / "in" / "a.png", tree / "in" / "deep" / ".." / "a.png", tree / "same" / "a.png"]
    assert targets(spelt, tree / "out") == {str(spelt[0]): f"{tree}/out/a_x4.png"}


def test_an_input_is_never_overwritten(tree):
    with pytest.raises(EsrganError, match="is an input"):
        plan([tree / "in"], naming(tree / "in", pattern="{stem}"))


def test_results_below_the_input_are_not_enlarged_again(tree):
    (tree / "in" / "upscaled").mkdir()
    photo(8, 8).save(tree / "in" / "upscaled" / "a_x4.png")
    assert len(targets([tree / "in"], tree / "in" / "upscaled")) == 3


def test_results_beside_the_inputs_are_not_enlarged_again(tree):
    job = next(job for job in plan([tree / "in"], naming(tree / "in")).jobs if job.source.name == "a.png")
    photo(32, 32).save(job.target)
    Record(tree / "in").add(Record.of(job.source), job.target, "key", job.target)
    assert len(targets([tree / "in"], tree / "in")) == 3


def test_broken_pictures_are_failures_of_their_own(tree):
    (tree / "in" / "broken.png").write_bytes(b"nonsense")
    (tree / "in" / "new\nline.png").write_bytes(b"")
    made = plan([tree / "in"], naming(tree / "out"))
    assert len(made.jobs) == 3
    assert [failure.status for failure in made.failures] == ["failed", "failed"]
    assert all("\n" not in failure.message for failure in made.failures)


def test_loops_of_links_end_and_a_linked_folder_is_read_once(tree):
    (tree / "in" / "deep" / "up").symlink_to(tree / "in")
    (tree / "other").mkdir()
    photo(8, 8).save(tree / "other" / "d.png")
    (tree / "in" / "linked").symlink_to(tree / "other")
    assert len(targets([tree / "in"], tree / "out")) == 4


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_named_and_the_rest_goes_on(tree):
    (tree / "in" / "deep").chmod(0)
    made = plan([tree / "in"], naming(tree / "out"))
    (tree / "in" / "deep").chmod(0o755)
    assert len(made.jobs) == 2
    assert "deep" in made.failures[0].message


def test_a_folder_without_pictures_stops_the_run(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EsrganError, match=r"no pictures in .*empty"):
        plan([tmp_path / "empty"], naming(tmp_path / "out"))


def test_an_input_that_is_not_there_fails_alone_and_says_who_named_it(tree):
    (tree / "list.txt").write_text("gone.png\n")
    made = plan([tree / "nothing.png", tree / "list.txt", tree / "in"], naming(tree / "out"))
    assert len(made.jobs) == 3
    assert [failure.status for failure in made.failures] == ["failed", "failed"]
    assert made.failures[0].message.startswith(f"{tree}/nothing.png: there is no picture")
    assert made.failures[1].message.endswith(f"which {tree}/list.txt lists")


def test_a_result_that_no_format_holds_fails_alone(tree):
    made = plan([tree / "in"], naming(tree / "out", how=Enlargement(scale=1e9)))
    assert not made.jobs
    assert len(made.failures) == 3
    assert all("more than any picture" in failure.message for failure in made.failures)


def test_names_of_any_length_fit(tmp_path):
    for stem in ("x" * 250, "図" * 83, "y" * 246):
        photo(8, 8).save(tmp_path / f"{stem}.png")
    names = [Path(target).name for target in targets([tmp_path], tmp_path / "out").values()]
    assert len(set(names)) == 3
    assert all(len(os.fsencode(name)) <= LONGEST_NAME and name.endswith("_x4.png") for name in names)


def test_the_record_knows_what_is_done_and_by_whom(tree):
    out = tree / "out"
    out.mkdir()
    job = Job(source=tree / "in" / "a.png", target=out / "a_x4.png", form=FORMATS["png"])
    job.target.write_bytes(b"theirs")
    assert not Record(out).is_done(job.source, job.target, "key")
    assert not Record(out).is_ours(job.target)
    Record(out).add(Record.of(job.source), job.target, "key", job.target)
    with (out / RECORD).open("a") as file:
        file.write('{"output": "b_x4.p')  # killed here
    assert Record(out).is_done(job.source, job.target, "key")
    assert Record(out).is_ours(job.target)
    assert not Record(out).is_done(job.source, job.target, "another model")
    os.utime(job.source, (1, 1))
    assert not Record(out).is_done(job.source, job.target, "key")
    Record(out).add(Record.of(job.source), job.target, "key", job.target)
    assert Record(out).is_done(job.source, job.target, "key")
    job.target.write_bytes(b"edited since")
    assert not Record(out).is_done(job.source, job.target, "key")
    assert not Record(out).is_ours(job.target)


def test_an_edit_of_equal_size_is_not_ours_but_where_no_time_was_noted(tree):
    out = tree / "in"
    result = out / "a_x4.png"
    result.write_bytes(b"made")
    Record(out).add_alone(result, result)
    os.utime(result, ns=(1, 1))
    assert not Record(out).is_ours(result)
    assert Record(out).is_result(result)  # which a copy of the folder must not enlarge again
    (out / RECORD).write_text('{"output": "a_x4.png", "size": 4}\n')  # of an earlier version
    assert Record(out).is_ours(result)


def test_leftovers_of_killed_runs_are_removed_and_those_of_others_stay(tmp_path):
    gone, alive, other = (
        tmp_path / name
        for name in (
            f".999999999.{machine()}01234567.part.png", f".{os.getppid()}.{machine()}01234567.part.png", ".a.part.b"
        )
    )  # fmt: skip
    elsewhere, old = (tmp_path / f".999999999.{mark}.part.png" for mark in ("f" * 16, "e" * 16))
    for path in (gone, alive, other, elsewhere, old):
        path.touch()
    os.utime(old, (1, 1))
    remove_leftovers([tmp_path, tmp_path / "nowhere"])
    assert [path.exists() for path in (gone, alive, other, elsewhere, old)] == [False, True, True, True, False]


def test_on_windows_leftovers_stay_because_asking_for_a_process_would_interrupt_it(tmp_path, monkeypatch):
    left = tmp_path / f".999999999.{machine()}01234567.part.png"
    left.touch()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.setattr(os, "kill", None)
        remove_leftovers([tmp_path])
    assert left.exists()


def test_the_weights_of_ncnn_models_tell_them_apart(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.param").write_text("the same layers")
        (tmp_path / f"{name}.bin").write_text(f"weights {name}")
    assert fingerprint(tmp_path / "a.param") != fingerprint(tmp_path / "b.param")


def test_an_input_is_not_overwritten_through_a_link_to_its_folder_either(tree):
    (tree / "link").symlink_to(tree / "in")
    with pytest.raises(EsrganError, match="is an input"):
        plan([tree / "in"], naming(tree / "link", pattern="{stem}"))


def test_results_in_the_folders_of_an_earlier_output_are_not_enlarged_again(tree):
    out = tree / "in" / "first"
    (job,) = (job for job in plan([tree / "in"], naming(out)).jobs if job.source.name == "c.webp")
    job.target.parent.mkdir(parents=True)
    photo(32, 32).save(job.target)
    Record(out).add(Record.of(job.source), job.target, "key", job.target)
    assert len(targets([tree / "in"], tree / "out")) == 3


def test_a_file_of_another_size_than_was_noted_is_no_result(tmp_path):
    result = tmp_path / "a_x4.png"
    result.write_bytes(b"made")
    Record(tmp_path).add_alone(result, result)
    assert Record(tmp_path).is_result(result)
    result.write_bytes(b"another picture")
    assert not Record(tmp_path).is_result(result)
