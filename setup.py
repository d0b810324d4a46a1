"""What pyproject.toml can't say: a wheel has conf/, train.py and eval.py inside the package, where
mml_lightning/utils/program.py looks for them. An editable installation uses those of the checkout."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
FILES = {path: Path("programs", path.name) for path in (ROOT / "train.py", ROOT / "eval.py")}
FILES |= {path: path.relative_to(ROOT) for path in sorted((ROOT / "conf").rglob("*.yaml"))}


class BuildWithConfigs(build_py):
    """Copies what stands beside the package into it."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib, "mml_lightning")
        for folder in ("conf", "programs"):  # an earlier build may have left others
            shutil.rmtree(package / folder, ignore_errors=True)
        for source, place in FILES.items():
            (package / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, package / place)

    def get_source_files(self):
        """For the source distribution."""
        return [*super().get_source_files(), *(str(path.relative_to(ROOT)) for path in FILES)]


setup(cmdclass={"build_py": BuildWithConfigs})
