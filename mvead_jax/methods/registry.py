"""The methods by name: where the config class of each is, which builds the method (methods/base.py)."""

from mvead_jax.runtime.registry import Registry

METHODS = Registry(
    "method",
    {
        "patchcore": "mvead_jax.methods.patchcore.config:PatchCoreConfig",
        "mvead": "mvead_jax.methods.mvead.config:MveadConfig",
        "mvad": "mvead_jax.methods.mvad.config:MvadConfig",
        "multiflow": "mvead_jax.methods.multiflow.config:MultiFlowConfig",
        "rd4ad": "mvead_jax.methods.rd4ad.config:Rd4adConfig",
        "padim": "mvead_jax.methods.padim.config:PadimConfig",
        "simplenet": "mvead_jax.methods.simplenet.config:SimpleNetConfig",
        "uniad": "mvead_jax.methods.uniad.config:UniadConfig",
        "dinomaly": "mvead_jax.methods.dinomaly.config:DinomalyConfig",
        "destseg": "mvead_jax.methods.destseg.config:DestsegConfig",
        "idif": "mvead_jax.methods.idif.config:IdifConfig",
        "procon": "mvead_jax.methods.procon.config:ProconConfig",
    },
    "mvead_jax.methods",
)
