"""Drawing: a flow as Mermaid text and as a PNG, from the flow alone."""

import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from graph.canvas import text_width
from graph.draw import mermaid, png
from graph.drawing import Drawing, Edge, Node
from graph.flow import Flow
from graph.layers import Box, Link, arrange
from graph.loader import load_flow, parse_flow, shipped_flows
from graph.picture import paint
from graph.sketch import sketched
from nodes.spec import Agent, Branch, Stage

REPOSITORY = Path(__file__).parents[1]

DESK = {"desk": Agent(url="http://desk:1"), "night": Agent(url="http://night:2")}

SMALL = Flow(
    flow="small",
    version=2,
    about="Two stages.",
    waits_for="caller",
    agents=DESK,
    stages={
        "hello": Stage(about="Say hello.", intents={"greet": "desk", "ask": "night"}),
        "work": Stage(id=7, agent="night", effect="write"),
    },
    fallback="desk",
)


def test_a_flow_is_a_flowchart() -> None:
    assert (
        mermaid(SMALL)
        == """\
%% small, version 2
flowchart TD
    start(["start"]):::start
    stage1["<b>1 hello</b><br/><i>Say hello.</i><br/>greet → desk<br/>ask → night"]:::stage
    stage2["<b>7 work</b><br/>effect: write<br/>→ night"]:::write
    finish(["end"]):::finish
    fallback["<b>fallback</b><br/>unknown → desk"]:::aside
    start --> stage1
    stage1 --> stage2
    stage2 --> finish
    stage1 -.->|"unknown"| fallback
    classDef start,finish fill:#0f172a,color:#ffffff,stroke:#0f172a
    classDef stage fill:#ffffff,color:#0f172a,stroke:#64748b
    classDef write fill:#fff7ed,color:#0f172a,stroke:#c2410c,stroke-width:3px
    classDef aside fill:#f1f5f9,color:#0f172a,stroke:#64748b,stroke-dasharray:4
"""
    )


def test_words_of_mermaid_and_html_are_only_words() -> None:
    about = '<b>"bold"</b> & #35; `code` %%{init}%% $$x$$ a\\nb\n] --> c'
    flow = Flow(
        flow="end", agents=DESK, stages={"class": Stage(about=about, agent="desk"), "click": Stage(agent="night")}
    )
    assert mermaid(flow).splitlines()[2:9] == [
        '    start(["start"]):::start',
        '    stage1["<b>1 class</b><br/><i>#lt;b#gt;#quot;bold#quot;#lt;/b#gt; #amp; #35;35; #96;code#96; '
        "#37;#37;{init}#37;#37; #36;#8203;#36;#8203;x#36;#8203;#36;#8203; a#92;#8203;nb ] --#gt; c</i>"
        '<br/>→ desk"]:::stage',
        '    stage2["<b>2 click</b><br/>→ night"]:::stage',
        '    finish(["end"]):::finish',
        "    start --> stage1",
        "    stage1 --> stage2",
        "    stage2 --> finish",
    ]  # fmt: skip


EVERY_KIND = """\
flow: report
agents:
  loader: {url: "http://loader:1", attempts: 3, fallback: archive}
  archive: {url: "http://archive:2"}
  analyst: {url: "http://analyst:3"}
inputs: [company]
stages:
  load:
    agent: loader
    output: {filings: filings}
    on_error: [{when: "answer.error.type == 'timeout'", goto: load, at_most: 2}, {goto: end}]
  figures: {map: {over: filings, agent: analyst, at_once: 5}, on_error: continue}
  analysis:
    about: Both sides.
    parallel:
      trend: {llm: {prompt: "How does {{ company }} do?", model: small}}
      risk: {agent: analyst}
  write: {llm: {prompt: Write it.}, repeat: {until: answer.text != '', at_most: 3}, on_error: fail}
  sign:
    ask: {question: "Is it good enough to be sent to everybody who has ever asked for it?", schema: {type: boolean}}
    next: [{when: answer.data == false, goto: write, at_most: 2}, {goto: send}]
  send: {agent: archive, effect: write, when: company != 'none'}
"""


