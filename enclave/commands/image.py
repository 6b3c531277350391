# SPDX-License-Identifier: Apache-2.0
"""`sericin image`: build an enclave image from pinned parts, and check that an image is what its commit builds."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from attestation.errors import AttestationError
from attestation.evidence import MAX_CONFIG
from attestation.image import PROFILES, ImageManifest
from attestation.shape import MAX_SHAPE, Shape

from ..image.authorities import AuthoritiesUnusable, make_authorities
from ..image.build import BuildFailed, build_parts
from ..image.bytecode import CompilerFailed
from ..image.deb import PackageUnusable
from ..image.fetch import Fetch, PartMissing
from ..image.lock import ImageLock
from ..image.manifest import MANIFEST, make_manifest
from ..image.source import Source, SourceUnusable, read_source
from ..image.tree import TreeConflict
from ..image.verify import first_difference, read_manifest
from ..models.refusal import ModelRefused

EXIT_DIFFERENT = 1
_EXITS: dict[type[Exception], int] = {
    AuthoritiesUnusable: 2, SourceUnusable: 2, BuildFailed: 6, CompilerFailed: 6, PartMissing: 6,
    PackageUnusable: 3, TreeConflict: 3, ModelRefused: 2, OSError: 6,
}  # fmt: skip
P = ParamSpec("P")
Say = Callable[[str], None]


def _reports(action: Callable[P, None]) -> Callable[P, None]:
    """End with the documented exit code; with --json, say why as a document."""

    @functools.wraps(action)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            action(*args, **kwargs)
        except AttestationError as e:
            _end(e, e.exit_code, code=e.code, as_json=bool(kwargs.get("as_json")))
        except tuple(_EXITS) as e:
            status = next(_EXITS[kind] for kind in type(e).__mro__ if kind in _EXITS)
            _end(e, status, code=type(e).__name__, as_json=bool(kwargs.get("as_json")))

    return wrapped


def _end(error: Exception, status: int, *, code: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"ok": False, "code": code, "exit": status, "error": str(error)}))
    else:
        click.echo(f"sericin image: {error}", err=True)
    raise SystemExit(status) from None


@contextmanager
def _steps() -> Iterator[Say]:
    """Say what is being done, on a terminal alone."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as status:
        yield status.update


@click.group(name="image")
def command() -> None:
    """Build enclave images and check them."""


_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@command.command(name="build", short_help="Build the image of the checkout's commit.")
@click.option("--profile", type=click.Choice(PROFILES), default="cpu", show_default=True, help="What it runs on.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to make; must not exist.")
@_json
@_reports
def build(profile: str, output: Path, *, as_json: bool) -> None:
    """Build the image of the checkout's commit into a new folder: the same bytes on every machine.

    Nothing needs root, nothing runs but the C compiler and the image's own Python, and what is fetched has the lock's
    digest. Exit codes: 2 no checkout, 3 a part that cannot be unpacked, 6 a part or tool that is missing.
    """
    if output.exists():
        raise click.UsageError(f"{output} exists: an image is built into a folder of its own")
    source = read_source()
    with _steps() as say:
        manifest = _build(source, profile, output, say)
    if as_json:
        document = {
            "ok": True,
            "exit": 0,
            "image": str(output),
            "image_id": manifest.image_id.hex(),
            "commit": source.commit,
            "left_out": list(source.changed),
        }
        click.echo(json.dumps(document, indent=2))
        return
    if source.changed:
        click.echo(f"{len(source.changed)} changed files are not in the image: it is commit {source.commit}", err=True)
    click.echo(f"{output}\nimage id {manifest.image_id.hex()}\ncommit   {source.commit}")


@command.command(name="verify", short_help="Build an image's commit again, and compare.")
@click.argument("image", type=click.Path(path_type=Path, file_okay=False))
@_json
@_reports
def verify(image: Path, *, as_json: bool) -> None:
    """Build the commit that the image in the folder IMAGE names, and compare. Exit code 1: something differs.

    The first file that differs is named. The compiler must be the image's: the manifest says which that is.
    """
    manifest = read_manifest(image)
    source = read_source(manifest.commit)
    with tempfile.TemporaryDirectory(prefix="sericin-verify-") as folder, _steps() as say:
        built = Path(folder) / "image"
        _build(source, manifest.profile, built, say)
        found = first_difference(image, built)
    if as_json:
        row = (
            None if found is None else {"where": found.where, "want": found.want, "got": found.got, "hint": found.hint}
        )
        status = 0 if found is None else EXIT_DIFFERENT
        document = {"ok": found is None, "exit": status, "image_id": manifest.image_id.hex(), "difference": row}
        click.echo(json.dumps(document, indent=2))
    elif found is None:
        click.echo(f"equal: commit {manifest.commit} builds image {manifest.image_id.hex()}")
    else:
        click.echo(f"DIFFERENT: {found.where}\n  built {found.want}\n  image {found.got}")
        if found.hint:
            click.echo(f"  {found.hint}")
    if found is not None:
        raise SystemExit(EXIT_DIFFERENT)


def _build(source: Source, profile: str, output: Path, say: Say) -> ImageManifest:
    """Build into `output`, whole or not at all."""
    lock = ImageLock.parse(source.read(f"enclave/data/image-{profile}.lock.json"))
    if lock.profile != profile:
        raise BuildFailed(f"the lock of {profile} is one of {lock.profile}")
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        parts = build_parts(source, lock, draft, fetch=Fetch(say=say), say=say)
        say("measuring")
        manifest = make_manifest(parts, source=source, lock=lock)
        (draft / MANIFEST).write_bytes(manifest.encode())
        for path in draft.iterdir():
            path.chmod(0o644)
        draft.chmod(0o755)
        draft.rename(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


@command.command(name="authorities", short_help="Make the SIMULATED authorities of an emulated machine.")
@click.argument("state", type=click.Path(path_type=Path))
@click.option("--image", required=True, type=click.Path(path_type=Path), help="Folder of the image.")
@click.option("--shape", required=True, type=click.Path(path_type=Path), help="Shape file of an emulated machine.")
@click.option("--config", required=True, type=click.Path(path_type=Path), help="Config document.")
@click.option("--model", "models", multiple=True, type=click.Path(path_type=Path), help="Model file; may be repeated.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Disk file to write.")
@_json
@_reports
def authorities(
    state: Path, image: Path, shape: Path, config: Path, models: tuple[Path, ...], output: Path, *, as_json: bool
) -> None:
    """Make the SIMULATED authorities of an emulated machine in the folder STATE, and the disk that takes them there.

    `sericin policy init --simulator STATE` then makes the policy that accepts this image in this shape. NOT
    CONFIDENTIAL: whoever has STATE signs for the machine.
    """
    with Progress(
        TextColumn("Hashing models"), BarColumn(), DownloadColumn(), console=Console(stderr=True),
        disable=not sys.stderr.isatty(), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=sum(path.stat().st_size for path in models if path.is_file()))
        data = make_authorities(
            state,
            manifest=read_manifest(image),
            shape=Shape.parse(_read(shape, MAX_SHAPE)),
            config=_read(config, MAX_CONFIG),
            models=models,
            now=datetime.now(UTC),
            progress=lambda size: bar.advance(task, size),
        )
    with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data + bytes(-len(data) % 512))
    if as_json:
        click.echo(json.dumps({"ok": True, "exit": 0, "state": str(state), "disk": str(output)}))
    else:
        click.echo(str(output))


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit + 1)
