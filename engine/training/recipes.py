"""The stages of training by name: in what order they come, what each builds on, and how fast each learns.

The paper trains in two stages (arXiv 2403.16510, section 3.4): several identities with the background removed (`pretrain`), then
one identity with its background (`finetune`); its face model is trained apart. A `tiny` avatar has an autoencoder of its own,
trained first, where SD1.5 comes with one. Distillation to few steps is for those who run more than the one that tiny avatars are
finetuned for, or with guidance.

    autoencoder -> pretrain -> finetune (-> distill) -> face -> hands
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import InputError
from engine.training.loop import Recipe


@dataclass(frozen=True)
class Plan:
    """One stage: its recipe, and the stages before it whose weights it takes from RUNS, the later ones counting."""

    recipe: Recipe
    before: tuple[str, ...] = ()
    background: bool = True  # False: the person on black, cut out by the clip's matte
    one_identity: bool = False


TINY = {
    "autoencoder": Plan(Recipe(rate=2e-3)),
    "pretrain": Plan(Recipe(rate=1e-3), ("autoencoder",), background=False),
    "finetune": Plan(Recipe(rate=6e-4, warm_up=100), ("autoencoder", "pretrain"), one_identity=True),
    "distill": Plan(
        Recipe(rate=2e-4, warm_up=100, decay=0.99), ("autoencoder", "pretrain", "finetune"), one_identity=True
    ),
    "face": Plan(Recipe(rate=1e-3), ("autoencoder", "pretrain", "finetune", "distill"), one_identity=True),
    "hands": Plan(Recipe(rate=1e-3), ("autoencoder", "pretrain", "finetune", "distill"), one_identity=True),
}
# The paper's and its authors' settings; batches of 4 frames. 300,000 steps of pretrain, 50,000 of finetune, 80,000 of face.
PAPER = Recipe(rate=1e-5, final=1.0, warm_up=500, weight_decay=1e-2, decay=0.9999)
SD15 = {
    "pretrain": Plan(PAPER, background=False),
    "finetune": Plan(PAPER, ("pretrain",), one_identity=True),
    "distill": Plan(Recipe(rate=8e-6, final=1.0, warm_up=500, decay=0.95), ("pretrain", "finetune"), one_identity=True),
    "face": Plan(PAPER, one_identity=True),
}
PLANS = {"tiny": TINY, "sd15": SD15}


def plan(config: str, stage: str) -> Plan:
    """How `stage` is trained in a configuration. InputError where there is no such stage."""
    plans = PLANS.get(config, TINY)
    if stage not in plans:
        raise InputError("train", "stage", " | ".join(plans), stage)
    return plans[stage]
