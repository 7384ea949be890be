"""The pooling atlas: each script still shows what it says, on the release that the page names."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import atlas

PROCESSOR = Path("/proc/cpuinfo").read_text(encoding="utf-8")


def test_there_are_enough_and_the_page_has_each():
    text = atlas.PAGE.read_text(encoding="utf-8")
    assert len(atlas.scripts()) >= 12
    assert {script.stem for script in atlas.scripts()} == set(re.findall(r"^## (\w+)$", text, re.MULTILINE))
    for script in atlas.scripts():
        assert script.read_text(encoding="utf-8").strip() in text, "the page shows the script as it is"
        assert "onnxpool" not in script.read_text(encoding="utf-8")
        assert script.stem.split("_")[0] in atlas.INSTALL


@pytest.mark.parametrize("script", atlas.scripts(), ids=lambda script: script.stem)
def test_a_defect_is_there_or_is_said_to_be_mended(script):
    defect = atlas.run(script, [sys.executable])
    if defect is None:
        pytest.skip("without its runtime")
    if defect.mended and "AVX-512" in defect.title and "avx512f" not in PROCESSOR:
        pytest.skip("on another processor")
    if defect.mended:
        assert defect.release not in atlas.PAGE.read_text(encoding="utf-8"), "the page says otherwise of this release"
        pytest.skip(f"mended in {defect.release}: {defect.title} {script.name} can go once all releases are")
    assert defect.expected != defect.got


def test_what_comes_of_a_script(tmp_path):
    def made(text):
        (tmp_path / "it.py").write_text(f'"""A title."""\nprint("Runtime 1", [1.0], sep="\\n")\n{text}')
        return atlas.run(tmp_path / "it.py", [sys.executable])

    assert made("print([1.0])").mended
    assert made("print([2.0])").got == "[2.0]"
    assert made("raise ValueError('no')").got == "ValueError: no"
    assert made("import os; os.abort()").got == "a crash, SIGABRT"
    assert made("import no_such_runtime") is None
    assert "| Runtime 1 | A title. | [it.py](#it) |" in atlas.page([made("print([2.0])")])
