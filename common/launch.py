"""What `accelerate launch` asks a script for: honoured as a flag of ours, or refused by name.

accelerate writes its flags, and what the file of `accelerate config` says, into environment
variables before it starts a script. Nothing here imports torch or accelerate.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from common.errors import UserError

TRUE = ("1", "true", "t", "yes", "y", "on")
NOTHING = ("", "none", "0", "false", "f", "no", "n", "off")
ADVICE = "these networks fit on one GPU; use MULTI_GPU (--multi_gpu)"

# Switches that are refused -> what they stand for, and what to do.
REFUSED = {
    "ACCELERATE_USE_FSDP": ("FSDP", ADVICE),
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", ADVICE),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", ADVICE),
    "ACCELERATE_USE_TP": ("tensor parallelism", ADVICE),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("tensor, context or sequence parallelism", ADVICE),
    "ACCELERATE_USE_SAGEMAKER": ("SageMaker", "start the script on a machine of your own"),
    "ACCELERATE_DOWNCAST_BF16": ("bfloat16 in place of float32", "--mixed_precision bf16 is"),
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": ("one graph alone", "leave --dynamo_use_fullgraph out"),
    "ACCELERATE_DYNAMO_USE_DYNAMIC": ("--dynamo_use_dynamic", "shapes are found as they come"),
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": ("compilation of regions", "--compile is"),
}
# Variables that may only be absent or hold a value that asks for nothing.
UNKNOWN = {
    "ACCELERATE_GRADIENT_CLIPPING": "of the five only oass clips gradients (--clip_grad)",
    "ACCELERATE_FP8_BACKEND": "fp8 is not supported; choose from no, fp16, bf16",
}
PRECISIONS = ("no", "fp16", "bf16")


class Asked(NamedTuple):
    """A value for one of our settings, and the variable that asks for it."""

    value: Any
    variable: str


def asked_of_us(environment: Mapping[str, str] = os.environ) -> dict[str, Asked]:
    """Our setting -> what the environment asks of it; empty where a script is started by itself.

    Only what differs from the values that `accelerate launch` sets in any case: mixed precision
    "no", one step of accumulation, no compiler.

    Raises:
        UserError: names a variable that asks for what no script here has.
    """
    _refuse_unsupported(environment)
    asked: dict[str, Asked] = {}

    variable = "ACCELERATE_MIXED_PRECISION"
    precision = environment.get(variable, "").strip().lower()
    if precision not in ("", *PRECISIONS):
        raise UserError(f"{variable}={precision}: choose from {', '.join(PRECISIONS)}")
    if precision not in ("", "no"):
        asked["mixed_precision"] = Asked(precision, variable)

    variable = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
    steps = environment.get(variable, "").strip()
    if steps and not (steps.isdecimal() and int(steps) > 0):
        raise UserError(f"{variable}={steps}: must be a whole number from 1 on, as --grad_accum")
    if steps and int(steps) > 1:
        asked["grad_accum"] = Asked(int(steps), variable)

    variable = "ACCELERATE_DYNAMO_BACKEND"
    backend = environment.get(variable, "").strip().lower()
    if backend not in (*NOTHING, "inductor"):
        raise UserError(f"{variable}={backend}: --compile has the backend inductor alone")
    if backend == "inductor":
        asked["compile"] = Asked(True, variable)

    variable = "ACCELERATE_USE_CPU"
    if _is_on(environment.get(variable)):
        asked["cpu"] = Asked(True, variable)
    return asked


def _refuse_unsupported(environment: Mapping[str, str]) -> None:
    for variable, (name, advice) in REFUSED.items():
        if _is_on(environment.get(variable)):
            raise UserError(f"{variable}: {name} is not supported; {advice}")
    for variable, told in UNKNOWN.items():
        value = environment.get(variable, "").strip()
        if value.lower() not in NOTHING:
            raise UserError(f"{variable}={value}: {told}")

    variable = "ACCELERATE_DYNAMO_MODE"
    mode = environment.get(variable, "").strip().lower()
    if mode not in (*NOTHING, "default"):
        raise UserError(f"{variable}={mode}: --compile has the mode default alone")


def _is_on(value: str | None) -> bool:
    return (value or "").strip().lower() in TRUE


def given_by_launch(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a script that its launch gives, besides those of its command line.

    Args:
        defaults: every flag of the script and its default; others are left out.
        given: what the command line holds.
    Raises:
        UserError: launch and command line contradict each other, or see `asked_of_us`.
    """
    if "mixed_precision" not in defaults:  # no script of accelerate's
        return {}
    found = {}
    for name, asked in asked_of_us().items():
        if name not in defaults:
            continue
        if name not in given:
            found[name] = asked.value
        elif given[name] != asked.value:
            problem = f"{asked.variable} asks for {asked.value}, --{name} for {given[name]}"
            raise UserError(f"{problem}; leave one of the two out")
    return found
