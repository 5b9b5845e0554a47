"""A decoder that hostile media has got the better of: python hostile_decoder.py HOW [AND_STAY]."""

import os
import sys

import msgspec

encode = msgspec.msgpack.encode
OPENED = {"type": "opened", "duration": 1.0}
MISTAKE = {"code": "process.failed", "message": "It failed.", "fix": "See."}
ANSWERS = {
    "garbage": b"\xc1" * 1000,
    "text": b"Segmentation fault\n",
    "unknown_event": encode((2, "event", [{"type": "surprise"}])),
    "wrong_event": encode((2, "event", [{"type": "window", "index": "one"}])),
    "no_event": encode((2, "event", [])),
    "no_list": encode((2, "event", 7)),
    "bad_text": b"\x93\x02\xa5event\x91\x81\xa4type\xa1\xff",
    "bad_key": b"\x93\x02\xa5event\x91\x81\x80\x01",
    "wrong_result": encode((1, 0, None, {"duration": "long"})),
    "wrong_error": encode((1, 0, "no", None)),
    "mistake": encode((1, 0, {**MISTAKE, "data": {"traceback": "Traceback: the reason"}}, None)),
    "bad_result": b"\x94\x01\x00\xc0\xa1\xff",
    "huge_frame": b"\x93\x02\xa5event\xc6\xff\xff\xff\xff" + bytes(8_000_000),
    "half_a_frame": b"\x93\x02\xa5ev",
    "nothing": b"",
}


def main():
    os.read(0, 65536)  # the request
    os.write(2, b"Traceback: the reason")
    os.write(1, encode((2, "event", [OPENED])))
    answer = memoryview(ANSWERS[sys.argv[1]])
    while answer:
        answer = answer[os.write(1, answer) :]
    if len(sys.argv) > 2:
        os.read(0, 65536)


if __name__ == "__main__":
    main()
