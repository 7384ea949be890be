"""README, docs/ and examples/: blocks of code run or are parsed, links lead somewhere, the reference is whole."""

import ast
import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tools"))

import docs_blocks  # noqa: E402
import docs_commands  # noqa: E402
import docs_links  # noqa: E402
import docs_markdown  # noqa: E402
import docs_reference  # noqa: E402
from serving import wait_for  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from onnxpool.cli.commands import app  # noqa: E402
from onnxpool.errors import OnnxpoolError  # noqa: E402
from onnxpool.run.native_library import why_missing  # noqa: E402

PAGES = {page.relative_to(ROOT).as_posix(): page for page in docs_blocks.pages()}
ELSEWHERE = {"docs/python.md", "docs/atlas.md"}
"""Run by tests/test_public.py and tests/test_atlas.py."""
SAME = {"docs/index.md": "README.md"}
"""Pages whose Python is another's."""
NATIVE = {"docs/explanation/forms.md", "docs/tutorials/network.md"}
NEEDED = {"docs/tutorials/train.md": ["sklearn"], "docs/how-to/openvino.md": ["openvino"]}
SERVER = ["starlette", "uvicorn", "grpc", "PIL"]
RUN_BY_BASH = ("curl", "openssl")
ANY_STATUS = {"doctor"}
"""A sick machine makes no bad page."""


def running(name):
    return [block for block in docs_blocks.blocks(PAGES[name]) if block.runs and block.language in ("python", "sh")]


RUN = [name for name in PAGES if name not in (*ELSEWHERE, *SAME) and running(name)]
ALL = [(name, block) for name in PAGES for block in docs_blocks.blocks(PAGES[name])]


