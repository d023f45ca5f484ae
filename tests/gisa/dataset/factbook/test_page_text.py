import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.gisa.dataset.factbook.page_text import read_html

URL = "https://example.org/africa/index.html"


def test_tables_lists_headings_and_links_keep_their_shape():
    page = read_html(
        """<html><head><title>Index of
        Africa</title><style>p {}</style></head><body><nav><a href="/">Home</a></nav>
        <h1>Africa</h1><p>Two <b>bold</b>
        words<br>and<!-- comment --> more</p><p style="display: none">poison</p><p hidden>poison</p>
        <table><tr><th>Name</th><th>Area</th></tr>
        <tr><td><a href="../mali.html#top">Mali</a></td><td>1,240,192</td></tr></table>
        <ul><li>first</li><li></li><li>second</li></ul><script>poison()</script><footer>about</footer></body></html>""",
        URL,
    )
    assert page.title == "Index of Africa"
    assert page.text.split("\n") == [
        "# Africa",
        "Two bold words",
        "and more",
        "Name | Area",
        "[Mali](https://example.org/mali.html) | 1,240,192",
        "- first",
        "- second",
    ]


@pytest.mark.parametrize("link", ["#top", "javascript:alert(1)", "mailto:a@b.c", "http://[::1", "", "index.html"])
def test_links_that_lead_to_no_other_page_are_plain_text(link):
    assert read_html(f'<p>See <a href="{link}">this</a>.', URL).text == "See this."


@pytest.mark.parametrize("html", ["", "   ", "<!-- only -->", "<html>", "<title></title>", "\0", "<"])
def test_empty_pages_have_no_text(html):
    assert read_html(html, URL).text in ("", "<")


def test_reading_stops_where_told():
    assert 100 <= len(read_html("<p>word</p>" * 1000, URL, max_chars=100).text) < 140


@settings(max_examples=60)
@given(
    st.text(alphabet=st.characters(codec=None), max_size=80) | st.text(alphabet="<>/apbtrd='\"! -&;x#1", max_size=80)
)
def test_no_input_makes_it_raise(html):
    assert isinstance(read_html(html, URL).text, str)


@pytest.mark.parametrize(
    ("html", "rows"),
    [
        (
            "<table><tr><th rowspan=2>Country<th colspan=2>Area<tr><th>land<th>water<tr><td>Mali<td>1<td>2</table>",
            ["Country | Area | Area", "Country | land | water", "Mali | 1 | 2"],
        ),
        (  # a span from the right, one to the group's end, and one that no group lets through
            "<table><tbody><tr><td>a<td rowspan=0>b<tr><td>c<tr><td>d</tbody><tbody><tr><td>e</table>",
            ["a | b", "c | b", "d | b", "e"],
        ),
        (  # two spans over one another, and a place between them
            "<table><tr><td rowspan=3>a<td>b<td rowspan=2>c<tr><td>d<tr><td>e<td>f</table>",
            ["a | b | c", "a | d | c", "a | e | f"],
        ),
        ("<table><tr><td>a<td>b<tr><td colspan=100%>both<tr><td colspan=9>x<td>y</table>", None),
        (
            "<table><tr><th>Cities<td><p>Lima</p><p>Cusco</p><td>one<br>two<td><ul><li>x<li>y</ul></table>",
            ["Cities | Lima; Cusco | one; two | x; y"],
        ),
        (
            "<table><tr><td>Area<br>(km<sup>2</sup>)<td><ol><li>a<li>b</ol><td>-</table>",
            ["Area (km^2) | 1. a; 2. b | -"],
        ),
        ("<table><tr><td>a<td><tr><td><td>b<tr><td><td></table>", ["a |", "| b"]),
        ("<table><caption>Peaks</caption><tr><td>a</table>", ["Peaks", "a"]),
        ("<table><tr><td><pre>x\n  y</pre><td>b</table>", ["x; y | b"]),
        ("<td>a<td>b", ["a | b"]),
        (
            "<div role=grid><div role=rowgroup><div role=row><span role=columnheader aria-colspan=2>A</span></div>"
            "</div><p role=row><b role=rowheader>x</b><i role=gridcell><a href=/y role=cell>y</a></i></p></div>z",
            ["A | A", "x | [y](https://example.org/y)", "z"],
        ),
        # what lays out the page is no row
        (
            "<table><tr><td><h1>T</h1><p>x<p>y<td><table><tr><td>1<td>2<tr><td>3<td>4</table></table>",
            ["# T", "x", "y", "1 | 2", "3 | 4"],
        ),
        (
            "<table><tr><th><h4>Name</h4><th><h4># of <i>x</i></h4><tr><td>Peru<td>2</table>",
            ["Name | # of x", "Peru | 2"],
        ),
        (f"<table><tr><td>{'<p>word</p>' * 1000}<td>b</table>", [*["word"] * 1000, "b"]),
    ],
)
def test_a_table_is_a_line_a_row_with_its_spanning_cells_in_every_place(html, rows):
    lines = read_html(html, URL).text.split("\n")
    if rows is None:
        assert lines[:2] == ["a | b", " | ".join(["both"] * 10)]  # as wide as the widest row
    else:
        assert lines == rows


