"""Packages that ship a recurrent model: fetched by pip, run by their own code, and by that of docs/models.md.

`page` gives what a section of the page defines; the functions below it give the package's own runtime, its own code on
one thread. What a package imports but its model does not need is stood in for: g2p_en's nltk would download at import.
"""

import importlib
import importlib.util
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
from onnx_session import session

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"
FOLDER = ROOT / "build" / "models"  # where they are fetched to, without what they depend on
HEADING = re.compile(r"^## (\S+) ([\d.]+):", re.MULTILINE)
PACKAGES = dict(HEADING.findall(PAGE.read_text(encoding="utf-8")))  # names on PyPI and versions


def fetch():
    """Have the packages of the page, in its versions, importable; those that are not installed come by pip."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    importlib.invalidate_caches()
    missing = [f"{name}=={number}" for name, number in PACKAGES.items() if installed(name) != number]
    if missing:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:", "--upgrade"]
        subprocess.run([*command, "--target", str(FOLDER), *missing], check=True)
        importlib.invalidate_caches()


def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def page(name):
    """What the page defines for a package: the code that all share, and that of its section."""
    shared, *sections = re.split(r"^(?=## )", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = (text for text in sections if text.startswith(f"## {name} "))
    defined = {}
    for block in re.findall(r"^```python\n(.*?)^```", shared + section, re.DOTALL | re.MULTILINE):
        exec(compile(block, PAGE.name, "exec"), defined)
    return defined


def files(module):
    """The folder of a package's files, none of whose code is run."""
    return Path(importlib.util.find_spec(module).submodule_search_locations[0])


def load(module, *absent):
    """A package's module, with stand-ins for others that it imports."""
    before = {name: sys.modules.get(name) for name in absent}
    sys.modules.update({name: MagicMock(name=name) for name in absent})
    try:
        return importlib.import_module(module)
    finally:
        for name, known in before.items():
            del sys.modules[name]
            if known is not None:
                sys.modules[name] = known


def g2p():
    """g2p_en's G2p, of which `predict` is the model, in NumPy."""
    return load("g2p_en.g2p", "nltk", "nltk.corpus", "nltk.tokenize", "inflect").G2p()


def g2pm():
    """g2pM's G2pM, in NumPy."""
    return load("g2pM").G2pM()


def silero():
    """A function of sound, (n,), to the probabilities of silero_vad's ONNX model, called as its OnnxWrapper does."""
    run = session(files("silero_vad") / "data" / "silero_vad.onnx").run

    def speech(sound):
        state, padded, found = np.zeros((2, 1, 128), np.float32), np.pad(sound, (64, 0)), []
        for start in range(0, len(sound), 512):
            given = {"input": padded[None, start : start + 576], "state": state, "sr": np.array(16000)}
            probability, state = run(None, given)
            found.append(probability[0, 0])
        return np.array(found)

    return speech


def tashkeel():
    """text2tashkeel's backend of rawi-v2-int8, on ONNX Runtime: `diacritize`, and `sess` with the model."""
    backend = load("text2tashkeel").Diacritizer("rawi-v2-int8").backend
    backend.sess = session(files("text2tashkeel") / "models" / "rawi_v2.int8.onnx")
    return backend


def ocr():
    """ddddocr's reader, on ONNX Runtime: `classification`, and `ocr_engine.session` with the model."""
    reader = load("ddddocr", "cv2").DdddOcr(beta=True, show_ad=False)
    reader.ocr_engine.session = session(files("ddddocr") / "common.onnx")
    return reader


def resemblyzer():
    """Resemblyzer's VoiceEncoder, a torch module."""
    absent = "scipy.ndimage.morphology", "webrtcvad", "librosa"
    return load("resemblyzer.voice_encoder", *absent).VoiceEncoder("cpu", verbose=False).eval()


def beatnet():
    """BeatNet's BDA, a torch module that keeps its state from call to call."""
    import torch

    module = load("BeatNet.model").BDA(272, 150, 2, "cpu")
    module.load_state_dict(torch.load(files("BeatNet") / "models" / "model_1_weights.pt"))
    return module.eval()
