"""An avatar's networks in its folder, in diffusers' layout, and where in which file each weight lies.

    body/{unet,controlnet,hint}  {head,hand}/{unet,controlnet,hint,decoder}  vae  image_encoder

The autoencoder is our own (Autoencoder16), or the base model's (AutoencoderKL), which serves body and head alike.
Weights are stored in half precision (the latents' statistics in single) and are computed with in single.
It knows networks and files, not avatars, graphs or training.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import CLIPVisionModel

from engine.errors import InputError
from engine.networks.autoencoder import Autoencoder16, Decoder
from engine.networks.configs import BASE_VAE, AvatarConfig
from engine.networks.diffusion import StructureGuided, build_image_encoder
from engine.networks.hint import HintEncoder

MODEL_WEIGHTS, TRANSFORMERS_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"


class HeadDecoder(ModelMixin, ConfigMixin):
    """A decoder of the head's or the hands' own, stored without an encoder: they are encoded by the body's."""

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, int, int] = (128, 64, 48),
        layers: tuple[int, int, int] = (3, 2, 1),
        latent_channels: int = 16,
        hint_channels: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.decoder = Decoder(channels, layers, latent_channels, hint_channels)

    def forward(self, latents: Tensor, skips: tuple[Tensor, Tensor] | None = None) -> Tensor:
        out: Tensor = self.decoder(latents, skips)
        return out


@dataclass
class AvatarNetworks:
    """Every network of an avatar; without `head` there is no face pass, without `head_decoder` `vae` decodes it too."""

    body: StructureGuided
    vae: Autoencoder16 | AutoencoderKL
    image_encoder: CLIPVisionModel
    head: StructureGuided | None = None
    head_decoder: HeadDecoder | None = None
    hand: StructureGuided | None = None  # one for both hands
    hand_decoder: HeadDecoder | None = None

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """(folder below the avatar's, network) for each that is stored."""
        for name, guided in (("body", self.body), ("head", self.head), ("hand", self.hand)):
            if guided is not None:
                yield f"{name}/unet", guided.unet
                yield f"{name}/controlnet", guided.controlnet
                if guided.hint is not None:
                    yield f"{name}/hint", guided.hint
        if self.head_decoder is not None:
            yield "head/decoder", self.head_decoder
        if self.hand_decoder is not None:
            yield "hand/decoder", self.hand_decoder
        yield "vae", self.vae
        yield "image_encoder", self.image_encoder

    def eval(self) -> AvatarNetworks:
        """Ready to compute, not to learn."""
        for _, network in self.parts():
            network.eval().requires_grad_(False)
        return self


@dataclass(frozen=True)
class Place:
    """Where a weight lies: a file below the avatar's folder, and its key there."""

    file: str
    key: str


def build(config: AvatarConfig, head: bool = True, hand: bool = True) -> AvatarNetworks:
    """Fresh weights."""
    vae = AutoencoderKL(**BASE_VAE) if config.vae is None else Autoencoder16(**config.vae)
    networks = AvatarNetworks(StructureGuided.build(config.body), vae, build_image_encoder(config.image_encoder))
    if head:
        networks.head = StructureGuided.build(config.head)
    if head and config.head_vae is not None:
        networks.head_decoder = _decoder({**vae.config, **config.head_vae})
    if hand and config.hand is not None and config.hand_vae is not None:
        networks.hand = StructureGuided.build(config.hand)
        networks.hand_decoder = _decoder({**vae.config, **config.hand_vae})
    return networks


def save(networks: AvatarNetworks, folder: Path) -> None:
    """Write every network's config.json and weights; each file at once or not at all."""
    for name, network in networks.parts():
        save_part(network, folder, name)


def save_part(network: nn.Module, folder: Path, name: str, dtype: torch.dtype = torch.half) -> None:
    """Write one network's config.json and weights into FOLDER/NAME; each file at once or not at all."""
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".half-", dir=folder) as half:
        stored_as(network, dtype).save_pretrained(half)  # type: ignore[operator]
        for file in sorted(Path(half).iterdir(), reverse=True):
            if file.name == "config.json":
                _tidy(file)
            file.chmod(0o644)
            os.replace(file, target / file.name)


