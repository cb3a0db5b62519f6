"""The parts of file formats that ffmpeg's libraries do not check or do not return."""
