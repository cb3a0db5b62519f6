"""`make bench-quality`: the quality of separated songs with known stems, with this engine and with audio-separator.

songs         generated songs in several styles
bells         a band of bells with long decays
folders       the user's own songs with their stems
contenders    this engine and audio-separator, each in its own process
scores        SDR, SI-SDR and SIR of a stem
rounds        the separation and the scores of every song with every contender
results       the scores
report        Markdown
"""
