"""The tuner: what `doit tune` does. Kernels of a model are lowered in other ways, run, compared and measured on the device here.

`calls` says how the model calls a kernel, `trials` makes the code of some of the ways to lower it, by its `makers`, and a module
that runs it, `rounds` runs that in a process of its own, compares and measures, `search` asks a library what to try next, and
`passes` shares the time among the kernels. In which ways a kernel can be lowered its backend says.
"""
