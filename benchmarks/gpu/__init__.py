"""`make bench-gpu`: audio-separator and this engine on a GPU, over networks of full size with random weights.

networks      the models, full size or small
variants      who is measured, and with which options
figures       what a worker is told, and what it answers
worker        a process with one of them: warm model, runs, figures
meter         energy, memory and use of the device, by NVML
report        Markdown
"""
