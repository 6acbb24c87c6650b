"""What mkdocs.yml cannot say: pages from outside docs/, one page of API reference per public package, and docstrings.

README.md, CONTRIBUTING.md, CHANGELOG.md and the benchmarks are pages under their own paths. Links are written for
readers of the repository, where docs/ is a folder; on the site it is the root.
"""

import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parents[1]
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "constraints.txt", "setup.cfg")
FOLDERS = ("benchmarks", "configs")
PACKAGES = (
    *("graphs", "ops", "nn", "models", "objectives", "modalities", "datasets", "features", "io", "evaluation"),
    *("predictor", "training", "runs", "config", "viz"),
)


def modules() -> list[str]:
    """The public modules that exist."""
    package = ROOT / "relgrounding"
    return [name for name in PACKAGES if (package / name).is_dir() or (package / f"{name}.py").is_file()]


def hidden_functions(name: str) -> list[str]:
    """Functions of a package that mkdocstrings takes for the folders of the same name, as of each operator."""
    init = ROOT / "relgrounding" / name / "__init__.py"
    text = init.read_text(encoding="utf-8") if init.is_file() else ""
    return re.findall(rf"^from relgrounding\.{name}\.(\w+) import .*\b\1\b", text, flags=re.MULTILINE)


def on_config(config):
    """A section of the navigation lists the API."""
    config.nav.append({"API reference": [{f"relgrounding.{name}": f"api/{name}.md"} for name in modules()]})


def on_files(files, config):
    """Pages from outside docs/, and those of the API."""
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".md", ".png", ".csv", ".json", ".yaml"):
                name = path.relative_to(ROOT).as_posix()
                file = File.generated(config, name, abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV)
                files.append(file)
    for name in modules():
        page = f"# relgrounding.{name}\n\n::: relgrounding.{name}\n    options:\n      show_root_heading: false\n"
        page += "".join(f"\n::: relgrounding.{name}.{function}.{function}\n" for function in hidden_functions(name))
        files.append(File.generated(config, f"api/{name}.md", content=page))


def on_page_markdown(markdown, page, **_):
    """Links of the repository become links of the site."""
    if page.file.src_uri == "index.md" or page.file.src_uri in OUTSIDE:
        return re.sub(r"\]\((\./)?docs/", "](", markdown)
    if page.file.src_uri.startswith("benchmarks/"):
        return re.sub(r"\]\(((?:\.\./)+)docs/", r"](\1", markdown)
    return markdown.replace("](../README.md", "](index.md").replace("](../", "](")


class Docstrings(griffe.Extension):
    """Doctests become blocks of code, and the arguments of a NamedTuple what griffe takes them for: attributes."""

    def on_object(self, *, obj, **_):
        """Rewrite the docstring of an object before it is parsed."""
        if obj.docstring is None:
            return
        text = re.sub(r"(?m)^( *)>>> .*(?:\n\1 *\S.*)*", r"\1```pycon\n\g<0>\n\1```", obj.docstring.value)
        if obj.is_class and any(str(base).endswith("NamedTuple") for base in obj.bases):
            text = text.replace("Args:\n", "Attributes:\n")
        obj.docstring.value = text