def load(folder: Path) -> AvatarNetworks:
    """The networks that lie in `folder`, in single precision. InputError where one is missing or broken."""
    vae = load_part(_kind_of_vae(folder), folder, "vae")
    networks = AvatarNetworks(load_guided(folder, "body"), vae, load_part(CLIPVisionModel, folder, "image_encoder"))
    if (folder / "head" / "unet").is_dir():
        networks.head = load_guided(folder, "head")
        if isinstance(vae, Autoencoder16):
            networks.head_decoder = load_part(HeadDecoder, folder, "head/decoder")
    if (folder / "hand" / "unet").is_dir():
        networks.hand = load_guided(folder, "hand")
        networks.hand_decoder = load_part(HeadDecoder, folder, "hand/decoder")
    return networks.eval()


def load_guided(folder: Path, name: str) -> StructureGuided:
    """UNet, ControlNet and perhaps a hint encoder in FOLDER/NAME, in single precision. InputError as load_part."""
    unet = load_part(UNet2DConditionModel, folder, f"{name}/unet")
    controlnet = load_part(ControlNetModel, folder, f"{name}/controlnet")
    hint = load_part(HintEncoder, folder, f"{name}/hint") if (folder / name / "hint").is_dir() else None
    return StructureGuided(unet, controlnet, hint)


def load_part(kind: Any, folder: Path, name: str, alone: bool = True) -> Any:
    """The network of class `kind` in FOLDER/NAME, in single precision. InputError where it is missing or broken.

    `alone` False: its weights may lie among those of other networks (a vision tower's in the whole of CLIP).
    """
    if not (folder / name).is_dir():  # else it would be taken for a name on the network
        raise InputError(str(folder / name), "network", f"a folder with a {kind.__name__}", "no such folder")
    try:
        network, info = kind.from_pretrained(folder / name, output_loading_info=True, local_files_only=True)
    except Exception as error:  # of many kinds: a file that is missing, half, or another network's
        raise InputError(str(folder / name), "network", f"a {kind.__name__}", str(error).split("\n")[0][:200]) from None
    for what in ("missing_keys", "mismatched_keys", *(("unexpected_keys",) if alone else ())):  # it would make them up
        if info[what]:
            got = f"{what.replace('_', ' ')}: {sorted(map(str, info[what]))[0]}"
            raise InputError(str(folder / name), "weights", f"those of its config.json's {kind.__name__}", got)
    return network.float()


def places(networks: AvatarNetworks) -> dict[int, Place]:
    """Where each weight and statistic of loaded `networks` lies, by the tensor's id()."""
    found = {}
    for name, network in networks.parts():
        file = TRANSFORMERS_WEIGHTS if isinstance(network, CLIPVisionModel) else MODEL_WEIGHTS
        for key, tensor in network.state_dict(keep_vars=True).items():
            found[id(tensor)] = Place(f"{name}/{file}", key)
    return found


def spans(file: Path) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """dtype, shape, offset in the file and length in bytes of every tensor in a .safetensors file, by key."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise InputError(str(file), "file", "safetensors", str(error)) from None
    header.pop("__metadata__", None)
    begin = 8 + length
    return {
        key: (entry["dtype"], tuple(entry["shape"]), begin + entry["data_offsets"][0],
              entry["data_offsets"][1] - entry["data_offsets"][0])
        for key, entry in header.items()
    }  # fmt: skip


def stored_as(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy with its weights, though not its statistics, in `dtype`; itself where they are already."""
    if all(parameter.dtype == dtype for parameter in network.parameters()):
        return network
    copied = deepcopy(network)
    for parameter in copied.parameters():
        parameter.data = parameter.data.to(dtype).contiguous()
    return copied


def _decoder(sizes: Mapping[str, Any]) -> HeadDecoder:
    return HeadDecoder(
        sizes["decoder_channels"], sizes["decoder_layers"], sizes["latent_channels"], sizes["hint_channels"]
    )


def _kind_of_vae(folder: Path) -> Any:
    try:
        fields = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
        base = fields["_class_name"] == AutoencoderKL.__name__
    except (OSError, ValueError, KeyError, TypeError):
        base = False  # what is wrong with it is said when it is loaded
    return AutoencoderKL if base else Autoencoder16


def _tidy(config: Path) -> None:
    """Take this machine out of a config.json."""
    fields = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
