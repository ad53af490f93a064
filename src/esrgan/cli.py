"""The `esrgan` command: parse, call, print. Verbs live in `commands_*.py` and are imported when asked for."""

import io
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from esrgan import __version__
from esrgan.commands_options import whole_numbers
from esrgan.errors import EsrganError, UsageError, is_unread, printable

VERBS = {
    "upscale": ("commands_upscale:upscale_command", "Enlarge pictures: files, folders, or standard input."),
    "test": ("commands_test:test_command", "Score a model on benchmark folders: PSNR-Y, SSIM-Y, LPIPS, grids, colour."),
    "pretrain": ("commands_train:pretrain_command", "Stage 1: train a generator with L1. The same again resumes."),
    "train": ("commands_train:train_command", "Stage 2: GAN training from a stage-1 model. The same again resumes."),
    "interpolate": ("commands_models:interpolate_command", "Blend models into one, such as a PSNR and a GAN model."),
    "convert": ("commands_models:convert_command", "Write a model under the names that other programs read."),
    "export": ("commands_models:export_command", "Write a model for ONNX, OpenVINO, ncnn or torch.export."),
}
MODELS_VERBS = {
    "list": ("commands_library:list_command", "List the models at hand: scale, kind, size, scores, licence."),
    "show": ("commands_models:show_command", "Say what a model file is: network, provenance, cost per megapixel here."),
    "push": ("commands_models:push_command", "Upload a model with its card to the Hugging Face Hub."),
    "pull": ("commands_models:pull_command", "Download a model from the Hugging Face Hub."),
}
DATA_VERBS = {"check": ("commands_train:data_check_command", "Say what is wrong with training pictures.")}
"""Name -> where it lives, and what the list of commands says of it, for which it is not imported."""


def build_app(argv: Sequence[str]) -> App:
    """The command line for ``argv``, with every verb still unimported."""
    app = App(
        name="esrgan",
        help="Enlarge pictures with ESRGAN, and train your own networks.",
        version=__version__,
        config=whole_numbers,
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # ``main`` says it
    )
    _add(app, VERBS, argv)
    models = App(name="models", help="List, show, upload and download models.", result_action="return_value")
    _add(models, MODELS_VERBS, argv)
    models.default(_list_models)
    app.command(models)
    data = App(name="data", help="Check training pictures.", result_action="return_value")
    _add(data, DATA_VERBS, argv)
    app.command(data)
    return app


def _add(app: App, verbs: dict[str, tuple[str, str]], argv: Sequence[str]) -> None:
    for name, (target, summary) in verbs.items():
        app.command(f"esrgan.{target}", name=name, help=None if name in argv else summary)  # none = its docstring


def _list_models() -> None:
    """List the models at hand: shipped ones and those in your model folder."""
    from esrgan.commands_library import list_command  # noqa: PLC0415 - only when asked for

    list_command()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code: 0 done, 1 failed, 2 not understood, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    return run(build_app(argv), argv)


def run(app: App, argv: Sequence[str]) -> int:
    """Run a program of ours; gives the exit code, as of ``main``. Errors are one line."""
    _settle_streams()
    try:
        _refuse_empty(argv)
        result = app(argv, exit_on_error=False, print_error=True)
    except CycloptsError as error:
        return 1 if isinstance(error.__cause__, EsrganError) else 2
    except EsrganError as error:
        print(f"esrgan: {printable(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("esrgan: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if is_unread(error):  # a picture on standard output
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print(f"esrgan: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return result if isinstance(result, int) else 0


def _settle_streams() -> None:
    """Let output that nobody reads, or a name that the console cannot show, not end the work."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - as long as the program
        elif type(stream) is io.TextIOWrapper:
            code, lines = stream.encoding, stream.line_buffering
            setattr(sys, name, _Unread(stream.detach(), code, "backslashreplace", line_buffering=lines))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Unread(io.TextIOWrapper):
    """Text for a pipe, whose reader may go away, as `head` does: from then on it goes nowhere."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._to_nowhere(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._to_nowhere(error)

    def _to_nowhere(self, error: OSError) -> None:
        if not is_unread(error):
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def _refuse_empty(argv: Sequence[str]) -> None:
    """As a path, an empty argument would be the current folder."""
    for before, argument in zip(("esrgan", *argv), argv, strict=False):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            after = argument.rstrip("=") or before
            raise UsageError(f"nothing after {after}, as of a variable that is not set; the current folder is .")


if __name__ == "__main__":
    sys.exit(main())
