"""Signal processing without I/O: segmentation, overlap-add, STFT, resampling."""