def test_every_kind_of_stage_has_a_shape_of_its_own() -> None:
    assert (
        mermaid(parse_flow(EVERY_KIND, "report.yaml", {}))
        == """\
%% report, version 1
flowchart TD
    start(["start"]):::start
    stage1["<b>1 load</b><br/>→ loader, 3 attempts, else archive"]:::stage
    stage2[["<b>2 figures</b><br/>each of filings → analyst<br/>at most 5 at once<br/>on error it goes on"]]:::stage
    subgraph stage3["<b>3 analysis</b><br/><i>Both sides.</i><br/>all 2 at once"]
        stage3_1{{"<b>trend</b><br/>→ small"}}:::model
        stage3_2["<b>risk</b><br/>→ analyst"]:::stage
        stage3fork((" ")):::joint --> stage3_1 & stage3_2
        stage3_1 & stage3_2 --> stage3join((" ")):::joint
    end
    class stage3 stage
    stage4{{"<b>4 write</b><br/>→ the model<br/>on error the run ends"}}:::model
    stage5[/"<b>5 sign</b><br/>“Is it good enough to be sent to everybody who has ever aske…” → a person"/]:::person
    stage6["<b>6 send</b><br/>effect: write<br/>→ archive<br/>skipped unless company != 'none'"]:::write
    finish(["end"]):::finish
    start --> stage1
    stage1 --> stage2
    stage1 -.->|"on error, answer.error.type == 'timeout', at most 2"| stage1
    stage1 -.->|"on error"| finish
    stage2 --> stage3
    stage3 --> stage4
    stage4 -.->|"until answer.text != '', at most 3"| stage4
    stage4 --> stage5
    stage5 -->|"answer.data == false, at most 2"| stage4
    stage5 --> stage6
    stage6 --> finish
    classDef start,finish fill:#0f172a,color:#ffffff,stroke:#0f172a
    classDef stage fill:#ffffff,color:#0f172a,stroke:#64748b
    classDef write fill:#fff7ed,color:#0f172a,stroke:#c2410c,stroke-width:3px
    classDef model fill:#f5f3ff,color:#0f172a,stroke:#6d28d9
    classDef person fill:#f0fdf4,color:#0f172a,stroke:#15803d
    classDef joint fill:#64748b,color:#64748b,stroke:#64748b
    classDef aside fill:#f1f5f9,color:#0f172a,stroke:#64748b,stroke-dasharray:4
"""
    )


BY_NEEDS = """\
flow: by_needs
agents: {desk: {url: "http://desk:1"}}
stages:
  last: {agent: desk, needs: [left, right]}
  first: {agent: desk}
  left: {agent: desk, needs: [first]}
  right: {agent: desk, needs: [first], when: input_message != ''}
  alone: {agent: desk}
"""


def test_where_needs_make_the_order_only_they_are_drawn() -> None:
    drawn = mermaid(parse_flow(BY_NEEDS, "by_needs.yaml", {}))
    names = dict(re.findall(r"(stage\d)\[\"<b>\d (\w+)</b>", drawn))
    edges = {tuple(names.get(end, end) for end in edge) for edge in re.findall(r"(\w+) --> (\w+)", drawn)}
    assert list(names.values()) == ["first", "alone", "left", "right", "last"]
    assert edges == {
        *(("start", "first"), ("start", "alone"), ("first", "left"), ("first", "right")),
        *(("left", "last"), ("right", "last"), ("last", "finish"), ("alone", "finish")),
    }


def colours(flow: Flow) -> dict[str, int]:
    pixels = opened(png(flow)).convert("RGB").tobytes()
    names = {"write": "fff7ed", "model": "f5f3ff", "person": "f0fdf4"}
    return {name: pixels.count(bytes.fromhex(colour)) for name, colour in names.items()}


def test_every_kind_of_stage_has_a_colour_of_its_own() -> None:
    assert all(count > 1000 for count in colours(parse_flow(EVERY_KIND, "report.yaml", {})).values())
    assert not any(colours(parse_flow(BY_NEEDS, "by_needs.yaml", {})).values())


def test_many_branches_stand_in_several_rows() -> None:
    def size(branches: int) -> tuple[int, int]:
        parallel = {f"branch{number}": Branch(agent="desk") for number in range(branches)}
        return opened(png(Flow(flow="wide", agents=DESK, stages={"all": Stage(parallel=parallel)}))).size

    assert size(5)[0] < size(100)[0] < 1.1 * size(5)[0]
    assert size(100)[1] > 10 * size(5)[1] / 3


def test_a_flow_of_a_thousand_stages_by_needs_is_sketched_at_once() -> None:
    stages = {f"stage{n}": Stage(agent="desk", needs=[f"stage{n + 1}"] if n < 999 else []) for n in range(1000)}
    drawing = sketched(Flow(flow="long", agents=DESK, stages=stages))
    assert [node.title for node in drawing.nodes][1:4] == ["stage999", "stage998", "stage997"]


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


def test_a_flow_is_a_picture_of_sensible_size() -> None:
    image = opened(png(load_flow("call", {})))
    assert image.format == "PNG"
    assert 1000 < image.width < 2000
    assert 2000 < image.height < 3000
    assert 20_000 < len(png(load_flow("call", {}))) < 300_000


@pytest.mark.parametrize("name", shipped_flows())
def test_every_flow_we_ship_is_drawn(name: str) -> None:
    flow = load_flow(name, {})
    drawn = mermaid(flow)
    assert all(f" {stage}</b>" in drawn for stage in flow.stages)
    assert opened(png(flow)).format == "PNG"


