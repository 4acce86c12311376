"""Execute notebooks, save their outputs, and make the pictures that stand for them.

    python tutorials/build.py [tutorials/01_linear_regression.ipynb ...]

executes those notebooks and recipes, or all, with nbclient and ipykernel (of the extra
`tutorials`). What changes from run to run is left out: times, versions, ids.
With ``--for-students FOLDER`` it writes notebooks without answers and outputs there.
In them ``...`` stands for what follows the last ``=``, ``:`` or ``return`` of a line
marked ``# yours``.
Figures have two pixels for each that is shown, so that they are sharp on any screen.

The first figure of a cell tagged ``thumbnail`` is saved, small, in images/ under the
notebook's name, that of a cell tagged ``image:<name>`` as it is, under that name.
"""

import base64
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
WIDTH = 640  # of a thumbnail, in pixels


def execute(path):
    """Execute a notebook in place and return it."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    client = NotebookClient(
        notebook,
        timeout=120,
        record_timing=False,
        extra_arguments=["--InlineBackend.figure_formats=retina"],
        resources={"metadata": {"path": HERE}},
    )
    client.execute()
    notebook.metadata["language_info"] = {"name": "python"}
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i:02}"
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            data.pop("application/vnd.jupyter.widget-view+json", None)  # needs a kernel
            if "image/png" in data:
                data["image/png"] = base64.b64encode(png(picture(data), 96)).decode()
    nbformat.write(notebook, path)
    return notebook


def picture(data):
    """Give the picture that an output holds."""
    return Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")


def png(image, colours):
    """Encode a picture of few colours, which takes a third of the space."""
    file = io.BytesIO()
    image.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        file, "png", optimize=True
    )
    return file.getvalue()


def save_pictures(notebook, name):
    """Save the pictures of a notebook that are wanted elsewhere."""
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag == "thumbnail" or tag.startswith("image:"):
                image = picture(
                    next(
                        o.data for o in cell.outputs if "image/png" in o.get("data", {})
                    )
                )
                if tag == "thumbnail":
                    size = WIDTH, round(WIDTH * image.height / image.width)
                    image = image.resize(size, Image.Resampling.LANCZOS)
                file = name if tag == "thumbnail" else tag.removeprefix("image:")
                (HERE / "images" / f"{file}.png").write_bytes(png(image, 96))


def draw(recipe):
    """Run a recipe and save its picture."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MPLBACKEND": "Agg"}
        subprocess.run(
            [sys.executable, recipe], cwd=folder, env=environment, check=True
        )
        for file in Path(folder).glob("*.png"):
            image = Image.open(file).convert("RGB")
            (HERE / "images" / "recipes" / file.name).write_bytes(png(image, 96))


def for_students(folder):
    """Write all notebooks without answers and outputs, and with the gaps to fill in."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
                cell.source = re.sub(
                    "^(.*(?: = |: |return )).+?(,?)  # yours$",
                    r"\1...\2  # yours",
                    cell.source,
                    flags=re.M,
                )
            cell.source = re.sub(
                "<details>.*?</details>\n*", "", cell.source, flags=re.S
            )
        nbformat.write(notebook, folder / path.name)


def main(paths):
    """Execute the notebooks and recipes and save their pictures."""
    for path in paths:
        if path.suffix == ".py":
            draw(path.resolve())
        else:
            save_pictures(execute(path), path.stem)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--for-students"]:
        sys.exit(for_students(Path(sys.argv[2])))
    everything = [*HERE.glob("*.ipynb"), *HERE.parent.glob("examples/recipes/*.py")]
    main([Path(arg) for arg in sys.argv[1:]] or sorted(everything))
