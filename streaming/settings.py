"""The server's settings: command line over environment (`LIVEANCHOR_*`) over a TOML file over defaults."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from engine.errors import InputError


class Settings(BaseSettings):
    """What `liveanchor serve` can be told. Sizes in pixels, rates in bits per second, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="LIVEANCHOR_", extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on; the loopback unless told otherwise")
    port: int = Field(0, ge=0, le=65535, description="TCP port of the page; 0 takes a free one")
    udp_host: str = Field("127.0.0.1", description="address for poses by UDP")
    udp_port: int | None = Field(None, ge=0, le=65535, description="UDP port for poses; none by default")
    avatar: Path | None = Field(None, description="avatar folder; the bundled anchor by default")
    body: Path | None = Field(None, description="SMPLX_*.npz of your own; the stand-in by default")
    pose: Path | None = Field(None, description="clip to play; the bundled one by default")
    format: str | None = Field(None, description="the clip's format where it cannot be told from the file")
    bone_map: Path | None = Field(None, description="joint names of a BVH file whose own are not known")
    audio: Path | None = Field(None, description="sound to play with the clip")
    loop: bool = Field(True, description="play the clip again when it ends")
    runtime: str = Field("auto", description="what runs the networks; `liveanchor doctor` lists what there is")
    precision: str = Field("auto", description="f32, bf16, f16, int8 or auto")
    threads: int | None = Field(None, ge=1, description="threads for the networks")
    steps: int | None = Field(None, ge=1, description="denoising steps; the avatar's own by default")
    mode: Literal["offline", "exact", "causal", "bank"] | None = Field(
        None, description="how frames see each other; the avatar's own by default"
    )
    window: int | None = Field(None, ge=1, le=63, description="frames of a window; the avatar's own by default")
    overlap: int | None = Field(None, ge=0, le=62, description="frames that two windows share")
    seed: int = Field(0, ge=0)
    govern: bool = Field(
        False, description="paint cheaper while the budget is exceeded; each decision is logged and shown"
    )
    delay_budget_ms: float = Field(
        250.0, gt=0, le=10_000, description="from pose to finished picture, for the governor"
    )
    fps_budget: float | None = Field(
        None, gt=0, le=240, description="painted pictures a second, for the governor; the avatar's by default"
    )
    record: Path | None = Field(None, description="folder for a pose log of the show; none by default")
    max_viewers: int = Field(8, ge=1, le=1000)
    picture_bitrate: int = Field(2_500_000, ge=100_000, le=20_000_000)
    condition_bitrate: int = Field(300_000, ge=50_000, le=5_000_000)
    sound_bitrate: int = Field(64_000, ge=6_000, le=256_000)
    encode_threads: int = Field(1, ge=1, le=16)
    allowed_origins: tuple[str, ...] = Field((), description="other sites whose pages may use this server; `*` for all")
    ice_servers: tuple[str, ...] = Field((), description="stun: or turn: addresses given to viewers and used here")
    log_format: Literal["text", "json"] = "text"

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if origin != "*" and (parts.scheme not in ("http", "https") or not parts.netloc or parts.path):
                raise ValueError(f"an origin like https://studio.example, got {origin!r}")
        return origins

    @field_validator("ice_servers")
    @classmethod
    def _check_ice_servers(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for server in servers:
            if not server.startswith(("stun:", "turn:", "turns:")):
                raise ValueError(f"an address like stun:host:port, got {server!r}")
        return servers

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` gives, and the environment."""
        return init_settings, env_settings


def load_settings(file: Path | None = None, **options: Any) -> Settings:
    """Settings from `options` (None: not given), the environment and the TOML `file`, in that order of precedence.

    Raises InputError with the file or variable, the field and what was expected.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        chosen = Settings(**given)
        if file is None:
            return chosen
        explicit = {name: getattr(chosen, name) for name in chosen.model_fields_set}
        return Settings(**(_read_toml(file) | explicit))
    except ValidationError as error:
        raise _explain(error, given, file) from None
    except SettingsError as error:  # a list that is not JSON; the message names the field and the source
        name = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "settings")
        raise InputError(
            "environment", name, "JSON", os.environ.get(f"LIVEANCHOR_{name.upper()}", "something else")
        ) from None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InputError(str(file), "file", "a readable TOML file", error.strerror or str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(file), "file", "TOML", str(error)) from None


def _explain(error: ValidationError, given: dict[str, Any], file: Path | None) -> InputError:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    if name in given:
        where = "settings"
    elif file is not None and name in _read_toml(file):
        where = str(file)
    else:
        where = f"environment LIVEANCHOR_{name.upper()}"
    if first["type"] == "extra_forbidden":
        return InputError(where, name, f"one of {', '.join(sorted(Settings.model_fields))}", "an unknown setting")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return InputError(where, name, message, repr(first.get("input")))
