"""The code of the pages in docs/: it runs as written, page by page, and prints what its comments say."""

import re

import pytest
from paths import ROOT, python_blocks

DOCS = ROOT / "docs"
PAGES = {
    page.name: python_blocks(page)
    for page in DOCS.glob("*.md")
    if page.name != "models.md"  # test_models.py runs it, with the packages
}
NEEDS = {
    "torch.md": ("torch",),
    "onnx.md": ("onnx", "onnxruntime"),
    "keras.md": ("keras", "torch"),
    "jax.md": ("jax", "flax", "equinox"),
}


@pytest.mark.parametrize("page", [name for name, blocks in PAGES.items() if blocks])
def test_the_code_of_a_page(page, tmp_path, monkeypatch, capsys):
    for module in NEEDS.get(page, ()):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in PAGES[page]:
        exec(compile(block, page, "exec"), names)
        said = capsys.readouterr().out
        for expected in re.findall(r"^print\(.*\)  # (.*)$", block, re.M):
            assert expected in said
