"""`render` as it is called: values and their order, texts that YAML would misread, drift, and the one line for what cannot be rendered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner import __version__, cli
from sla_planner.rendering import Template

ROOT = Path(__file__).parents[2]

MISREAD = [
    "no",
    "1e3",
    "0x10",
    "08",
    "null",
    "~",
    "",
    " x ",
    "a: b",
    "# c",
    "{{ model }}",
    "'\"\\",
    "a\nb\r\n",
    "\t",
    "$(X)",
    "${X}",
    "<&>",
    "é😀\u2028",
]
UNPRINTED = "\x85\ufeff\x7f\uffff"  # kubectl reads these, but refuses to print them


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project, which is the working directory: one group of templates and the files that it lists."""
    group = tmp_path / "templates" / "trial"
    (group / "backends").mkdir(parents=True)
    (group / "values.yaml").write_text("backend: one\nmodel: small\nreplicas: 1\nspare: false\narguments: []\nlimits: {}\n")
    (group / "backends" / "one.yaml").write_text("model: of one\n")
    (group / "backends" / "two.yaml").write_text("model: of two\nreplicas: 2\n")
    (group / "many.yaml").write_text("replicas: 9\n")
    (group / "thing.yaml.j2").write_text("{% include '_body.yaml.j2' %}\n{% if spare %}\nspare: true\n{% endif %}\n")
    (group / "_body.yaml.j2").write_text(
        "backend: {{ backend | tojson }}\nmodel: {{ model | tojson }}\nreplicas: {{ replicas }}\n"
        "arguments: {{ arguments | tojson }}\nlimits: {{ limits | tojson }}\nversion: {{ version | tojson }}\n"
    )
    (group / "renders.yaml").write_text(
        "out/a.yaml: {template: thing}\nout/deep/b.yaml: {template: thing, values: [many.yaml], set: {backend: two, spare: true}}\n"
    )
    monkeypatch.chdir(tmp_path)
    return group


@pytest.fixture(scope="module")
def quoting(tmp_path_factory: pytest.TempPathFactory) -> Template:
    group = tmp_path_factory.mktemp("templates") / "trial"
    group.mkdir()
    (group / "values.yaml").write_text('text: ""\n')
    (group / "plain.yaml.j2").write_text("text: {{ text | tojson }}\n")
    return Template(group.parent, "plain")


def render(*arguments: str | Path) -> int:
    return cli.run(["render", *map(str, arguments)])


