"""The demo model: an analytic centre-channel vocal extractor in MDX-Net form, without trained weights.

Like every MDX-Net model, it takes the complex STFT of one segment, float32 `(batch, 4, 2048, frames)` with
the channels L.re, L.im, R.re, R.im, and returns the primary stem in the same layout, so that the loader of
`audio-separator` accepts it like any UVR model. Its output is the mid signal under one real mask, the same
on both channels:

    M = (L + R) / 2,  S = (L - R) / 2              mid and side: a voice in the centre has no side
    c = h sqrt(|M|^2 / (|M|^2 + a <|S|^2>))        centrality of a cell; <> is a mean over 0.3 s
    C = c |M|                                      magnitude in the centre: voice, and drums and bass
    p(t, u) = softmax_u(k cos(s_t, s_u))           similarity of two frames in the side, s = sqrt|S|
    B = exp(sum_u p(t, u) log C(f, u))             the part of C that similar frames share
    g = V^2 / (V^2 + b B^2),  V = C - min(B, C)    Wiener gain of the rest
    vocals = c g M

`h` is a high-pass: below the lowest sung note there are only kick and bass, which are central as well. `p`
excludes the frames close to t, because a held note resembles itself. Frames are compared by the side only, which
does not contain the voice: when the band repeats itself, the voice does not, so that `B` is the band.

Sources: `c` follows C. Avendano and J.-M. Jot, "A frequency-domain approach to multichannel
upmix", J. Audio Eng. Soc. 52 (2004); `B` and `g` follow REPET-SIM (Z. Rafii and B. Pardo, "Music/voice
separation using the similarity matrix", ISMIR 2012) with attention in place of a median over nearest frames.

Measured through `audio-separator` as the gain in SDR over the mixture itself: on six songs of `demo.song`
(seeds 1 to 5 and 7) 7.6 to 10.0 dB for the voice and 5.6 to 8.0 dB for the instrumental. The default song
with its voice panned by 0.2, 0.4 and 0.7: 7.3, 4.8 and 2.8 dB for the voice; with its band in mono, where
only repetition separates them: 2.0 dB. It was not tried on commercial recordings, and a trained model is better.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from demo.graph_builder import GraphBuilder, Tensor
from demo.model_folder import install_mdx_model

DEMO_MODEL_NAME = "uvr_demo_centre_vocals.onnx"

_SAMPLE_RATE = 44_100
_N_FFT = 4096
_BINS = _N_FFT // 2
_LOG2_FRAMES = 8
_PARAMETERS = {
    "compensate": 1.0,
    "mdx_dim_f_set": _BINS,
    "mdx_dim_t_set": _LOG2_FRAMES,
    "mdx_n_fft_scale_set": _N_FFT,
    "primary_stem": "Vocals",
}

# The mask's constants were tuned on songs of `demo.song` with seeds that neither the demo nor the tests use.
# The optimum is flat: halving or doubling one costs at most 0.3 dB of 8.7, only a lower high-pass 1.3 dB.
# A frame is one hop of 1024 samples, 23 ms.
_SIDE_WEIGHT = 12.0
"""`a`: a higher value removes more of the band, and more of a voice that is not exactly in the centre."""
_SIDE_FRAMES = 13
_HIGHPASS_HZ = 130.0
_HIGHPASS_ORDER = 8
_SHARPNESS = 50.0
"""`k`: a higher value gives more weight to the most similar frames."""
_CLOSE_FRAMES = 28
_LOG_FLOOR = 0.1
"""Relative to the mean of `C`."""
_REPEAT_WEIGHT = 2.0
"""`b`: a higher value removes more of the repeated part."""

_EPSILON = 1e-9


def build_model() -> onnx.ModelProto:
    """Build and check the model. Batch and number of frames are free, since the loader may choose the segment size."""
    g = GraphBuilder()
    left_re, left_im, right_re, right_im = g.split("input", 4, axis=1)
    mid = g.scale(g.add(left_re, right_re), 0.5), g.scale(g.add(left_im, right_im), 0.5)
    side = g.scale(g.sub(left_re, right_re), 0.5), g.scale(g.sub(left_im, right_im), 0.5)
    mid_power, side_power = _power(g, *mid), _power(g, *side)

    centre_gain = _centre_gain(g, mid_power, side_power)
    centre = g.mul(g.sqrt(mid_power), centre_gain)
    gain = g.mul(centre_gain, _unrepeated_gain(g, centre, g.sqrt(side_power)))
    vocals_re, vocals_im = g.mul(mid[0], gain), g.mul(mid[1], gain)
    g.op("Concat", vocals_re, vocals_im, vocals_re, vocals_im, axis=1, output="output")

    model = g.model("centre_vocals", ["batch", 4, _BINS, "frames"])
    onnx.checker.check_model(model, full_check=True)
    return model


def _power(g: GraphBuilder, re: Tensor, im: Tensor) -> Tensor:
    return g.add(g.square(re), g.square(im))


def _centre_gain(g: GraphBuilder, mid_power: Tensor, side_power: Tensor) -> Tensor:
    """Return `c` of the module's formula, `(batch, 1, bins, frames)`."""
    reach = _SIDE_FRAMES // 2
    smooth = g.op(
        "AveragePool",
        side_power,
        kernel_shape=[1, _SIDE_FRAMES],
        pads=[0, reach, 0, reach],
        strides=[1, 1],
        count_include_pad=1,
    )
    total = g.shift(g.add(mid_power, g.scale(smooth, _SIDE_WEIGHT)), _EPSILON)
    centrality = g.sqrt(g.div(mid_power, total))
    # `h`, a Butterworth power response over the bins, `(bins, 1)`; a table of it would double the file.
    bins = g.op("Range", g.constant(0.0), g.constant(float(_BINS)), g.constant(1.0))
    relative = g.scale(bins, _SAMPLE_RATE / _N_FFT / _HIGHPASS_HZ)
    falling = g.op("Pow", relative, g.constant(-2.0 * _HIGHPASS_ORDER))
    highpass = g.op("Unsqueeze", g.op("Reciprocal", g.shift(falling, 1.0)), g.integers(1))
    return g.mul(centrality, highpass)


