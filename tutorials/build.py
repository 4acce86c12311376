"""Execute notebooks, save their outputs, and make the pictures that stand for them elsewhere.

    python tutorials/build.py [tutorials/01_linear_regression.ipynb ...]

executes those notebooks, or all of them, with nbclient and ipykernel (of the extra `tutorials`). What changes
from run to run is left out: times, versions, the ids of cells.

The first figure of a cell tagged ``thumbnail`` is saved, small, as images/<notebook>.png, that of a cell
tagged ``image:<name>`` as it is, as images/<name>.png.
"""

import base64
import io
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
WIDTH = 360  # of a thumbnail, in pixels


def execute(path):
    """Execute a notebook in place and return it."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    client = NotebookClient(notebook, timeout=120, record_timing=False, resources={"metadata": {"path": HERE}})
    client.execute()
    notebook.metadata["language_info"] = {"name": "python"}
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i:02}"
    nbformat.write(notebook, path)
    return notebook


def pictures(notebook, name):
    """Give each picture of a notebook that is wanted elsewhere, by its name, with whether it is to be small."""
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag == "thumbnail" or tag.startswith("image:"):
                png = next(o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {}))
                picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
                yield picture, tag.removeprefix("image:") if tag != "thumbnail" else name, tag == "thumbnail"


def main(paths):
    """Execute the notebooks and save their pictures."""
    for path in paths:
        for picture, name, small in pictures(execute(path), path.stem):
            if small:
                size = WIDTH, round(WIDTH * picture.height / picture.width)
                picture = picture.resize(size, Image.Resampling.LANCZOS)
            few_colours = picture.quantize(64, dither=Image.Dither.NONE)
            few_colours.save(HERE / "images" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main([Path(arg) for arg in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")))
