"""The schedule of a run: options as fractions of the run, and the step numbers that follow from them.

The paper's run has 30,000 steps: densification and global KNN to 12,000, identity-gradient-guided
densification (IGD) from there to 15,000, LA-KNN from 12,000 (main text; 15,000 in the supplement) to the end.
Here these are 0.4, 0.5 and 0.4 of the run, so a run of any length has the same proportions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass
class ScheduleConfig:
    """Times of the phases, as fractions of the run."""

    densify_from: float = 1 / 60
    """Densification by position gradients starts here (step 500 of 30,000)."""
    densify_until: float = 0.4
    """Densification by position gradients ends and IGD starts here (step 12,000 of 30,000)."""
    igd_until: float = 0.5
    """IGD ends here (step 15,000 of 30,000)."""
    la_knn_from: float = 0.4
    """LA-KNN replaces the global KNN from here on (step 12,000 of 30,000; the paper's supplement says 0.5)."""
    identity_from: float = 0.0
    """The identity losses start here."""
    votes_at: float | None = None
    """Identities and classifier are set from the votes of all training maps here; 1 means never. Default: at the start if the run starts from a trained splat, at the end of densification if ids are associated during training, else never."""
    opacity_reset_interval: float = 0.1
    """Interval between two resets of the opacities during densification (3,000 of 30,000 steps); 0 means never."""
    prune_large_from: float = 0.1
    """Gaussians that are too large are pruned from here on (step 3,000 of 30,000, after the first opacity reset)."""
    refine_boundary_from: float = 2 / 3
    """The boundary refiner starts here: it works in the last third of the run."""
    refine_boundary_every: float = 1 / 6
    """Interval after which the refiner finds the boundary Gaussians anew."""
    prune_unseen_every: float = 0.1
    """Interval after which Gaussians that too few training views see (`prune-min-views`) are removed, the last time at the end of the run; 0 means never."""
    full_resolution_from: float = 0.2
    """Photos and maps are used at full resolution from here on (step 6,000 of 30,000). Before that they are halved twice."""
    screen_size_until: float = 4 / 30
    """Gaussians that are large on the screen are split or culled until here (step 4,000 of 30,000)."""
    full_color_from: float = 0.1
    """The last degree of the spherical harmonics is switched on here (step 3,000 of 30,000)."""
    refine_every: float = 100
    """Steps between two densifications. A value below 1 is a fraction of the run: then a longer run has the same number of rounds."""


@dataclass(frozen=True)
class Schedule:
    """The step numbers of one run, derived by :func:`resolve_schedule`."""

    length: int
    densify_from: int
    densify_until: int
    igd_from: int
    igd_until: int
    la_knn_from: int
    identity_from: int
    votes_at: int  # the length of the run for never
    refine_boundary_from: int
    refine_boundary_every: int  # steps, at least 1
    opacity_reset_every: int
    prune_large_from: int
    prune_unseen_every: int  # 0 for never
    resolution_interval: int
    screen_size_until: int
    color_degree_interval: int
    refine_every: int

    def describe(self) -> str:
        """One line for a person: the phases and their steps."""
        votes = f"votes at {self.votes_at}, " if self.votes_at < self.length else ""
        return (
            f"{self.length} steps: densify {self.densify_from}-{self.densify_until}, {votes}"
            f"IGD {self.igd_from}-{self.igd_until}, "
            f"identity from {self.identity_from} with global KNN, LA-KNN from {self.la_knn_from}"
        )


def of_trained_splat(config: ScheduleConfig) -> ScheduleConfig:
    """The schedule of a run that starts from a trained splat: no densification by position gradients. Everything else starts at
    the first step, and IGD is as long as in a run from scratch."""
    return replace(
        config,
        densify_from=0.0,
        densify_until=0.0,
        igd_until=max(0.0, config.igd_until - config.densify_until),
        la_knn_from=0.0,
        identity_from=0.0,
        votes_at=1.0 if config.votes_at == 1.0 else 0.0,
        prune_unseen_every=min(1.0, 5 * config.prune_unseen_every),
        full_resolution_from=0.0,
        screen_size_until=0.0,
        full_color_from=0.0,
    )


def resolve_schedule(
    config: ScheduleConfig, length: int, *, num_downscales: int = 2, sh_degree: int = 3
) -> Schedule:
    """Step numbers for a run of ``length`` steps.

    Raises:
        ValueError: for a fraction outside 0..1, phases in the wrong order, or a run without steps.
    """
    if length < 1:
        raise ValueError(f"--max-num-iterations is {length}, expected at least 1")
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "refine_every":
            if not (0 < value < 1 or (value >= 1 and float(value).is_integer())):
                raise ValueError(
                    f"schedule.refine-every is {value}, expected a whole number of steps or a fraction of the run, 0 to 1"
                )
        elif value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(
                f"schedule.{field.name.replace('_', '-')} is {value}, expected a fraction of the run, 0 to 1"
            )
    if not config.densify_from <= config.densify_until <= config.igd_until:
        raise ValueError(
            "the schedule's phases are out of order: expected densify-from <= densify-until <= igd-until, "
            f"found {config.densify_from}, {config.densify_until}, {config.igd_until}"
        )

    def step(fraction: float) -> int:
        return round(fraction * length)

    wanted = step(config.refine_every) if config.refine_every < 1 else int(config.refine_every)
    refine_every = max(1, min(wanted, step(config.igd_until) or 1))
    reset = step(config.opacity_reset_interval)
    if reset:
        reset = max(refine_every, round(reset / refine_every) * refine_every)
    return Schedule(
        length=length,
        densify_from=step(config.densify_from),
        densify_until=step(config.densify_until),
        igd_from=step(config.densify_until),
        igd_until=step(config.igd_until),
        la_knn_from=step(config.la_knn_from),
        identity_from=step(config.identity_from),
        votes_at=length if config.votes_at is None else step(config.votes_at),
        refine_boundary_from=step(config.refine_boundary_from),
        refine_boundary_every=max(1, step(config.refine_boundary_every)),
        opacity_reset_every=reset or 10 * length,
        prune_large_from=step(config.prune_large_from),
        prune_unseen_every=step(config.prune_unseen_every),
        resolution_interval=max(1, step(config.full_resolution_from) // max(1, num_downscales)),
        screen_size_until=step(config.screen_size_until),
        color_degree_interval=max(1, step(config.full_color_from) // max(1, sh_degree)),
        refine_every=refine_every,
    )


def apply_schedule(config: Any) -> Schedule:
    """Derive the run's step numbers and write them into splatfacto's own fields, except those the user set."""
    phases = config.schedule if config.start_from is None else of_trained_splat(config.schedule)
    if config.associate != "off" and phases.votes_at is None:
        phases = replace(phases, votes_at=phases.densify_until)
    schedule = resolve_schedule(
        phases, config.run_length, num_downscales=config.num_downscales, sh_degree=config.sh_degree
    )
    if config.associate != "off":
        if schedule.votes_at >= schedule.length:
            raise ValueError(
                "--pipeline.model.associate happens when votes are taken, but schedule.votes-at is 1, never: "
                "expected less, such as 0.4"
            )
        schedule = replace(schedule, identity_from=max(schedule.identity_from, schedule.votes_at))
    from nerfstudio.models.splatfacto import SplatfactoModelConfig

    derived = {
        "warmup_length": schedule.densify_from,
        "refine_every": schedule.refine_every,
        "resolution_schedule": schedule.resolution_interval,
        "reset_alpha_every": max(1, schedule.opacity_reset_every // schedule.refine_every),
        "sh_degree_interval": schedule.color_degree_interval,
        "stop_screen_size_at": schedule.screen_size_until,
        "stop_split_at": schedule.densify_until,
    }
    stock = {f.name: f.default for f in fields(SplatfactoModelConfig)}
    for name, value in derived.items():
        if getattr(config, name) == stock[name]:
            setattr(config, name, value)
    return schedule
