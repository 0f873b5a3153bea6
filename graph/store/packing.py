"""How checkpoints and steps are made small: each by itself, by what most of them have in common.

A few hundred bytes deflate to little less; with the words at hand that all of them consist of, to a third or less.
What is packed begins with the number of its dictionary; what is not, with a letter or a bracket: so it was kept
before there was this, and so it is where that is no shorter.
"""

import zlib

_LEVEL, _WINDOW, _MEMORY = 1, -12, 5
"""Deflate without header and checksum, over 4 KB and in little memory: more takes longer and gains nothing."""


class Packing:
    """One way to pack.

    Args:
        number: names the dictionary, 1 to 31.
        dictionary: what most of what is packed consists of. What is kept was packed with it, so it never changes:
            a better one gets a number of its own.
        longest: bytes; what is longer stays as it is: to pack it holds up everybody else.
    """

    def __init__(self, number: int, dictionary: bytes, *, longest: int) -> None:
        self._longest = longest
        self._mark = bytes([number])
        self._dictionary = dictionary

    def pack(self, plain: bytes) -> bytes:
        """Return what to keep."""
        if len(plain) > self._longest:
            return plain
        deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW, _MEMORY, zlib.Z_DEFAULT_STRATEGY, self._dictionary)
        packed = self._mark + deflate.compress(plain) + deflate.flush()
        return packed if len(packed) < len(plain) else plain

    def unpack(self, kept: bytes) -> bytes:
        """Return what was packed, or what was kept without that.

        Raises:
            ValueError: if it is not as we packed it.
        """
        if not kept.startswith(self._mark):
            return kept
        inflate = zlib.decompressobj(_WINDOW, self._dictionary)
        try:
            plain = inflate.decompress(kept[1:], self._longest)
        except zlib.error as error:
            raise ValueError(f"what is kept cannot be read: {error}") from error
        if not inflate.eof:
            raise ValueError("what is kept is cut off")
        return plain


CHECKPOINTS = Packing(
    1,
    b"\xa7context\x80\xa6passes\x80\xa5taken\x80\xa4done\x80\xa8branches\x80\xa5asked\x80\xa8requests\x90\xa9run_a"
    b"fter\x00\xacrun_began_at\xb82026-01-01T00:00:00.000Z\xa7task_id\xa0\xaaunanswered\xa0\xa5works\xc3\xa3url"
    b"\xa7http://msgpack:\x93\x87\xa1v\x04\xa2ts\xd9 2026-01-01T00:00:00.000000+00:00\xa2id\xd9$\xaechannel_values"
    b"\xde\x00\x12\xb0call_identify_id\xb1\xaaaccount_id\xa7\xa3eci\xa5\xabincarnation\xd9 \xa4flow\xa4call\xa5sta"
    b"ge\xa7\xabflow_digest\xb0\xafcurrent_flow_id\x06\xafcompleted_flows\x95\x01\x02\x03\x04\x05\xabis_complete"
    b"\xc3\xa3run\x01\xa5ended\xa9completed\xafsession_summary\x88\xb0call_identify_id\xb1\xaaaccount_id\xa7\xa3ec"
    b"i\xa5\xafcompleted_flows\x95\x01\x02\x03\x04\x05\xaastep_count\x05\xaastarted_at\xb82026-01-01T00:00:00.000Z"
    b"\xa8ended_at\xb82026-01-01T00:00:00.000Z\xa3run\x01\xafcurrent_flow_id\x04\xafcompleted_flows\x93\x01\x02"
    b"\x03\xabis_complete\xc2\xa3run\x01\xa5ended\xc0\xafsession_summary\xc0\xaastep_count\x05\xacremote_tasks\x84"
    b"\xa8\x81\xaacontext_id\xd9)\xaalast_agent\xa8\xaacreated_at\xb82026-01-01T00:00:00.000Z\xaaupdated_at\xb8202"
    b"6-01-01T00:00:00.000Z\xb0channel_versions\xde\x00\x1c\xa9__start__\x01\xadinput_message\x0b\xa6intent\x0b"
    b"\xa8metadata\x0b\xa3eci\x0b\xaaaccount_id\x03\xb0call_identify_id\x03\xabincarnation\x03\xa4flow\x03\xabflow"
    b"_digest\x03\xaacreated_at\x03\xa3run\x03\xa5stage\x0b\xafcurrent_flow_id\x0b\xafcompleted_flows\x0b\xabis_co"
    b"mplete\x0b\xa5ended\x0b\xafsession_summary\x0b\xa5steps\x0b\xaastep_count\x0b\xacremote_tasks\x0b\xaaupdated"
    b"_at\x0b\xaalast_agent\x0b\xb0branch:to:\x03\xadversions_seen\x87\xa9__input__\x80\xad__interrupt__\xde\x00"
    b"\x1c\xb0call_identify_id\x03\xaaaccount_id\x03\xa3eci\x0a\xabincarnation\x03\xadinput_message\x0a\xa6intent"
    b"\x0a\xa8metadata\x0a\xa9__start__\x01\xb2branch:to:\x03\xa4flow\x03\xa5stage\x09\xabflow_digest\x03\xafcurre"
    b"nt_flow_id\x09\xafcompleted_flows\x09\xabis_complete\x09\xa3run\x03\xa5ended\x09\xafsession_summary\x09\xaas"
    b"tep_count\x09\xacremote_tasks\x09\xaalast_agent\x09\xaacreated_at\x03\xaaupdated_at\x09\xa5steps\x09\xb0bran"
    b"ch:to:\x05\xa8\x81\xb0branch:to:\x02\xb0updated_channels\x9b\xafcompleted_flows\xafcurrent_flow_id\xa5ended"
    b"\xabis_complete\xaalast_agent\xacremote_tasks\xafsession_summary\xa5stage\xaastep_count\xa5steps\xaaupdated_"
    b"at\x83\xa6source\xa4loop\xa4step\x03\xa7parents\x80\xd9$",
    longest=8_192,
)
"""A checkpoint of a call, as LangGraph's serializer writes it."""

STEPS = Packing(
    2,
    b'"artifacts":"","branch":"","requests":[""],"skipped":[""],"tried":[{"agent":"","attempt":1,"type":"","messag'
    b'e":"","candidates":[{"url":"http://","version":""}],"fallback":true,"attempt":2,"agent_version":"","intent_c'
    b'onfidence":0.9,"intent_because":[""],"sums_up":true,"layout":{},"parts":[{"text":"","caller_message_id":"","'
    b'response_status":"error","ended":"failed","intent_source":"llm","intent_source":"triggers","intent_source":"'
    b'kept","next_flow_id":null,"is_complete":true,"run":1,"flow":"call","ended":"completed",{"number":1,"stage":"'
    b'","intent_flow_id":1,"intent":"","intent_source":"declared","input_message":"","agent":"","a2a_agent_url":"h'
    b'ttp://127.0.0.1:","message_id":"","response_status":"success","response_data":{"text":""},"timestamp":"2026-'
    b'01-01T00:00:00.000Z","duration_ms":1.0,"next_flow_id":2,"is_complete":false,"run":1,"flow":"call","timing":{'
    b'"queue_ms":0.0,"store_ms":1.0,"classify_ms":0.0,"agent_ms":1.0,"total_ms":1.0},"audit":{"hash":"","salts":{"'
    b'input_message":"","response_data":""}}}',
    longest=2_000,
)
"""A step, as JSON; a piece of a trail that goes to the archive holds 500 of them at most, no more than before."""
