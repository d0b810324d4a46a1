"""Files to samples: records, readers, decoders, the flow cache, datasets and loaders."""

import os

# OpenCV reads it once: an image of a few bytes may claim any size, and the memory is taken before anybody looks
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
