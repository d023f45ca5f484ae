import pytest

from src.gisa.dataset.factbook.records import BY_KEY, facts_of
from src.launch.errors import InputError


@pytest.mark.parametrize(
    ("key", "shown", "values"),
    [
        ("capital", "Lima", ("Lima",)),
        ("capital", "Porto-Novo (constitutional capital); Cotonou (seat of government)", ()),
        ("area", "475,440 sq km", ("475,440",)),
        ("area", "1.267 million sq km", ()),
        ("peak", "Fako on Mont Cameroun 4,045 m", ("Fako on Mont Cameroun",)),
        ("height", "Fako on Mont Cameroun 4,045 m", ("4,045",)),
        ("coastline", "0 km (doubly landlocked)", ("0",)),
        ("borders", "Latvia 333 km; Russia 324 km", ("Latvia", "Russia")),
        ("borders", "Chad 1,116 km; DRC 11 km", ("Chad", "Democratic Republic of the Congo")),
        ("borders", "Russia (Kaliningrad Oblast) 209 km", ()),
        ("partners", "USA 12%, S. Korea 5% (2023)", ("United States", "South Korea")),
        ("income", "$41,500 (2024 est.)", ("41,500",)),
        ("inflation", "-0.1% (2024 est.)", ("-0.1%",)),
        ("tld", ".pe", (".pe",)),
        ("tld", ".gb (official, but rarely used)", ()),
        ("density", "19.3", ("19.3",)),
    ],
)
def test_values_are_taken_from_texts_of_the_usual_form_only(key, shown, values):
    assert BY_KEY[key].values(shown) == values


def test_the_sources_say_what_they_are_known_to_say(days):
    first, later = days
    assert first.values("Peru", "capital") == ("Lima",)
    assert set(first.values("Germany", "borders")) & set(first.values("Austria", "borders")) == {
        "Czechia",
        "Switzerland",
    }
    assert first.values("Gold", "number") == ("79",)
    assert first.values("Estonia", "unemployment") == ("6.4%",)
    assert later.values("Estonia", "unemployment") == ("7.9%",)


def test_a_day_without_a_snapshot_is_refused_with_those_that_there_are():
    with pytest.raises(InputError, match="no snapshot of 2020-01-01; there are: 2024-07-01, 2025-07-01"):
        facts_of("2020-01-01")
