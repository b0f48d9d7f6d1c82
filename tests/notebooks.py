"""Running the notebooks of docs/examples as a user opens them: from their own folder."""

from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def last_output(name: str) -> str:
    """What the last cell of a notebook prints; an error in any cell is raised."""
    import nbclient
    import nbformat

    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    resources = {"metadata": {"path": str(EXAMPLES)}}
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=resources
    )
    client.execute()
    return "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
