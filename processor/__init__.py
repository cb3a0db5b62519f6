"""The processor: fetches songs, decodes them, separates one at a time per child process, hands the stems off."""