def shown(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, object]:
    """The document that is printed."""
    assert render(*arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document: dict[str, object] = yaml.safe_load(out)
    return document


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line on stderr."""
    assert render(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.strip()


class TestValues:
    def test_the_defaults(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        document = {"backend": "one", "model": "of one", "replicas": 1, "arguments": [], "limits": {}, "version": __version__}
        assert shown(capsys, "thing") == document

    def test_later_wins(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        Path("mine.yaml").write_text("model: mine\nreplicas: 5\n")
        assert shown(capsys, "thing", "--backend", "two")["model"] == "of two"
        files = shown(capsys, "thing", "--backend", "two", "--values", tree / "many.yaml", "--values", "mine.yaml")
        assert (files["backend"], files["model"], files["replicas"]) == ("two", "mine", 5)
        last = shown(capsys, "thing", "--values", "mine.yaml", "--set", "replicas=6", "--set", "replicas=7")
        assert (last["model"], last["replicas"]) == ("mine", 7)

    def test_a_file_may_choose_the_backend(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        Path("mine.yaml").write_text("backend: two\n")
        assert shown(capsys, "thing", "--values", "mine.yaml")["model"] == "of two"

    def test_each_kind(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert shown(capsys, "thing", "--set", 'arguments=[--x, "5"]')["arguments"] == ["--x", "5"]
        assert shown(capsys, "thing", "--set", "limits={cpu: 2}")["limits"] == {"cpu": 2}
        assert shown(capsys, "thing", "--set", "spare=true")["spare"] is True
        assert "spare" not in shown(capsys, "thing", "--set", "spare=false")

    @pytest.mark.parametrize("text", [*MISREAD, UNPRINTED])
    def test_a_text_stays_that_text(self, tree: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
        assert shown(capsys, "thing", "--set", f"model={text}")["model"] == text
        assert yaml.safe_load(Template(Path("templates"), "thing").render(values={"arguments": [text]}))["arguments"] == [text]

    @settings(max_examples=40, deadline=None)
    @given(text=st.text())
    def test_any_text(self, quoting: Template, text: str) -> None:
        assert yaml.safe_load(quoting.render(values={"text": text})) == {"text": text}

    def test_kubectl_reads_the_same_texts(self, tmp_path: Path) -> None:
        file = tmp_path / "graph.yaml"
        file.write_text(Template(ROOT / "templates", "disagg").render(values={"prefill_args": MISREAD}))
        (tmp_path / "kustomization.yaml").write_text("resources: [graph.yaml]\n")
        built = subprocess.run([Path(sys.executable).with_name("kubectl"), "kustomize", tmp_path], check=True, capture_output=True).stdout
        arguments = yaml.safe_load(built)["spec"]["services"]["prefill"]["extraPodSpec"]["mainContainer"]["args"]
        assert arguments[-len(MISREAD) :] == MISREAD


class TestFiles:
    def test_the_first_line_names_the_template(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        render("thing")
        first = capsys.readouterr().out.splitlines()[0]
        assert first.startswith("# Rendered from templates/trial/thing.yaml.j2 (")
        assert first.endswith("); edit the template")

    def test_its_digest_follows_values_and_parts(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def digest(*arguments: str) -> str:
            render("thing", *arguments)
            return capsys.readouterr().out.split("(")[1].split(")")[0]

        once = digest()
        assert digest() == once
        assert digest("--set", "model=other") != once
        body = tree / "_body.yaml.j2"
        body.write_text("# a comment\n" + body.read_text())
        assert digest() != once

    def test_into_a_file(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        render("thing")
        printed = capsys.readouterr().out
        assert render("thing", "--output", "mine.yaml") == 0
        assert Path("mine.yaml").read_text() == printed
        assert capsys.readouterr().out == ""

    def test_the_listed_ones_are_written_once(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert render() == 0
        assert capsys.readouterr().out == "wrote out/a.yaml\nwrote out/deep/b.yaml\n2 files, 2 changed\n"
        deep = yaml.safe_load(Path("out/deep/b.yaml").read_text())
        assert (deep["backend"], deep["replicas"], deep["spare"]) == ("two", 9, True)
        written = Path("out/a.yaml").stat()
        assert render() == 0
        assert capsys.readouterr().out == "2 files, 0 changed\n"
        assert Path("out/a.yaml").stat() == written

    def test_templates_elsewhere(self, tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        (tree.parents[1] / "below").mkdir()
        monkeypatch.chdir("below")
        assert render("--templates", "../templates") == 0
        assert (tree.parents[1] / "out" / "a.yaml").read_text().startswith("# Rendered from templates/trial/thing.yaml.j2 (")


class TestCheck:
    def test_what_is_committed_here_is_as_rendered(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        assert render("--check") == 0, capsys.readouterr().out

    def test_what_differs_is_shown_and_nothing_is_written(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        render()
        assert render("--check") == 0
        file = Path("out/a.yaml")
        changed = file.read_text().replace("replicas: 1", "replicas: 4")
        file.write_text(changed)
        capsys.readouterr()
        assert render("--check") == 1
        out, err = capsys.readouterr()
        assert "--- out/a.yaml (committed)\n+++ out/a.yaml (rendered)\n" in out
        assert "-replicas: 4\n+replicas: 1\n" in out
        assert err == "1 of 2 files have drifted; to render them anew: sla-planner render\n"
        assert file.read_text() == changed

    def test_a_file_that_is_not_there(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert render("--check") == 1
        assert "+++ out/deep/b.yaml (rendered)" in capsys.readouterr().out
        assert not Path("out").exists()

    def test_a_template_that_changed(self, tree: Path) -> None:
        render()
        (tree / "values.yaml").write_text((tree / "values.yaml").read_text().replace("spare: false", "spare: true"))
        assert render("--check") == 1

    def test_a_file_that_is_no_longer_listed(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        render()
        Path("out/old.yaml").write_text(Path("out/a.yaml").read_text())
        Path("out/hand.yaml").write_text("written: by hand\n")
        capsys.readouterr()
        assert render("--check") == 1
        assert capsys.readouterr().out == "out/old.yaml is rendered, but listed in no templates/*/renders.yaml: list it, or delete it\n"


class TestRequests:
    """What the reconciler would refuse is not written."""

    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ("ttft_ms=0", "spec.profilingConfig.config.sla.ttft"),
            ("isl=0", "spec.profilingConfig.config.sla.isl"),
            ("backend=vlm", "known: sglang, trtllm, vllm"),
            ("planner={adjustment_intervall: 30}", "the planner has no such setting, its value is 30; did you mean adjustment_interval?"),
            (f"name={'a' * 60}", "metadata.name"),
        ],
    )
    def test_a_value_that_makes_no_request(self, capsys: pytest.CaptureFixture[str], tmp_path: Path, setting: str, said: str) -> None:
        assert said in refused(capsys, "dgdr", "--templates", str(ROOT / "templates"), "--set", setting, "--output", str(tmp_path / "out.yaml"))
        assert not (tmp_path / "out.yaml").exists()


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["thign"], "error: no template is named 'thign'; did you mean thing?"),
            (["_body"], "error: no template is named '_body'; known: thing"),
            (
                ["thing", "--set", "modle=x"],
                "error: templates/trial/thing.yaml.j2 has no value 'modle'; did you mean model? (templates/trial/values.yaml)",
            ),
            (["thing", "--set", "model"], "error: --set model: no value; write NAME=VALUE"),
            (["thing", "--set", "replicas=two"], "error: replicas: 'two'; it must be a whole number, 0 or more"),
            (["thing", "--set", "replicas=-1"], "error: replicas: -1; it must be a whole number, 0 or more"),
            (["thing", "--set", "spare=1"], "error: spare: 1; it must be true or false"),
            (["thing", "--set", "arguments=--x"], "error: arguments: '--x'; it must be a list of texts, for example [--page-size, \"16\"]"),
            (["thing", "--set", "arguments=[5]"], 'error: arguments: [5]; it must be a list of texts, for example [--page-size, "16"]'),
            (["thing", "--set", "limits=2026-13-01"], "error: limits: '2026-13-01'; it must be a mapping"),
            (
                ["thing", "--set", "limits={a: 2026-11-01}"],
                "error: templates/trial/thing.yaml.j2: Object of type date is not JSON serializable; quote the value, or correct the template",
            ),
            (["thing", "--set", "limits=[: x"], "error: limits: '[: x'; it must be a mapping"),
            (["thing", "--backend", "../x"], "error: '../x' is no backend of templates/trial/thing.yaml.j2; known: one, two"),
            (["thing", "--check"], "error: --check compares the committed files, not one template; leave out thing"),
            (
                ["--backend", "two"],
                "error: values and --output belong to one template, and none is named; for example: sla-planner render disagg_planner",
            ),
            (
                ["thing", "--templates", "nowhere"],
                "error: no templates in nowhere; run this in a copy of the project, or name its folder with --templates",
            ),
            (["--templates", "nowhere"], "error: no templates in nowhere; run this in a copy of the project, or name its folder with --templates"),
        ],
    )
    def test_a_wrong_call_is_one_line(self, tree: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
        assert refused(capsys, *arguments) == said

    def test_a_value_of_another_kind_in_a_file(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        Path("mine.yaml").write_text("model: 1.0\n")
        assert refused(capsys, "thing", "--values", "mine.yaml") == "error: file mine.yaml: model: 1.0; it must be a text; in a file, quote it"
        Path("mine.yaml").write_text("no_such: 1\n")
        assert refused(capsys, "thing", "--values", "mine.yaml").startswith(
            "error: file mine.yaml: templates/trial/thing.yaml.j2 has no value 'no_such'; "
        )

    def test_a_name_of_two_templates(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = tree.with_name("other")
        other.mkdir()
        (other / "thing.yaml.j2").write_text("other: {{ x | tojson }}\n")
        (other / "values.yaml").write_text("x: 1\n")
        assert refused(capsys, "thing") == "error: 2 templates are named 'thing'; name one of other/thing, trial/thing"
        assert shown(capsys, "other/thing") == {"other": 1}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "a: {{ nothing | tojson }}\n",
                "templates/trial/thing.yaml.j2: 'nothing' is undefined; values are declared in templates/trial/values.yaml",
            ),
            ("a: 1\nb: {{ model\n", "templates/trial/thing.yaml.j2 line 2: unexpected end of template"),
            (
                "{% include '_' ~ model ~ '.yaml.j2' %}\n",
                "templates/trial/thing.yaml.j2: there is no part '_of one.yaml.j2'; correct the value that names it",
            ),
            ("a: {{ replicas + model }}\n", "templates/trial/thing.yaml.j2: unsupported operand type(s) for +: 'int' and 'str'; quote the value"),
            ("a: 2026-13-01\n", "templates/trial/thing.yaml.j2: what it renders is no YAML: month must be in 1..12; correct the template"),
            ("a: {{ model }}: b\n", "templates/trial/thing.yaml.j2: what it renders is no YAML: mapping values are not allowed here"),
        ],
    )
    def test_a_template_that_is_wrong(self, tree: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
        (tree / "thing.yaml.j2").write_text(text)
        assert refused(capsys, "thing").startswith(f"error: {said}")

    @pytest.mark.parametrize("row", ["thing", "{template: thing, vlaues: []}", "{values: []}"])
    def test_a_list_that_is_wrong(self, tree: Path, capsys: pytest.CaptureFixture[str], row: str) -> None:
        (tree / "renders.yaml").write_text(f"out/a.yaml: {row}\n")
        assert refused(capsys, "--check").startswith("error: file templates/trial/renders.yaml: out/a.yaml: ")

    def test_a_listed_file_whose_values_are_wrong_is_named(self, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tree / "renders.yaml").write_text("out/a.yaml: {template: thing, set: {replicas: x}}\n")
        assert refused(capsys).startswith("error: file templates/trial/renders.yaml: out/a.yaml: replicas: 'x'; it must be a whole number")
        assert not Path("out").exists()