TABLES = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 99)), min_size=2, max_size=4),
    min_size=1, max_size=5,
)  # fmt: skip


@settings(max_examples=60)
@given(TABLES)
@example([[(0, 1, 36), (2, 2, 30)], [(2, 1, 57), (2, 1, 94)], [(0, 0, 1), (0, 2, 44)]])
def test_every_cell_stands_where_the_standard_places_it(rows):
    """Against the obvious reference: a grid filled cell by cell, the first free place of the row first."""
    grid = {}
    for y, row in enumerate(rows):
        x = 0
        for width, height, number in row:
            while (y, x) in grid:
                x += 1
            for down in range(min(height, len(rows) - y) if height else len(rows) - y):
                for right in range(max(width, 1)):
                    grid[y + down, x + right] = str(number)  # of two that overlap, the later one is shown
    cells = ("".join(f"<td colspan={width} rowspan={height}>{number}" for width, height, number in row) for row in rows)
    shown = read_html(f"<table><tr>{'<tr>'.join(cells)}</table>", URL).text.split("\n")
    for y, line in enumerate(shown):
        end = max(x for row, x in grid if row == y)
        assert line == " ".join(" | ".join(grid.get((y, x), "") for x in range(end + 1)).split())


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("10<sup>6</sup> m<sup>2</sup> Cl<sup>-</sup> e<sup>n + 1</sup>", "10^6 m^2 Cl^- e^(n + 1)"),
        ("CO<sub>2</sub> x<sub>i, j</sub>", "CO_2 x_(i, j)"),
        ("the 2<sup>nd</sup> and 3<sup>rd</sup> Foo<sup>TM</sup>", "the 2nd and 3rd FooTM"),
        ("1,234<sup>a</sup>", "1,234^a"),
        ('Lima<sup class="reference"><a href="#cite_note-1">[1]</a></sup>', "Lima"),
        ('Lima<sup><a href="#n">1</a></sup> Cusco<a href="#n"><sup>2</sup></a>', "Lima Cusco"),
        (f'Lima<sup><a href="{URL}#n">1</a></sup> Ica<sup><a href="index.html#n">2</a></sup>', "Lima Ica"),
        ("Lima<sup>[<i>citation needed</i>]</sup>", "Lima"),
        ("Lima<sup class='noprint Inline-Template'>[<a href=/wiki/W>citation needed</a>]</sup>", "Lima"),
        ("Lima<sup>[note 3]</sup> Cusco<sup>*</sup> Ica<sup>†</sup><sup role=doc-noteref>4</sup>", "Lima Cusco Ica"),
        ('Lima<a class="footnote-reference" href="#f">[1]</a>', "Lima[1]"),
        ("a<sup></sup>b", "ab"),
    ],
)
def test_superscripts_are_kept_apart_and_marks_of_footnotes_dropped(html, text):
    assert read_html(f"<p>{html}", URL).text == text


@pytest.mark.parametrize(
    ("html", "lines"),
    [
        ("<ol><li>a<li value=7>b<li>c</ol>", ["1. a", "7. b", "8. c"]),
        ("<ol start=3 type=i><li>a<li>b</ol><ol type=A start=26><li>a<li>b</ol>", ["iii. a", "iv. b", "Z. a", "AA. b"]),
        ("<ol reversed><li>c<li>b<li>a</ol>", ["3. c", "2. b", "1. a"]),
        ("<ol reversed start=10><li>a<li>b</ol>", ["10. a", "9. b"]),
        ("<ol reversed><li>a<li value=10>b<li>c</ol>", ["3. a", "10. b", "9. c"]),
        ("<ol reversed type=A><li>a<ol reversed><li>x<li>y</ol><li>b</ol>", ["B. a", "2. x", "1. y", "A. b"]),
        ("<ol><li>a<ul><li>x<li>y</ul><li>b</ol>", ["1. a", "- x", "- y", "2. b"]),
        ("<ul><li><p>a</p><p>more</p></li><li></li></ul>", ["- a", "more"]),
        ("<li>loose", ["- loose"]),
    ],
)
def test_items_of_lists_have_their_numbers(html, lines):
    assert read_html(html, URL).text.split("\n") == lines


