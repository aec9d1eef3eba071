"""Converts the colours of videos to BT.709, which the rest of the program takes for sRGB.

Videos name a matrix, primaries and a transfer function (ITU-T H.273). ffmpeg applies the matrix on its own.
It reads HDR (PQ, HLG) and wide gamuts as if they were BT.709, and they become pale.
"""

from dataclasses import dataclass

from lumiere.media.ffmpeg import has_filter

HDR = ("smpte2084", "arib-std-b67")  # PQ and HLG
# Transfer functions that displays treat like BT.709. Conversions between them would only change the contrast.
SDR = (
    "",
    *("bt709", "smpte170m", "smpte240m", "bt470m", "bt470bg", "gamma22", "gamma28"),
    *("iec61966-2-1", "iec61966-2-4", "bt1361e", "bt2020-10", "bt2020-12"),
)
PRIMARIES = ("bt709", "bt470m", "bt470bg", "smpte170m", "smpte240m", "film", "bt2020", "smpte431", "smpte432")
MATRICES = (
    *("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "ycgco"),
    *("bt2020nc", "bt2020c", "ictcp", "gbr"),
)
HD_LINES = 720  # from here on, videos that name no matrix are BT.709, below BT.601, as players assume
# Nits of reference white (ITU-R BT.2408), and the linear value above which highlights are compressed. SDR
# that was converted to HDR comes back unchanged below.
WHITE, KNEE = 203, 0.8


@dataclass(frozen=True)
class Colours:
    """Colour description of a video, in ffmpeg's names; empty where the file names none.

    Attributes:
        matrix: from RGB to luma and chroma.
        primaries: colours of red, green and blue.
        transfer: from light to samples.
    """

    matrix: str = ""
    primaries: str = ""
    transfer: str = ""


def bt709_filters(colours: Colours, lines: int, flags: str) -> list[str]:
    """Returns the ffmpeg filters that convert decoded frames to RGB of BT.709.

    HDR is tone-mapped, wider and narrower gamuts are converted, out-of-gamut colours are clipped.

    Args:
        colours: colour description of the video.
        lines: height of the video in pixels.
        flags: flags of the filter `scale`.

    Raises:
        ValueError: the transfer function or the primaries are not supported, or ffmpeg lacks a filter.
    """
    matrix = colours.matrix or ("bt709" if lines >= HD_LINES else "smpte170m")
    primaries = colours.primaries or ("bt2020" if colours.transfer in HDR else "bt709")
    if colours.transfer in SDR and primaries == "bt709" and matrix != "ictcp":
        guess = "" if colours.matrix else f":in_color_matrix={matrix}"
        return [f"scale=flags={flags}{guess}"]
    transfer = "bt709" if colours.transfer in SDR else colours.transfer
    if transfer not in ("bt709", "linear", *HDR) or primaries not in PRIMARIES or matrix not in MATRICES:
        raise ValueError(
            "the colours of the video are not supported: save it in BT.709 first; "
            f"received {matrix}/{primaries}/{colours.transfer or 'bt709'}."
        )
    for name in ("zscale", "tonemap"):
        if not has_filter(name):
            raise ValueError(
                f"the video is in HDR or a wide gamut, which this ffmpeg cannot convert without its filter "
                f"{name}: save it in BT.709 first."
            )
    source = f"min={matrix}:pin={primaries}:tin={transfer}"
    if transfer not in HDR:
        return [f"zscale={source}:m=gbr:p=bt709:t=bt709:r=full:f=bicubic", "format=gbrp"]
    return [
        f"zscale={source}:m=gbr:p=bt709:t=linear:npl={WHITE}:r=full:f=bicubic",
        "format=gbrpf32le",
        f"tonemap=mobius:param={KNEE}:desat=0",
        "zscale=p=bt709:t=bt709:m=gbr:r=full",
        "format=gbrp",
    ]
