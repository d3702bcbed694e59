"""An avatar of Stable Diffusion 1.5's shape, a quarter as wide, but with its head dimensions: two heads of 40, 80 and 160.

Kernels that fuse attention are made for real head dimensions, and more than one head; so what stands for the full size keeps them.
"""

from __future__ import annotations

from pathlib import Path

from mya_tree import SMALL, Sizes, write_tree

from engine.importing.make_your_anchor import Origin, import_avatar

HEADS = 2
_COMMON = {
    "block_out_channels": (40 * HEADS, 80 * HEADS, 160 * HEADS, 160 * HEADS),
    "layers_per_block": 1,  # of its 2: every kind of block is there
    "cross_attention_dim": 32,
    "attention_head_dim": HEADS,  # diffusers calls the number of heads so
    "norm_num_groups": 8,
}
NARROW = Sizes(
    unet={
        "sample_size": 32,
        **_COMMON,
    },  # the face's latents are half as large, and attention over one token fuses nowhere
    controlnet={"conditioning_embedding_out_channels": (8, 8, 16, 16), **_COMMON},
    vae=SMALL.vae,
    text=SMALL.text,
    vision=SMALL.vision,
)


def write_narrow(folder: Path) -> Path:
    """An avatar of 256 pixels with a face of 128, random weights, not exported yet, in FOLDER/narrow."""
    tree = write_tree(folder / "checkpoint", NARROW)
    parts = (tree.source, tree.base, tree.image_encoder, tree.body_picture, tree.head_picture)
    import_avatar(Origin(*parts, camera=(0.0, -0.3, 8.0)), folder / "narrow", lambda line: None)
    return folder / "narrow"