def test_marks_of_where_a_word_may_be_parted_are_no_part_of_it():
    html = "<title>Bundes&shy;rat</title><p>Bundes&shy;rat&#8203;s <pre>Bundes\u00adrat</pre>"
    page = read_html(html, URL)
    assert (page.title, page.text) == ("Bundesrat", "Bundesrats\nBundesrat")


def test_marks_of_the_direction_of_writing_are_dropped_and_what_joins_letters_is_not():
    html = "<p>45&lrm; \u202b\u2067שלום\u2069\u202c&rlm;, 10&NoBreak;km, \u0645\u06cc\u200c\u062e"
    assert read_html(html, URL).text == "45 שלום, 10km, \u0645\u06cc\u200c\u062e"


def test_what_is_struck_out_does_not_read_as_valid():
    html = "<p>Price: <del>10</del><ins>12</ins> <s></s>EUR<p><strike>Lima <b>is</b></strike>"
    assert read_html(html, URL).text == "Price: ~~10~~12 EUR\n~~Lima is~~"


def test_what_is_hidden_until_it_is_found_is_read():
    assert read_html("<p hidden=until-found>found<p hidden=''>poison", URL).text == "found"


def test_preformatted_lines_stay_as_they_are():
    html = "<p>before<pre>\ndef f():\n    <b>return</b>  1\n\n----\n</pre>after"
    assert read_html(html, URL).text.split("\n") == ["before", "def f():", "    return  1", "----", "after"]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<aside class=infobox><a href=/1>Peru</a></aside>", "[Peru](https://example.org/1)"),
        (
            "<aside><table><tr><th>Capital<td><a href=/l>Lima</a></table></aside>",
            "Capital | [Lima](https://example.org/l)",
        ),
        ("<aside>A note.</aside>", "A note."),
        ("<aside><ul><li><a href=/1>One</a><li><a href=/2>Two</a></ul></aside>text", "text"),
    ],
)
def test_an_aside_is_kept_unless_it_only_leads_around_the_site(html, text):
    assert read_html(html, URL).text == text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("See <img alt=' Map of  Peru' src=x>.", "See [image: Map of Peru]."),
        ("a<img src=x><img alt=''>b", "ab"),
        ("<a href=/p><img alt=Peru></a>", "[Peru](https://example.org/p)"),
        ("<table><tr><td>open<td><img alt=Yes></table>", "open | [image: Yes]"),
    ],
)
def test_pictures_are_shown_by_the_text_in_their_place(html, text):
    assert read_html(html, URL).text == text


TEX = r'<annotation encoding="application/x-tex">{\displaystyle \frac{a}{b}}</annotation>'
WIKI = "<span style='display: none' class='mwe-math-mathml-inline mwe-math-mathml-a11y'>{}</span>"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<math><mi>m</mi><msup><mi>c</mi><mn>2</mn></msup></math>", "mc^2"),
        ("<math><mfrac><mn>1</mn><mrow><mi>n</mi><mo>+</mo><mn>1</mn></mrow></mfrac></math>", "1/(n+1)"),
        ("<math><msqrt><mi>x</mi></msqrt><msubsup><mi>a</mi><mn>1</mn><mn>2</mn></msubsup></math>", "sqrt(x)a_1^2"),
        (f"<math><semantics><mi>x</mi>{TEX}</semantics></math>", r"$\frac{a}{b}$"),
        ("<math alttext='x^2'><mi>x</mi></math>", "$x^2$"),
        (
            WIKI.format("<math alttext='{\\displaystyle y}'><mi>y</mi></math>")
            + "<img class=mwe-math-fallback-image-inline alt='{\\displaystyle y}'>",
            "$y$",
        ),
        ("<img class=mwe-math-fallback-image-inline alt='{\\displaystyle z}'>", "$z$"),
        (
            f"<span class=katex><span class=katex-mathml><math>{TEX}</math></span>"
            "<span class=katex-html aria-hidden=true>a b</span></span>",
            r"$\frac{a}{b}$",
        ),
        (
            "<span class=MathJax_Preview>a2</span><span class=MathJax id=M-1><nobr>a2</nobr><span class="
            "MJX_Assistive_MathML><math><mi>a</mi></math></span></span><script type=math/tex>a^2</script>",
            "$a^2$",
        ),
        (
            "<mjx-container class=MathJax><mjx-math class=MJX-TEX aria-hidden=true><mjx-c>a2</mjx-c></mjx-math>"
            "<mjx-assistive-mml><math><msup><mi>a</mi><mn>2</mn></msup></math></mjx-assistive-mml></mjx-container>",
            "a^2",
        ),
        ("<script type='math/tex; mode=display'>a<b</script><script>no()</script>", "$a<b$"),
    ],
)
def test_formulas_are_their_tex_or_one_line_of_mathml(html, text):
    assert read_html(html, URL).text == text


