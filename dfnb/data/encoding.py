"""What H.264 leaves of pictures."""

import io

import av
import numpy as np


def recompress(images: np.ndarray, quantiser: int) -> np.ndarray:
    """Images uint8 (n, h, w, 3) after H.264 with a constant quantiser (0 to 51; FF++'s c23 and c40 name theirs).

    Every image is coded by itself (no prediction from a neighbour), so it comes out the same in any company.
    """
    if not 0 <= quantiser <= 51:
        raise ValueError(f"the quantiser of H.264 lies in 0 to 51, got {quantiser}")
    height, width = images.shape[1:3]
    even = np.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # 4:2:0 halves the sides
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={
            "qp": str(quantiser), "g": "1", "threads": "1", "x264-params": "cpu-independent=1:ipratio=1"})
        stream.height, stream.width, stream.pix_fmt = *even.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for image in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        frames = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]
    return np.stack(frames)[:, :height, :width]