def _unrepeated_gain(g: GraphBuilder, centre: Tensor, side: Tensor) -> Tensor:
    """Return `g` of the module's formula, `(batch, 1, bins, frames)`."""
    repeated = _repeated(g, centre, _attention(g, side))
    wanted = g.square(g.sub(centre, repeated))
    unwanted = g.scale(g.square(repeated), _REPEAT_WEIGHT)
    return g.div(wanted, g.shift(g.add(wanted, unwanted), _EPSILON))


def _close_frames(g: GraphBuilder) -> Tensor:
    """Return the mask of frames that are too close for a comparison (small |t - u|), `(frames, frames)`."""
    frames = g.op("Gather", g.op("Shape", "input"), g.constant(3, np.int64), axis=0)
    indices = g.op("Range", g.constant(0, np.int64), frames, g.constant(1, np.int64))
    position = g.op("Cast", indices, to=TensorProto.FLOAT)
    across, down = g.op("Unsqueeze", position, g.integers(0)), g.op("Unsqueeze", position, g.integers(1))
    return g.op("Less", g.op("Abs", g.sub(across, down)), g.constant(_CLOSE_FRAMES + 0.5))


def _attention(g: GraphBuilder, side: Tensor) -> Tensor:
    """Return `p(t, u)` of the module's formula, with u along axis 1 and t along axis 2; each column sums to 1."""
    key = g.op("Squeeze", g.sqrt(side), g.integers(1))
    length = g.sqrt(g.op("ReduceSum", g.square(key), g.integers(1), keepdims=1))
    unit = g.div(key, g.shift(length, _EPSILON))
    similarity = g.op("MatMul", g.op("Transpose", unit, perm=[0, 2, 1]), unit)
    logits = g.op("Where", _close_frames(g), g.constant(-1e4), g.scale(similarity, _SHARPNESS))
    return g.op("Softmax", logits, axis=1)


def _repeated(g: GraphBuilder, centre: Tensor, weights: Tensor) -> Tensor:
    """Return `min(B, C)` of the module's formula, `(batch, 1, bins, frames)`; a floor keeps the logarithm finite."""
    mean = g.op("ReduceMean", centre, axes=[1, 2, 3], keepdims=1)
    floor = g.shift(g.scale(mean, _LOG_FLOOR), _EPSILON)
    logarithm = g.op("Squeeze", g.op("Log", g.add(centre, floor)), g.integers(1))
    average = g.op("Exp", g.op("Unsqueeze", g.op("MatMul", logarithm, weights), g.integers(1)))
    return g.op("Min", g.op("Relu", g.sub(average, floor)), centre)


def write_demo_model(model_dir: Path) -> Path:
    """Write the model, and its entries in the lists of `audio-separator`, into `model_dir`; return the model's path.

    The bytes are the same each time. Models and entries that the folder already holds are kept.

    Raises:
        ValueError: a list in the folder is not a JSON object.
        OSError: the folder cannot be written.
    """
    model = build_model().SerializeToString(deterministic=True)
    return install_mdx_model(model_dir, DEMO_MODEL_NAME, model, _PARAMETERS)


def main() -> None:
    """Write the demo model into the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Write the demo model and its lists into a model folder.")
    parser.add_argument("directory", type=Path)
    print(write_demo_model(parser.parse_args().directory))  # noqa: T201


if __name__ == "__main__":
    main()
