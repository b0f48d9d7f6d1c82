from common.aliases import one_module

one_module(__name__, "csl.src")
