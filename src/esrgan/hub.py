"""Models on the Hugging Face Hub: one repository is one model file, its card and some pictures."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from esrgan.errors import EsrganError, UsageError, first_line
from esrgan.extras import import_extra
from esrgan.model_file import SUFFIXES, Header, read_model

PREFIX = "hf:"
NAME = "model.safetensors"
LICENCES = ("apache-2.0", "mit", "cc0-1.0", "unlicense", "bsd-2-clause", "bsd-3-clause", "wtfpl", "agpl-3.0", "gpl-3.0",
            "lgpl-3.0", "mpl-2.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0",
            "openrail")  # fmt: skip
"""What the Hub takes for a licence of those that models have; anything else is "other" with a name."""


def pull(repository: str, *, refresh: bool = False, endpoint: str | None = None, cache: Path | None = None) -> Path:
    """The model file of the repository ``owner/name`` (``hf:`` before it may stay), from huggingface_hub's own cache.

    Args:
        repository: ``owner/name``, or ``owner/name/file`` where there are several model files.
        refresh: Ask the Hub whether there is a newer one. Otherwise what is in the cache is taken, without a network.
        endpoint: Another Hub than ``HF_ENDPOINT`` or huggingface.co.
        cache: Another cache than huggingface_hub's.

    Raises:
        EsrganError: No such repository, several model files or none in it, no network, or no huggingface_hub.
    """
    hub = _hub()
    owner, _, rest = repository.removeprefix(PREFIX).partition("/")
    name, _, wanted = rest.partition("/")
    repo_id = f"{owner}/{name}"
    _require_owner(repo_id)
    cached = None if refresh else _cached(hub, repo_id, wanted, cache)
    if cached and (wanted or cached.name == NAME):  # which of several files is meant, the Hub alone can tell
        return cached
    try:
        with _explained(hub, repo_id):
            info = hub.HfApi(endpoint=endpoint).model_info(repo_id)
    except EsrganError:
        if cached:
            return cached
        raise
    file = _choose(repo_id, wanted, [sibling.rfilename for sibling in info.siblings or ()])
    with _explained(hub, repo_id):
        if file.endswith(".param"):
            hub.hf_hub_download(repo_id, f"{file.removesuffix('.param')}.bin", endpoint=endpoint, cache_dir=cache)
        return Path(hub.hf_hub_download(repo_id, file, endpoint=endpoint, cache_dir=cache))


def _require_owner(repo_id: str) -> None:
    if not all(repo_id.partition("/")):
        raise UsageError(f"{repo_id.strip('/')} names no repository; give it as owner/name")


def push(
    model: Path,
    repository: str,
    *,
    previews: Sequence[Path] = (),
    private: bool = False,
    overwrite: bool = False,
    endpoint: str | None = None,
) -> str:
    """Upload ``model`` as the one model file of ``owner/name``, with a card made from its header; gives the address.

    Args:
        model: A model file of ours; others are to be converted first.
        repository: ``owner/name``; made where there is none.
        previews: Pictures that the card shows.
        private: Make a new repository visible to its owner only.
        overwrite: Replace a model and a card that are there.
        endpoint: Another Hub than ``HF_ENDPOINT`` or huggingface.co.

    Raises:
        EsrganError: Not a model file of ours, a picture that is missing or has another's name, no permission, files in
            the place of ours, or no huggingface_hub.
    """
    hub = _hub()
    found = read_model(model)
    if found.dialect != "esrgan":
        raise EsrganError(f"{model} has no header to make a card from; `esrgan convert {model} OUT.safetensors` first")
    missing = [path for path in previews if not path.is_file()]
    if missing:
        raise EsrganError(f"there is no picture {missing[0]}")
    repo_id = repository.removeprefix(PREFIX)
    _require_owner(repo_id)
    pictures = {f"previews/{path.name}": path for path in previews}
    if len(pictures) < len(previews):
        raise EsrganError("two previews have the same name, and one would replace the other; rename one")
    text = card(repo_id, found.header, list(pictures))
    files = {NAME: model, "README.md": text.encode(), **pictures}
    with _explained(hub, repo_id):
        api = hub.HfApi(endpoint=endpoint)
        there = [] if overwrite else _files(hub, api, repo_id) & files.keys()
        if there:
            raise EsrganError(f"{repo_id} has {' and '.join(sorted(there))} already; --overwrite replaces them")
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        operations = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
        api.create_commit(repo_id, operations, commit_message=f"{model.stem}")
        return str(url)


def card(repo_id: str, header: Header, previews: Sequence[str] = ()) -> str:
    """The README of a model's repository, in Markdown with the Hub's metadata before it."""
    config, about = header.config, header.provenance
    licence = str(about.get("licence", "not stated"))
    known = licence.lower() in LICENCES
    lines = [
        "---",
        f"license: {licence.lower() if known else 'other'}",
        *([] if known else [f"license_name: {json.dumps(licence)}"]),
        "library_name: esrgan",
        "pipeline_tag: image-to-image",
        "tags: [super-resolution, esrgan]",
        "---",
        f"# {Path(repo_id).name}",
        "",
        f"ESRGAN, x{config.scale}: {config.blocks} blocks, {config.channels} channels, growth {config.growth}.",
        "",
        f"    esrgan upscale photo.jpg --model {PREFIX}{repo_id}",
        "",
        *(f"![{Path(name).stem}]({quote(name)})" for name in previews),
        "",
        "## What the model file says of itself",
        "",
        *_bullets(about),
    ]
    return "\n".join(lines) + "\n"


def _bullets(about: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in about.items():
        if isinstance(value, dict):
            yield f"{indent}- {name}:"
            yield from _bullets(value, indent + "  ")
        else:
            yield f"{indent}- {name}: {value}"


def _choose(repo_id: str, wanted: str, names: Sequence[str]) -> str:
    models = [name for name in names if name.endswith(SUFFIXES)]
    if wanted in models or (not wanted and len(models) == 1):
        return wanted or models[0]
    if not wanted and NAME in models:
        return NAME
    if not models:
        raise EsrganError(f"{repo_id} has no model file ({' or '.join(SUFFIXES)})")
    raise EsrganError(f"{repo_id} has several files; choose one: {', '.join(f'{repo_id}/{name}' for name in models)}")


def _cached(hub: Any, repo_id: str, wanted: str, cache: Path | None) -> Path | None:
    """The model file of the repository that is in the cache, if one is, or several of which one is chosen."""
    try:
        folder = Path(hub.snapshot_download(repo_id, local_files_only=True, cache_dir=cache))
        return folder / _choose(repo_id, wanted, [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")])
    except (hub.errors.LocalEntryNotFoundError, EsrganError, ValueError):
        return None


def _files(hub: Any, api: Any, repo_id: str) -> set[str]:
    """What lies in a repository; nothing where there is none."""
    try:
        return {sibling.rfilename for sibling in api.model_info(repo_id).siblings or ()}
    except hub.errors.RepositoryNotFoundError:
        return set()


def _hub() -> Any:
    hub = import_extra("huggingface_hub", "hub")
    import_module("huggingface_hub.errors")
    return hub


@contextmanager
def _explained(hub: Any, repo_id: str) -> Iterator[None]:
    try:
        yield
    except hub.errors.RepositoryNotFoundError as error:
        raise EsrganError(
            f"there is no model {repo_id} on the Hub, or it is not yours to use: `hf auth login`"
        ) from error
    except (hub.errors.HTTPError, OSError, ValueError) as error:
        reason = first_line(error)
        raise EsrganError(f"the Hub cannot be used for {repo_id} ({reason})") from error
