"""The command lines of one script that its paper's README and its results print."""

from tests.e2e import printed


def commands_of(paper: str, script: str) -> list[list[str]]:
    """The arguments of every printed command of `script`, each once, without `...`.

    Commands with a shell's variable in them are left out: its value is not known here.
    """
    found: dict[tuple[str, ...], None] = {}
    commands = printed.of_readme(f"{paper}/README.md") + printed.of_results(paper)
    for command in commands:
        if command.program != ("file", script) or "$" in command.text:
            continue
        arguments = [word for word in command.arguments if word != "..."]
        found[tuple(arguments)] = None
    return list(map(list, found))
