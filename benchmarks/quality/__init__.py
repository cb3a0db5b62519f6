"""`make bench-quality`: how well models separate songs whose stems are known, with this engine and as audio-separator
has it.

songs         generated ones in several styles
bells         a band whose notes ring on
folders       songs of one's own, with their stems
contenders    who separates, each in a process of its own
scores        SDR, SI-SDR and SIR of a stem
rounds        every song through every contender
results       what comes of that
report        Markdown
"""
