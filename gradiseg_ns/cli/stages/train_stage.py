"""The training: a new one, or on with one that was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradiseg_ns.cli.stages.job import Step, minutes
from gradiseg_ns.tools.terminal import default_device, say


class Train(Step):
    """A run of gradiseg on a GPU, of gradiseg-lite on a CPU."""

    name = "train"
    after = ("poses", "masks")

    def settings(self) -> dict[str, Any]:
        return {"steps": self.job.flags.steps}

    def files(self) -> list[Path]:
        return [self.job.inside(self.result["run"]) / "config.yml"]

    def told(self) -> str:
        result = self.result
        return f"a run of {result['steps']} steps of {result['method']} in {self.job.inside(result['run'])}"

    def cost(self) -> str:
        import os

        count, size = self.job.count_and_size()
        method, left = self._method(), self._left()
        memory = 2.0 + count * size * 4 * 4e-3
        if method == "gradiseg":
            return f"{left} steps of gradiseg on a GPU, {count} photos: not measured here."
        # measured on two cores with maps of regions; associating and voting take the first part
        seconds = (60 + 2 * count + left * (0.25 + 3.5 * size)) * 2 / max(1, min(8, os.cpu_count() or 1))
        return (
            f"{left} steps of gradiseg-lite on the CPU, {count} photos: {minutes(seconds)}, about {memory:.0f} GB. Ctrl-C ends it "
            "with a checkpoint."
        )

    def do(self) -> dict[str, Any]:
        from gradiseg_ns import runs

        job, state, begun, left = self.job, self.job.state, self._begun(), self._left()
        maps = job.inside(state.result("masks")["folder"]).absolute()
        options: dict[str, Any] = {
            "experiment_name": job.folder.absolute().name,
            "pipeline.datamanager.masks_dir": str(maps),
            "pipeline.datamanager.dataparser": job.capture().manager.config.dataparser,
            "steps_per_save": 1000,
        }
        if begun is None:
            method, steps = self._method(), left
            options["pipeline.model.associate"] = self.associate(maps)
        else:
            method, steps, run = begun["method"], begun["steps"], job.inside(begun["run"])
            options["load_dir"] = run / "nerfstudio_models"
            options["pipeline.model.associate"] = begun["associate"]
            if (run / "associated_mask").is_dir():
                options["pipeline.datamanager.masks_dir"] = str((run / "associated_mask").resolve())
                options["pipeline.model.associate"] = "off"
        config = runs.make_config(
            method, job.scene_folder.absolute(), (job.folder / "runs").absolute(),
            steps=left, device=job.flags.device, options=options,
        )  # fmt: skip
        config.save_config()  # which settles the folder's name
        run = config.get_base_dir()
        record = {
            "run": job.relative(run), "method": method, "steps": steps, "associate": options["pipeline.model.associate"],
            "settings": self.settings(), "after": self.numbers(),
        }  # fmt: skip
        if begun is None:
            state.begun[self.name] = record
            state.save()
        try:
            runs.train(config)
        except SystemExit as ended:
            if steps_done(run):
                state.begun[self.name] = record
                state.save()
            if ended.code in (130, 143):
                say(
                    "Or repeat this `gradiseg new` as it was: it goes on with the training, and does the rest."
                )
            raise
        return {"run": job.relative(run), "method": method, "steps": steps}

    def associate(self, maps: Path) -> str:
        """Whether the ids of the maps are to be made to agree: not those of phrases, nor those that agree as they are."""
        if self.job.flags.phrases is not None:
            return "off"
        if self.job.state.result("masks")["made"]:
            return "auto"
        capture = self.job.capture(maps)
        _ = capture.train  # loads the maps, and looks
        found = capture.manager.id_agreement
        return "off" if found is None or found.consistent else "auto"

    def _method(self) -> str:
        return "gradiseg" if default_device(self.job.flags.device).startswith("cuda") else "gradiseg-lite"

    def _begun(self) -> dict[str, Any] | None:
        """The training that was interrupted, if it goes on."""
        begun = self.job.state.begun.get(self.name)
        if begun is None or begun["settings"] != self.settings() or begun["after"] != self.numbers():
            return None
        return begun if steps_done(self.job.inside(begun["run"])) else None

    def _left(self) -> int:
        """Steps that are still to be trained."""
        from gradiseg_ns import config as register

        begun = self._begun()
        if begun is not None:
            return max(1, begun["steps"] - steps_done(self.job.inside(begun["run"])))
        if self.job.flags.steps is not None:
            return self.job.flags.steps
        known: Any = register.gradiseg if self._method() == "gradiseg" else register.gradiseg_lite
        return known.config.max_num_iterations


def steps_done(run: Path) -> int:
    """Steps of the newest checkpoint that can be read; 0 without one."""
    from gradiseg_ns.sources import checkpoints

    good = [
        path for path in checkpoints.in_folder(run / "nerfstudio_models") if checkpoints.fault(path) is None
    ]
    return checkpoints.step_of(good[0]) + 1 if good else 0
