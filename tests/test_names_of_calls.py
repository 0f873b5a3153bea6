"""Names of calls: injective and case-safe, whatever a client calls its calls."""

import asyncio

from hypothesis import example, given
from hypothesis import strategies as st

from graph.store.names import decode, encode, tag_of, tenant_of, thread_name, thread_of
from tests.desk import Place, thread

IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
ODD = ["a:b", "a,b", "{a}", "a}b", "*", "'\"", "Жалоба", "👋", "a", "A", "é", "e\u0301", "_", "~a", "a__b", "x" * 200]


@given(IDS, IDS, IDS, IDS)
@example("a", "_", "a_", "")
@example("a__b", "c", "a", "b__c")
def test_two_calls_never_share_a_name(tenant: str, call: str, other_tenant: str, other_call: str) -> None:
    one, other = thread_name(tenant, call), thread_name(other_tenant, other_call)
    assert (one.lower() == other.lower()) == ((tenant, call) == (other_tenant, other_call))


@given(IDS, IDS)
@example("_", "_")
def test_a_name_tells_its_tenant(tenant: str, call: str) -> None:
    assert tenant_of(thread_name(tenant, call)) == encode(tenant)


@given(IDS)
@example("~" + encode("A"))
def test_names_can_be_read_back(text: str) -> None:
    assert decode(encode(text)) == text
    assert thread_of(tag_of(text)) == text
    assert not set(tag_of(text)) & set("{}:*?[]\\, ")


def test_odd_ids_never_collide(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            for call in ODD:
                assert (await desk.turn(call, "greeting", call))["step"] == 1
            for call in ODD:
                assert (await desk.turn(call, "authenticate", call))["step"] == 2
                record = await desk.store.calls.read(thread(call))
                assert record is not None
                assert [step["input_message"] for step in record.steps] == [call, call]

    asyncio.run(story())
