import contextlib
import io
import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_example_prints_what_the_readme_says():
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    expected = re.search(r"```text\n(.*?)```", README, re.S).group(1)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == expected


def test_the_picture_exists():
    assert all((Path(__file__).parents[2] / name).is_file() for name in re.findall(r"!\[.*?\]\((.*?)\)", README))
