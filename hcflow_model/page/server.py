"""Serves the page: to this machine alone by default, with nothing from elsewhere."""
import contextlib
import os
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path

from hcflow_arch import InputError
from hcflow_model.checkpoints.pretrained import load_pretrained
from hcflow_model.inference.upscaler import HCFlowImages, HCFlowRescaler, HCFlowUpscaler

CLASSES = {'sr': HCFlowUpscaler, 'rescaling': HCFlowRescaler}
LOCAL = ('127.0.0.1', 'localhost')
SECONDS_TO_CLOSE = 1  # that open connections get at the end


def networks(weights: Sequence[str], param_key: str, **arguments) -> dict[str, HCFlowImages]:
    """The networks of the page, {task: network}: the given ones, and for a task without one that of the package.

    Args:
        weights: Checkpoints, at most one for each task.
        param_key: As of :class:`HCFlowImages`.
        arguments: More of them.
    """
    found = {}
    for path in weights:
        net = load_pretrained(path, param_key=param_key)
        if net.task in found:
            raise InputError(f'--weights has two networks for task {net.task!r}; give one for each task.')
        found[net.task] = CLASSES[net.task](net, **arguments)
    return {task: found.get(task) or kind(**arguments) for task, kind in CLASSES.items()}


def listen(host: str, port: int) -> socket.socket:
    """A socket for :func:`serve`.

    Args:
        host, port: Where to listen. Only 127.0.0.1 and localhost cannot be reached from other machines.

    Raises:
        InputError: They cannot be used.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno)
        raise InputError(f'Cannot listen on {host}, port {port}: {reason}. Give another --port or --host.') from error


def serve(images: dict[str, HCFlowImages], listening: socket.socket, host: str, max_upload: int,
          opens_browser: bool) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        images: What :func:`networks` returned.
        listening: What :func:`listen` returned for this host.
        host: As the user wrote it.
        max_upload: Largest file that is taken, in MB.
        opens_browser: Open it in this machine's browser, too.
    """
    port = listening.getsockname()[1]
    with _own_folder() as folder:
        import gradio as gr
        import uvicorn
        from fastapi import FastAPI
        from fastapi.middleware.trustedhost import TrustedHostMiddleware

        from .blocks import CSS, Page
        from .shown import bundled_pictures
        page = Page(folder, images['sr'], images['rescaling'])

        @contextlib.asynccontextmanager
        async def lifespan(app):
            yield
            page.stop_all()  # else the process would go on until they are done

        app = FastAPI(lifespan=lifespan, openapi_url=None)
        if host in LOCAL:  # pages from elsewhere, whose names lead here, must not read this one
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)
        gr.mount_gradio_app(
            app, page.blocks(), path='/', server_name=host, server_port=port, footer_links=[], run_history=False,
            max_file_size=f'{max_upload}mb', ssr_mode=False, mcp_server=False, enable_monitoring=False,
            allowed_paths=[str(path) for path in bundled_pictures()], css=CSS,
            theme=gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace']))
        server = uvicorn.Server(uvicorn.Config(app, log_level='warning', timeout_graceful_shutdown=SECONDS_TO_CLOSE))
        address = f'http://{host}:{port}'
        sys.stdout.write(f'The page is at {address} (Ctrl-C ends it).\n')
        sys.stdout.flush()
        if opens_browser:
            webbrowser.open(address)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # which the server raises again at its end
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


@contextlib.contextmanager
def _own_folder() -> Iterator[Path]:
    """The only folder that is written to: uploads, pictures, and what libraries keep. It is removed at the end."""
    with tempfile.TemporaryDirectory(prefix='hcflow_page_', ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED='False', HF_HUB_OFFLINE='1',
                          MPLCONFIGDIR=folder)  # read when Gradio is imported
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = None
