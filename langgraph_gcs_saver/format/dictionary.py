"""The compression dictionary of format 1: bytes that small values have in common.

The dictionary is part of the format, so it can never change; only a new format can bring a new one. Manifests and
single messages are short and consist mostly of the same words. With these words as a raw-content dictionary, a chat
step's manifest takes 480 bytes instead of 660. The order matters a little, because bytes near the end are cheaper to
refer to.
"""

from __future__ import annotations

_MESSAGES = (
    b"\x91\x94\xbelangchain_core.messages.system\xadSystemMessage\x86\xa7content\xb1additional_kwargs\x80"
    b"\xb1response_metadata\x80\xa4type\xa6system\xa4name\xc0\xa2id\xb3model_validate_json"
    b"\x94\xbclangchain_core.messages.tool\xabToolMessage\x89\xa7content\xb1additional_kwargs\x80"
    b"\xb1response_metadata\x80\xa4type\xa4tool\xa4name\xa2id\xactool_call_id\xa8artifact\xc0\xa6status\xa7success"
    b"\xb3model_validate_json"
    b"\x94\xbalangchain_core.messages.ai\xa9AIMessage\x89\xa7content\xd9\xda\xb1additional_kwargs\x80\xb1response_metadata"
    b"\x80\xa4type\xa2ai\xa4name\xc0\xa2id\xd9$\xaatool_calls\x91\x84\xa4name\xa4args\x81\xa2id\xa4type\xa9tool_call"
    b"\xb2invalid_tool_calls\x90\xaeusage_metadata\x83\xacinput_tokens\xadoutput_tokens\xactotal_tokens"
    b"\xb3model_validate_json"
    b"\x91\xc8\x94\xbalangchain_core.messages.ai\xa9AIMessage\x89\xa7content\xda\xb1additional_kwargs\x80"
    b"\xb1response_metadata\x80\xa4type\xa2ai\xa4name\xc0\xa2id\xd9$\xaatool_calls\x90\xb2invalid_tool_calls\x90"
    b"\xaeusage_metadata\xc0\xb3model_validate_json"
    b"\x91\xc8\x94\xbdlangchain_core.messages.human\xacHumanMessage\x86\xa7content\xda\xb1additional_kwargs\x80"
    b"\xb1response_metadata\x80\xa4type\xa5human\xa4name\xc0\xa2id\xd9$\xb3model_validate_json"
)

_WRITES = (
    b"\x91\x02\x93\xaflanggraph.types\xa9Interrupt\x83\xa5value\xa2id\xd9 \xafresponse_schema\xc0"
    b"\x01\x93\xaflanggraph.types\xa4Send\x92"
    b'{"path":"~__pregel_push, 0","writes":[[0,"__pregel_tasks","msgpack",'
    b'{"path":"~__pregel_pull, agent","writes":[[-1,"__error__","msgpack",'
    b'{"path":"~__pregel_pull, __start__","writes":[[-3,"__interrupt__","msgpack",'
    b'{"task":"{"path":"~__pregel_pull, __start__","writes":[[0,"messages","msgpack",1],[1,"branch:to:","null",0]]}'
)

_MANIFEST = (
    b"\x84\xa6source\xa6update\xa4fork\xa5input\xa4loop\xa4step\xa7parents\x81\xa0\xd9$\xa6run_id\xd9$\xacthread_id"
    b'{"checkpoint":{"v":4,"ts":"2026-01-01T00:00:00.000000+00:00","pending_sends":[],"channel_versions":{"__start__":'
    b'"00000000000000000000000000000001.0000000000000000","messages":"00000000000000000000000000000002.1",'
    b'"branch:to:agent":"00000000000000000000000000000003.1","branch:to:tools":"00000000000000000000000000000003.2"},'
    b'"versions_seen":{"__input__":{},"__interrupt__":{"__start__":"0"},"__start__":{"__start__":"'
    b'00000000000000000000000000000001.2"},"agent":{"branch:to:agent":"00000000000000000000000000000002.3"},"tools":{'
    b'"branch:to:tools":"0"}},"updated_channels":["branch:to:","messages","__start__"]},"parent":"1f1e0000-0000-6000-8000-'
    b'","metadata":["msgpack",31],"channels":{"branch:to:agent":{"type":"null","sha256":"'
    b'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"chain":[]},"__start__":{"type":"msgpack",'
    b'"sha256":"","size":100,"chain":[{"k":0,"stored":100}]},"messages":{"type":"msgpack","sha256":"","size":1000,"chain":['
    b'{"k":0,"in":"1f1e0000-","stored":10000,"gcs":"","crc32c":"==","size":100000,"digest":""},{"k":1,"in":"1f1e0000-",'
    b'"stored":100,"size":10000,"digest":""},{"k":2,"stored":100}]}}}\x82\xa6source\xa4loop\xa4step\xcd\xa7parents\x80'
)

DICTIONARY = _WRITES + _MESSAGES + _MANIFEST
"""The dictionary of every full frame whose value is smaller than `BELOW`."""

BELOW = 16 << 10
"""Values of at least this many bytes have no dictionary, so any zstd tool can read their full frames."""