def test_the_same_flow_is_the_same_picture() -> None:
    assert png(SMALL) == png(SMALL)


def test_nothing_is_cut() -> None:
    image = opened(png(SMALL))
    inked = Image.eval(image.convert("L"), lambda light: 255 - light).getbbox()
    assert inked is not None
    assert min(inked[0], inked[1], image.width - inked[2], image.height - inked[3]) >= 60


def test_a_write_stage_is_marked_in_its_own_colour() -> None:
    def orange(flow: Flow) -> int:
        return opened(png(flow)).convert("RGB").tobytes().count(bytes.fromhex("fff7ed"))

    harmless = {**SMALL.stages, "work": Stage(id=7, agent="night")}
    assert orange(SMALL) > 1000
    assert orange(SMALL.model_copy(update={"stages": harmless})) == 0


def test_a_flow_with_long_and_foreign_words_is_painted() -> None:
    about = "<b>Ünïcode</b> 会話 \N{SLIGHTLY SMILING FACE} " * 40 + "w" * 500
    stages = {"s" * 64: Stage(id=10**14, about=about, intents={"i" * 64: "desk"}), "t": Stage(agent="night")}
    assert opened(png(SMALL.model_copy(update={"stages": stages, "about": about}))).width > 2000


def test_accents_that_the_font_lacks_are_left_out() -> None:
    assert text_width("Crème brûlée – für Łódź", 12) == text_width("Creme brulee - fur Lodz", 12)


def test_a_long_flow_does_not_take_all_memory() -> None:
    stages = {f"stage{number}": Stage(agent="desk") for number in range(150)}
    image = opened(png(SMALL.model_copy(update={"stages": stages})))
    assert image.height > 150 * 100
    assert image.width * image.height <= 60_000_000


def box(key: str) -> Node:
    return Node(key, key, rows=(("", "agent"),))


def test_branches_joins_loops_and_lonely_boxes_are_painted() -> None:
    nodes = (*map(box, "abcdef"), Node("x", "x", "aside", rows=(("unknown", "agent"),)))
    pairs = ["ab", "ac", "bd", "cd", "da", "dd", "ad", "ab", "de"]
    along = [Edge(pair[0], pair[1], f"{pair} {'or so ' * 10}") for pair in pairs]
    across = [Edge(key, "x", "unknown", True) for key in "bcf"]
    drawing = Drawing("branches", "", nodes, (*along, *across))
    assert opened(paint(drawing)).format == "PNG"


def apart(one: Box, other: Box) -> bool:
    return one.right <= other.left or other.right <= one.left or one.bottom <= other.top or other.bottom <= one.top


def test_neither_boxes_nor_labels_overlap_and_no_line_crosses_a_box() -> None:
    sizes = {name: (100.0 + 40 * place, 60.0 + 30 * (place % 3)) for place, name in enumerate("abcdefg")}
    pairs = ["ab", "ac", "ad", "be", "ce", "de", "ae", "ef", "fa", "eg", "af", "dg"]
    layout = arrange(
        sizes, [Link(pair[0], pair[1], (120.0, 18.0) if place % 2 else None) for place, pair in enumerate(pairs)]
    )
    everything = [*layout.boxes.values(), *(label for label in layout.labels if label)]
    for place, one in enumerate(everything):
        assert all(apart(one, other) for other in everything[:place])
    for pair, route in zip(pairs, layout.routes, strict=True):
        for name, other in layout.boxes.items():
            inside = [(x, y) for x, y in route if other.left < x < other.right and other.top < y < other.bottom]
            assert not inside, f"{pair} crosses {name}"


def test_a_line_leads_from_its_source_to_its_target() -> None:
    layout = arrange({"a": (100, 50), "b": (100, 50)}, [Link("a", "b"), Link("b", "a"), Link("b", "b")])
    down, up, loop = layout.routes
    first, second = layout.boxes["a"], layout.boxes["b"]
    assert (down[0][1], down[-1][1]) == (first.bottom, second.top)
    assert (up[0][1], up[-1][1]) == (second.top, first.bottom)
    assert (loop[0][0], loop[-1][0]) == (second.right, second.right)


MISSING = """
import sys
sys.modules[sys.argv[1]] = None  # as if it were not installed
from graph.draw import DrawError, mermaid, png
from graph.loader import load_flow
flow = load_flow("call", {})
assert "langgraph" not in sys.modules and "PIL" not in (name for name, module in sys.modules.items() if module)
assert mermaid(flow)
try:
    png(flow)
except DrawError as error:
    print(error)
"""


@pytest.mark.parametrize("package", ["PIL", "grandalf"])
def test_without_the_packages_that_paint_the_remedy_is_told(package: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", MISSING, package],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip install pillow grandalf" in ran.stdout
    assert package in ran.stdout
