"""The register: the methods that ``ns-train`` lists.

nerfstudio imports this module at the start of every ns command of the user, unguarded. So nothing heavy is
imported here or by what is imported here: no rasteriser, no numba, no scipy, no tinycudann.
"""

from __future__ import annotations

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.types import MethodSpecification

from gradiseg_ns.data.datamanager import GradisegDataManagerConfig
from gradiseg_ns.grouping.schedule import ScheduleConfig
from gradiseg_ns.model import GradisegModelConfig
from gradiseg_ns.pipeline import GradisegPipelineConfig
from gradiseg_ns.trainer import FloatExponentialDecayConfig, FusedAdamConfig, GradisegTrainerConfig


def _optimizers(identity: float = 0.0025, classifier: float = 5e-4) -> dict[str, dict[str, object]]:
    """splatfacto's learning rates, and by default Gaussian Grouping's for identity and classifier."""

    def adam(lr: float) -> FusedAdamConfig:
        return FusedAdamConfig(lr=lr, eps=1e-15)

    def decaying(lr: float, share: float) -> dict[str, object]:
        # At a constant rate an encoding follows the views it saw last, wrong ids and all; the decay averages.
        return {"optimizer": adam(lr), "scheduler": FloatExponentialDecayConfig(lr_final=share * lr)}

    return {
        "means": {"optimizer": adam(1.6e-4), "scheduler": FloatExponentialDecayConfig(lr_final=1.6e-6)},
        "features_dc": {"optimizer": adam(0.0025), "scheduler": None},
        "features_rest": {"optimizer": adam(0.0025 / 20), "scheduler": None},
        "opacities": {"optimizer": adam(0.05), "scheduler": None},
        "scales": {"optimizer": adam(0.005), "scheduler": None},
        "quats": {"optimizer": adam(0.001), "scheduler": None},
        "identity": decaying(identity, 0.02),
        "classifier": decaying(classifier, 0.1),
        "boundary_field": {"optimizer": adam(0.01), "scheduler": None},
        "camera_opt": {
            "optimizer": adam(1e-4),
            "scheduler": FloatExponentialDecayConfig(lr_final=5e-7, warmup_steps=1000, lr_pre_warmup=0),
        },
        "bilateral_grid": {
            "optimizer": adam(2e-3),
            "scheduler": FloatExponentialDecayConfig(lr_final=1e-4, warmup_steps=1000, lr_pre_warmup=0),
        },
    }


def _trainer(
    method_name: str,
    steps: int,
    model: GradisegModelConfig,
    optimizers: dict[str, dict[str, object]],
    **kwargs: object,
) -> GradisegTrainerConfig:
    return GradisegTrainerConfig(
        method_name=method_name,
        max_num_iterations=steps,
        mixed_precision=False,
        pipeline=GradisegPipelineConfig(
            datamanager=GradisegDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
            ),
            model=model,
        ),
        optimizers=optimizers,
        # Anyone who reaches the viewer can drive it, so it listens to this machine only unless asked otherwise.
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15, websocket_host="127.0.0.1"),
        **kwargs,  # type: ignore[arg-type]
    )


gradiseg = MethodSpecification(
    config=_trainer(
        "gradiseg",
        30_000,
        GradisegModelConfig(),
        _optimizers(),
        vis="viewer",
        steps_per_eval_image=500,
        steps_per_eval_batch=0,
        steps_per_save=2000,
        steps_per_eval_all_images=5000,
    ),
    description="Gaussian splats that know their object: GradiSeg, in the paper's 30,000 steps.",
)

gradiseg_lite = MethodSpecification(
    config=_trainer(
        "gradiseg-lite",
        3_000,
        # A short run has no time to recover from an opacity reset. It densifies in twelve rounds, whatever its length: with rounds of
        # a fixed number of steps a longer run had more Gaussians than its views can hold, and was worse (docs/floaters.md).
        GradisegModelConfig(
            schedule=ScheduleConfig(refine_every=1 / 30, opacity_reset_interval=0.0, prune_large_from=1.0),
            cull_alpha_thresh=0.02,
            # Between splatfacto's 0.0008, which leaves fine texture out, and its half, which overfits (docs/floaters.md).
            densify_grad_thresh=0.0006,
            # A tenth of the steps: every Gaussian is drawn for L_3d as often.
            neighbor_samples=10_000,
        ),
        # A tenth of the steps: what has to travel as far must go faster.
        _optimizers(identity=0.025, classifier=0.005),
        vis="viewer+tensorboard",
        steps_per_eval_image=500,
        steps_per_eval_batch=0,
        steps_per_save=1000,
        steps_per_eval_all_images=1_000_000,
    ),
    description="GradiSeg in 3,000 steps, for CPUs and quick looks.",
)
