"""`make bench-gpu`: audio-separator and this engine on a GPU, over networks of full size with random weights.

networks      the models, full size or small
variants      the contenders and their options
figures       the request and the answer of a worker
worker        a process with one variant: warm model, runs, figures
meter         energy, memory and utilisation of the device, by NVML
report        Markdown
"""
