import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from src.launch.errors import InputError
from src.launch.overrides import errors_of_hydra, quoted, readable, unquoted


def read(argument):
    return OverridesParser.create().parse_override(argument).value()


@given(st.text(st.characters(exclude_characters="\r\n${}", exclude_categories=("Cs", "Cc"))))
def test_any_text_in_quotes_is_read_as_it_is(text):
    assert read(f"key={quoted(text)}") == text
    assert unquoted(quoted(text)) == text


@pytest.mark.parametrize(
    "text", ["/a b/x", "/a=b/x.ckpt", "/é/x", "it's", 'a"b', "/a(1)/[x]", "~/x", "<run>/x", "[1,2"]
)
def test_text_that_hydra_cannot_read_gets_quotes(text):
    assert read(readable(f"checkpoint={text}")) == text


@pytest.mark.parametrize(
    "argument", ["seed=1,2", "a=[1,2]", "a={b: c}", "a='x, y'", "a=null", "-m", "a=${b}", "a=/x/y.ckpt", "~a", "a=x y"]
)
def test_what_hydra_can_read_is_left_alone(argument):
    assert readable(argument) == argument


def test_the_parts_of_a_list_get_quotes_of_their_own():
    assert read(readable("logger.tags=[ünï, a=b,c d,1]")) == ["ünï", "a=b", "c d", 1]
    swept = readable("dataset.source.path=/é/a.csv,/x/b.csv", multirun=True)
    assert swept == 'dataset.source.path="/é/a.csv",/x/b.csv'
    assert readable("a=choice(é,b)", multirun=True) == "a=choice(é,b)"  # which Hydra will tell of


def test_a_comma_is_a_part_of_a_path_that_is_there_or_of_a_run_folder_and_else_begins_the_next_value(tmp_path):
    (tmp_path / "a,b").mkdir()
    assert read(readable(f"dataset.source.folder={tmp_path / 'a,b'}")) == str(tmp_path / "a,b")
    assert read(readable("hydra.run.dir=/x,y")) == "/x,y"
    assert readable(f"checkpoint={tmp_path / 'a,b'},x", multirun=True) == f"checkpoint={tmp_path / 'a,b'},x"


def test_a_file_in_the_way_of_the_run_folder_is_told_with_another_way():
    with (
        pytest.raises(InputError, match=r"Cannot write the run's files: .*'/x'.\nType  hydra.run.dir="),
        errors_of_hydra(),
    ):
        raise FileExistsError(17, "File exists", "/x")


def test_other_errors_are_let_through():
    with pytest.raises(ValueError, match="mine"), errors_of_hydra():
        raise ValueError("mine")
