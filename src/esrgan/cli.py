"""The `esrgan` command: parse, call, print. Verbs live in `commands_*.py` and are imported when asked for."""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from esrgan import __version__
from esrgan.errors import EsrganError

VERBS = {
    "upscale": "esrgan.commands_upscale:upscale_command",
    "test": "esrgan.commands_test:test_command",
    "pretrain": "esrgan.commands_train:pretrain_command",
    "train": "esrgan.commands_train:train_command",
    "interpolate": "esrgan.commands_models:interpolate_command",
    "convert": "esrgan.commands_models:convert_command",
    "export": "esrgan.commands_models:export_command",
}
MODELS_VERBS = {
    "list": "esrgan.commands_library:list_command",
    "show": "esrgan.commands_models:show_command",
    "push": "esrgan.commands_models:push_command",
    "pull": "esrgan.commands_models:pull_command",
}


def build_app() -> App:
    """The command line, with every verb still unimported."""
    app = App(
        name="esrgan",
        help="Enlarge pictures with ESRGAN, and train your own networks.",
        version=__version__,
        result_action="return_value",
    )
    for name, target in VERBS.items():
        app.command(target, name=name)
    models = App(name="models", help="The models at hand, and moving them about.", result_action="return_value")
    for name, target in MODELS_VERBS.items():
        models.command(target, name=name)
    models.default(_list_models)
    app.command(models)
    data = App(name="data", help="Training pictures.", result_action="return_value")
    data.command("esrgan.commands_train:data_check_command", name="check")
    app.command(data)
    return app


def _list_models() -> None:
    """List the models at hand: shipped ones and those in your model folder."""
    from esrgan.commands_library import list_command  # noqa: PLC0415 - only when asked for

    list_command()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code: 0 done, 1 failed, 2 not understood, 130 interrupted."""
    try:
        result = build_app()(argv, exit_on_error=False, print_error=True)
    except CycloptsError as error:
        return 1 if isinstance(error.__cause__, EsrganError) else 2
    except EsrganError as error:
        print(f"esrgan: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("esrgan: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