@pytest.mark.parametrize("depth", [256, 3_000, 100_000])
@pytest.mark.parametrize("tag", ["div", "b", "font"])
def test_no_text_is_lost_in_the_depth(tag, depth):
    assert read_html(f"<{tag}>" * depth + "deep" + f"</{tag}>" * depth + "<p>end", URL).text.split() == ["deep", "end"]


@pytest.mark.parametrize(
    "html",
    [
        "<p " + " ".join(f"a{number}=1" for number in range(60_000)) + ">",
        "<table><tr><td>x" * 20_000,
        "<sup>x" * 20_000,
        "<aside>x" * 20_000,
        "<a href=/x>y" * 20_000,
        "<ul><li>x" * 20_000,
        "<math>" + "<msup><mi>x</mi>" * 20_000,
        "<table>" + "<tr><td rowspan=60000 colspan=1000>x" * 2_000,
        "<font>" * 50_000 + "<p>" * 50_000,
        "<!--" * 100_000,
        "<p a='" * 50_000,
    ],
    ids=lambda html: html[:20],
)
def test_pages_made_to_cost_time_take_little(html):
    import time

    began = time.process_time()
    read_html(html, URL)
    assert time.process_time() - began < 10  # of one core, whatever else it does; quadratic ones take minutes


def test_a_link_over_a_part_of_the_page_keeps_its_lines_and_its_address():
    card = read_html("<a href=/x><h3>T</h3><p>d</p></a>", URL)
    assert card.text == "[### T d](https://example.org/x)"
    unclosed = read_html("<p>See <a href=/y>" + "<p>line</p>" * 9, URL).text.split("\n")
    assert unclosed.count("line") == 9
    assert "(https://example.org/y)" in unclosed[-1]


def test_links_start_from_the_base_that_the_page_names():
    assert read_html("<base href=/other/><a href=x>y</a>", URL).text == "[y](https://example.org/other/x)"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<a href=HTTP://Other.org/>y</a>", "[y](HTTP://Other.org/)"),
        ("<a href=' /a b?c d '>y</a>", "[y](https://example.org/a%20b?c%20d)"),
        ("<a href=/x aria-label='More on  Peru'><svg></svg></a>", "[More on Peru](https://example.org/x)"),
        ("<a href=/x title=Peru><img alt=''></a>", "[Peru](https://example.org/x)"),
        ("<a href=/x title=Flag>Peru</a> <a title=Peru href=#top></a>", "[Peru](https://example.org/x)"),
        ("<frameset><frame src=/menu name=menu><frame src=main.htm></frameset>",
         "[menu](https://example.org/menu)\n[frame](https://example.org/africa/main.htm)"),
        ("<pre><a href=..>Up</a>\n<a href='a b.csv'>a b.csv</a>   2026  1K\n</pre>",
         "[Up](https://example.org/)\n[a b.csv](https://example.org/africa/a%20b.csv)   2026  1K"),
        ("<pre><code>f(<a href=/x>y</a>)</code></pre><pre><a href=/x>a\n  b</a></pre>", "f(y)\na\n  b"),
        ("<map><area href=/n alt=North><area href=/s title=South><area alt=no></map>",
         "[North](https://example.org/n)\n[South](https://example.org/s)"),
    ],
)  # fmt: skip
def test_every_address_that_a_page_leads_to_is_shown(html, text):
    assert read_html(html, URL).text == text


def test_a_button_within_a_heading_is_the_heading():
    assert read_html("<h2><button>Is it far?</button></h2><button>Buy</button>", URL).text == "## Is it far?"
