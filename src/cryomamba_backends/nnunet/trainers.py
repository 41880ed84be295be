"""What nnU-Net's trainers make of the network that plans describe. They are known by name, and never imported."""

from __future__ import annotations

from attrs import evolve

from cryomamba_backends.nnunet.plans import BuiltNetworkRecipe, ModelRecipe, NetworkRecipe
from cryomamba_backends.nnunet.primus import PRIMUS, primus_recipe
from cryomamba_backends.nnunet.supplied import NETWORKS, is_supplied
from cryomamba_core.errors import UnsupportedModel, UnusableModel

_TRAINERS = """
nnUNetTrainer nnUNetTrainerBenchmark_5epochs nnUNetTrainerBenchmark_5epochs_noDataLoading nnUNetTrainerDA5
nnUNetTrainerDA5ord0 nnUNetTrainerDA5Segord0 nnUNetTrainerDA5_10epochs nnUNetTrainerNoDA nnUNetTrainer_DASegOrd0
nnUNetTrainer_DASegOrd0_NoMirroring nnUNetTrainer_noDummy2DDA nnUNetTrainerNoMirroring nnUNetTrainer_onlyMirror01
nnUNetTrainer_onlyMirror01_1500ep nnUNetTrainer_onlyMirror01_DASegOrd0 nnUNetTrainer_onlyMirror01_DA5
nnUNetTrainer_warmup nnUNetTrainerCosAnneal nnUNetTrainerAdan nnUNetTrainerAdan1en3 nnUNetTrainerAdan3en4
nnUNetTrainerAdan1en1 nnUNetTrainerAdanCosAnneal nnUNetTrainerAdam nnUNetTrainerAdam1en3 nnUNetTrainerAdam3en4
nnUNetTrainerVanillaAdam nnUNetTrainerVanillaAdam1en3 nnUNetTrainerVanillaAdam3en4 nnUNetTrainer_1epoch
nnUNetTrainer_5epochs nnUNetTrainer_10epochs nnUNetTrainer_20epochs nnUNetTrainer_50epochs nnUNetTrainer_100epochs
nnUNetTrainer_250epochs nnUNetTrainer_500epochs nnUNetTrainer_750epochs nnUNetTrainer_2000epochs
nnUNetTrainer_4000epochs nnUNetTrainer_8000epochs nnUNetTrainer_250epochs_NoMirroring
nnUNetTrainer_2000epochs_NoMirroring nnUNetTrainer_4000epochs_NoMirroring nnUNetTrainer_8000epochs_NoMirroring
nnUNetTrainerDiceLoss nnUNetTrainerDiceCELoss_noSmooth nnUNetTrainerCELoss nnUNetTrainerCELoss_5epochs
nnUNetTrainerTopk10Loss nnUNetTrainerTopk10LossLS01 nnUNetTrainerDiceTopK10Loss nnUNetTrainerNoDeepSupervision
nnUNetTrainer_probabilisticOversampling nnUNetTrainer_probabilisticOversampling_033
nnUNetTrainer_probabilisticOversampling_010 nnUNet_Trainer_BS8
"""

#: Stock trainers that change how a network is trained, but neither the network nor how it is used.
TRAINERS = frozenset(_TRAINERS.split())

#: The stock trainer that has batches normalised in place of instances.
BATCH_NORM = "nnUNetTrainerBN"

#: Every trainer whose network is known; no plugin is asked for one of theirs.
KNOWN_TRAINERS = TRAINERS | PRIMUS.keys() | {BATCH_NORM}


def check_trainer(name: str, accepted: str | None) -> None:
    """Refuse a trainer that may have changed the network.

    Parameters
    ----------
    name
        Of the trainer.
    accepted
        A further one that the user vouches for.
    """
    if name not in KNOWN_TRAINERS and name != accepted and not is_supplied(NETWORKS, name):
        raise UnsupportedModel(
            f"the model was trained by {name}, which may have changed the network or its input",
            hint=f"if it changes nothing but the training, install with --option accept_trainer={name}; "
            "if it makes a network of its own, install the plugin that builds it",
        )


def supplied_network(plans: NetworkRecipe, *, trainer: str, accepted: str | None) -> str:
    """The name under which a plugin builds a model's network; empty where none is needed, or there is none.

    Parameters
    ----------
    plans
        The network that the plans describe.
    trainer, accepted
        As `check_trainer` takes them. The network of an accepted trainer is that of the plans.
    """
    if trainer not in KNOWN_TRAINERS and trainer != accepted:
        return trainer if is_supplied(NETWORKS, trainer) else ""
    if trainer in PRIMUS or plans.of_library:
        return ""
    return plans.class_name if is_supplied(NETWORKS, plans.class_name) else ""


def with_network(recipe: ModelRecipe, *, trainer: str, supplied: str) -> ModelRecipe:
    """A recipe with the network that the model has, in place of the one that its plans describe.

    Parameters
    ----------
    recipe
        From the plans.
    trainer
        Name of the trainer.
    supplied
        From `supplied_network`, when the model was installed.

    Raises
    ------
    UnusableModel
        If the trainer makes no network of such plans.
    """
    patch = recipe.patch[recipe.planar :]
    plans = recipe.network
    if supplied:
        network: NetworkRecipe = BuiltNetworkRecipe(
            class_name=plans.class_name, arguments=plans.arguments, builder=supplied, patch=patch
        )
    elif trainer in PRIMUS:
        network = primus_recipe(trainer, patch)
    elif trainer == BATCH_NORM:
        network = _with_batch_norm(plans, dimensions=len(patch))
    else:
        return recipe
    return evolve(recipe, network=network)


def _with_batch_norm(plans: NetworkRecipe, *, dimensions: int) -> NetworkRecipe:
    if "norm_op" not in plans.arguments:
        raise UnusableModel(f"the model was trained by {BATCH_NORM}, but its network normalises nothing")
    layer = f"torch.nn.modules.batchnorm.BatchNorm{dimensions}d"
    arguments = {**plans.arguments, "norm_op": layer, "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
    return evolve(plans, arguments=arguments)
