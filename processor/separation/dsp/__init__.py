"""Signal processing: segmentation, overlap-add, STFT, resampling, running statistics."""