# --- blocks that run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of examples/files, gone to; what a page compiles stays out of other tests' sight."""
    shutil.copytree(ROOT / "examples" / "files", tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("nets", None)


def python(name, block, names):
    """Run it with the page's line numbers; ``print(...)  # text`` prints that text, other calls what they like."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile("\n" * (block.line - 1) + block.text, name, "exec"), names)
    said = [line.rpartition("  # ")[2] for line in block.text.splitlines() if re.match(r"\s*print\(.*  # ", line)]
    printed = iter(shown.getvalue().splitlines())
    lost = [line for line in said if line not in printed]  # in this order: each search goes on where the last one ended
    assert not lost, f"{name}:{block.line}: {shown.getvalue()}"


def words(line):
    """Its words, without what it sets for a command."""
    given = shlex.split(line, comments=True)
    return list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), given))


def shell(name, block):
    """Its commands of onnxpool in this process, those of others by bash; what installs is parsed alone."""
    for line in block.text.replace("\\\n", " ").splitlines():
        given = words(line)
        if not given or is_parsed_alone(given):
            continue
        if given[0] == "onnxpool":
            done = CliRunner().invoke(app, given[1:])
            assert given[1] in ANY_STATUS or done.exit_code == 0, f"{name}: {line}: {done.output}"
        else:
            assert given[0] in RUN_BY_BASH, f"{name}:{block.line}: does a test run {given[0]}?"
            subprocess.run(["bash", "-c", line], check=True, capture_output=True)


def is_parsed_alone(given):
    """Whether this line installs something, or does not end."""
    return given[0] in ("pip", "tools/demo") or given[:2] == ["onnxpool", "serve"]


@contextlib.contextmanager
def server(block, port):
    command = [sys.executable, "-m", *words(block.text.replace("8000", str(port)))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: process.poll() is not None or is_open(port))
        assert process.poll() is None, process.stderr.read()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


def is_open(port):
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def missing(block):
    needed = block.mark.removeprefix("needs: ").split() if block.mark.startswith("needs: ") else []
    return [one for one in needed if not (shutil.which(one) or find_spec(one))]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # PyTorch's exporter, of PyTorch
@pytest.mark.parametrize("name", RUN)
def test_the_blocks_of_a_page_run(name, folder):
    blocks = running(name)
    packages = NEEDED.get(name, []) + (SERVER if any(block.mark == "server" for block in blocks) else [])
    if gone := [package for package in packages if find_spec(package) is None]:
        pytest.skip(f"there is no {', '.join(gone)}")
    if name in NATIVE and why_missing() is not None:
        pytest.skip(why_missing())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"__name__": "page"}
    with contextlib.ExitStack() as stack:
        for block in blocks:
            moved = docs_blocks.Block(block.language, block.text.replace(":8000", f":{port}"), block.line, block.mark)
            if missing(block):
                continue
            if block.mark == "server":
                stack.enter_context(server(block, port))
            elif block.language == "python":
                python(name, moved, names)
            else:
                shell(name, moved)


# --- blocks that do not


def test_pages_that_show_the_same_are_the_same():
    for name, other in SAME.items():
        assert [block.text for block in running(name)] == [b.text for b in running(other) if b.language == "python"]


@pytest.mark.parametrize("name", sorted({name for name, block in ALL if block.language == "sh"}))
def test_commands_are_spelled_right(name):
    """Bash reads them, every option exists, and so does every tool and extra that they name."""
    commands = docs_commands.commands()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for block in docs_blocks.blocks(PAGES[name]):
        if block.language != "sh":
            continue
        subprocess.run(["bash", "-n", "-c", block.text], check=True, capture_output=True)
        for given in map(words, block.text.replace("\\\n", " ").splitlines()):
            if given[:1] == ["onnxpool"]:
                length = 3 if " ".join(given[:3]) in commands else 2
                command = commands[" ".join(given[:length])]
                with contextlib.suppress(OnnxpoolError):  # files that are not there; options that are not are click's
                    command.make_context(" ".join(given[:length]), given[length:])
            elif given and given[0].startswith("tools/"):
                assert os.access(ROOT / given[0], os.X_OK), given[0]
            for extra in re.findall(r"\[([\w,]+)\]", " ".join(given)) if "pip" in given else []:
                assert set(extra.split(",")) <= set(extras), extra


@pytest.mark.parametrize(("name", "block"), [pair for pair in ALL if pair[1].language == "python"])
def test_python_is_python(name, block):
    ast.parse(block.text, name)


def test_every_block_says_what_it_is_and_why_it_does_not_run():
    unknown = {"bash", "shell", "console", "py", "c++", "cc", "cs"}  # other spellings, which no test would run
    for name, block in ALL:
        assert block.language not in unknown, f"{name}:{block.line}"
        assert block.mark in ("", "server") or re.match(r"not run: \w|needs: \w", block.mark), f"{name}:{block.line}"


def test_the_block_in_cpp_compiles(tmp_path):
    """Against the header that tests/test_cpp.py finds; not linked, which that test does with the whole example."""
    from test_cpp import headers

    compiler = os.environ.get("CXX") or shutil.which("c++") or pytest.skip("no C++ compiler on this machine")
    (block,) = (block for block in docs_blocks.blocks(PAGES["docs/how-to/cpp.md"]) if block.language == "cpp")
    (tmp_path / "page.cpp").write_text(block.text, encoding="utf-8")
    command = [
        compiler,
        "-std=c++17",
        "-fsyntax-only",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-isystem",
        headers(),
        "page.cpp",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_block_in_rust_is_rust():
    """Parsed and laid out by rustfmt, where it is; the crate that it needs is not there to compile it."""
    (block,) = (block for block in docs_blocks.blocks(PAGES["docs/how-to/rust-csharp.md"]) if block.language == "rust")
    rustfmt = shutil.which("rustfmt") or pytest.skip("no rustfmt on this machine")
    done = subprocess.run([rustfmt, "--check"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- examples


@pytest.mark.parametrize(("path", "text"), docs_blocks.made().items(), ids=lambda part: getattr(part, "name", ""))
def test_examples_are_the_programs_of_the_pages(path, text):
    """So the tests above run them; ``python tools/docs_blocks.py`` writes them again."""
    assert path.read_text(encoding="utf-8") == text


def test_there_is_an_example_for_every_how_to_page():
    others = {
        "browser": "browser/index.html",
        "cpp": "cpp/pool.cc",
        "kubernetes": "server/kubernetes.yaml",
        "networks": "files/nets.py",
        "other-operators": "",  # needs a library of others
        "ray": "",  # one command
        "rust-csharp": "rust/src/main.rs",
        "serve": "server/compose.yaml",
    }
    have = {path.stem for path in docs_blocks.programs()} | set(others)
    assert {page.stem for page in (ROOT / "docs/how-to").glob("*.md")} - {"index"} == have
    assert all((ROOT / "examples" / path).exists() for path in others.values())
    for folder, language, file in (("rust", "rust", "src/main.rs"), ("csharp", "csharp", "Program.cs")):
        page = PAGES["docs/how-to/rust-csharp.md"]
        (block,) = (block for block in docs_blocks.blocks(page) if block.language == language)
        assert (ROOT / "examples" / folder / file).read_text(encoding="utf-8").endswith(block.text)


def test_the_notebooks_are_whole():
    for path in sorted((ROOT / "examples/notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert [cell for cell in cells if cell["cell_type"] == "code"], path
        assert all(
            "](../../docs/" in "".join(cell["source"]) or "](../" not in "".join(cell["source"]) for cell in cells
        )


# --- links


def anchors(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[`*\\]|\[|\]\(.*?\)", "", head).strip().lower() for head in heads)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", head)) for head in plain} | {""}


def broken(path):
    """Links of a Markdown file to files and headings that are not there; pages that the site makes are let be."""
    made = {f"reference/{name}.md" for name in (*docs_markdown.MODULES, "commands")}
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", path.read_text(encoding="utf-8"))):
        target, _, anchor = link.partition("#")
        if ":" in target:
            continue
        found = (path.parent / target).resolve() if target else path
        if path == ROOT / "docs/index.md" and target in made:  # the site's own first page
            continue
        if not found.exists() or (anchor and found.suffix == ".md" and anchor not in anchors(found)):
            yield f"{path.relative_to(ROOT)}: {link}"


def test_links_of_files_lead_somewhere():
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "custom_ops/README.md")]
    found += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/README.md")]
    assert [one for path in found for one in broken(path)] == []


def test_a_broken_link_of_the_site_is_found(tmp_path):
    right = '<a id="here"></a><a href="b.html#there"></a><img src="data:,"><a href="https://example.org"></a>'
    (tmp_path / "a.html").write_text(right)
    (tmp_path / "b.html").write_text('<h2 id="there"></h2><a href="a.html#here"></a>')
    assert docs_links.faults(tmp_path) == []
    (tmp_path / "b.html").write_text('<a href="a.html#gone"></a><a href="c.html"></a><script src="//cdn.org/x.js">')
    told = docs_links.faults(tmp_path)
    assert [sentence.partition(": ")[2] or sentence for sentence in told] == [
        "b.html#there names a heading that is not there",
        "b.html fetches //cdn.org/x.js",
        "a.html#gone names a heading that is not there",
        "c.html leads nowhere",
    ]


def test_twenty_questions_have_answers():
    text = PAGES["docs/questions.md"].read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*[?.]) \| \[.*?\]\((.*?)#(.*?)\) \|$", text, re.MULTILINE)
    assert len(rows) == 20
    for question, page, anchor in rows:
        assert anchor in anchors(ROOT / "docs" / page), question


# --- what the pages say


def test_the_readme_is_short():
    """Two screens for each topic, so that it is read."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 8192
    assert re.findall(r"^```sh\n(\S+)", text, re.MULTILINE)[0] == "tools/demo"
    assert "tools/check" not in text


def test_messages_stand_in_the_source():
    """Each piece between the dots of a message is said somewhere in the package."""
    said = []
    for path in (ROOT / "onnxpool").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                said.append("\0".join(part.value for part in node.values if isinstance(part, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    rows = re.findall(r"^\| `(.*?)` \|", PAGES["docs/reference/messages.md"].read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 30
    lost = [row for row in rows if not any(all(part in one for part in row.split(" … ")) for one in said)]
    assert lost == []


def test_the_reference_has_every_public_name():
    pages = docs_reference.pages()
    for module in docs_markdown.MODULES:
        text = pages[f"reference/{module}.md"]
        for name in docs_markdown.public(module):
            entry = re.search(rf"^#+ {name}\n\n(?:```python\n.*?```\n\n)?(\S)", text, re.MULTILINE | re.DOTALL)
            assert entry, f"{module}.{name} says nothing of itself"
            assert entry[1] != "#", f"{module}.{name} says nothing of itself"
        assert not re.search(r":(class|func|meth|mod|data|exc|attr):`", text), module


def test_the_methods_have_formula_and_source():
    """In the page of modules: what is computed, in a block, and where it was published."""
    sections = re.split(r"^## ", docs_reference.pages()["reference/nn.md"], flags=re.MULTILINE)[3:]
    assert len(sections) > 10
    for section in sections:
        if section.startswith("The networks that give logits"):
            continue
        assert "```text\n" in section, section[:60]
        assert "PyTorch" in section or re.search(r"Sources?: ", section), section[:60]


def test_the_page_of_methods_has_every_module():
    text = PAGES["docs/reference/methods.md"].read_text(encoding="utf-8")
    assert [name for name in docs_markdown.public("nn") if re.sub("[123]d$", "", name) not in text] == []


def test_every_option_says_what_it_does():
    page = docs_commands.page()
    assert page.count("\n## ") == len(docs_commands.commands())
    for name, command in docs_commands.commands().items():
        for one in command.params:
            assert getattr(one, "help", None) or one.name == "help", f"{name} {one.name}"
